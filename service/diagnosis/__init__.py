"""What is wrong with an install, in words: what ``likeness doctor --system`` asks.

Packages may be missing or broken, so nothing here imports more than the standard library and ``service.errors`` before
a check runs.
"""
