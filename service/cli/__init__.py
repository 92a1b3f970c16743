"""The ``likeness`` command."""
