"""The service: decode, detect, align, embed, compare, over HTTP. Never imports torch or ``models``."""

from importlib.metadata import version

__version__ = version("likeness")
