"""Published protocols of verification and identification, run through the same recognizer that serves."""
