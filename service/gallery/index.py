"""Which form of vector index a device has."""

from functools import partial

from service.errors import DeviceError
from service.gallery.faiss_library import faiss
from service.gallery.flat_index import FlatIndex
from service.gallery.gpu_index import GpuIndex, on_gpu
from service.gallery.vectors import VectorIndex


def make_index(dimension: int, device: str = "cpu") -> VectorIndex:
    """An empty index on ``device``: "cpu", "cuda" for the first GPU, or "cuda:1" for the second and so on.

    Raises:
        DeviceError: another device, or none of this kind that FAISS can use.
    """
    if device == "cpu":
        return FlatIndex(dimension)
    number = device.partition(":")[2]
    gpu = int(number) if number.isdecimal() else 0
    if device not in ("cuda", f"cuda:{gpu}") or gpu >= gpus():
        raise DeviceError(
            f"There is no search index for the device {device!r}: FAISS finds {gpus()} GPUs. Use 'cpu', or 'cuda' with "
            "the GPU set of packages (make setup DEVICE=gpu).",
            {"device": device, "gpus": gpus()},
        )
    return GpuIndex(dimension, partial(on_gpu, gpu=gpu))


def search_device(provider: str, gpu: int = 0) -> str:
    """Where searches run when networks are to run on ``provider``: on the same GPU, "auto" if FAISS can use it."""
    if provider == "cpu" or (provider == "auto" and gpu >= gpus()):
        return "cpu"
    return f"cuda:{gpu}" if gpu else "cuda"


def gpus() -> int:
    """How many GPUs FAISS can use; 0 with faiss-cpu."""
    return int(faiss.get_num_gpus())
