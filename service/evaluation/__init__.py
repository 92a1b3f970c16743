"""Published verification protocols, run through the same recognizer that serves."""
