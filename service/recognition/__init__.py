"""Photos to faces to embeddings, in numpy and OpenCV. Start reading at ``recognizer.py``."""
