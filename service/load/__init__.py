"""Drives a running service and says what it can take; knows it only over HTTP."""
