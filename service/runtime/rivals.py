"""Packages that own one module. Imports none of them."""

from collections.abc import Iterable
from importlib.metadata import distributions

# Whichever was installed last has overwritten parts of the other, and neither pip nor the import reports it.
RIVALS = (
    ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "onnxruntime-training"),
    ("faiss-cpu", "faiss-gpu", "faiss-gpu-cu11", "faiss-gpu-cu12"),
)


def installed_of(names: Iterable[str]) -> list[str]:
    """Those that are installed."""
    return [name for name in names if list(distributions(name=name))]
