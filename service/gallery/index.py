"""Which form of vector index a device has."""

from service.errors import DeviceError
from service.gallery.faiss_library import faiss
from service.gallery.flat_index import FlatIndex
from service.gallery.gpu_index import GpuIndex
from service.gallery.vectors import VectorIndex


def make_index(dimension: int, device: str = "cpu") -> VectorIndex:
    """An empty index on ``device``, "cpu" or "cuda".

    Raises:
        DeviceError: another device, or none of this kind that FAISS can use.
    """
    if device == "cpu":
        return FlatIndex(dimension)
    if device != "cuda" or not gpus():
        raise DeviceError(
            f"There is no search index for the device {device!r}: FAISS finds {gpus()} GPUs. Use 'cpu', or 'cuda' with "
            "the GPU set of packages (make setup DEVICE=gpu).",
            {"device": device, "gpus": gpus()},
        )
    return GpuIndex(dimension)


def search_device(provider: str) -> str:
    """Where searches run when networks are to run on ``provider``: "auto" takes a GPU if FAISS can use one."""
    if provider == "auto":
        return "cuda" if gpus() else "cpu"
    return provider


def gpus() -> int:
    """How many GPUs FAISS can use; 0 with faiss-cpu."""
    return int(faiss.get_num_gpus())
