"""ONNX Runtime's execution providers: their options, the libraries and the GPU they need, packages that spoil them."""

import ctypes
import hashlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, TypeAlias

import onnxruntime as ort

from service.errors import DeviceError
from service.runtime.rivals import RIVALS, installed_of

Provider = Literal["auto", "cpu", "cuda", "tensorrt"]
Options: TypeAlias = dict[str, str]

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
NAMES = {"cpu": CPU, "cuda": CUDA, "tensorrt": TENSORRT}
# What may compute where one was asked for, best first. What TensorRT cannot take stays on the GPU, with CUDA.
COMPUTES = {CPU: (CPU,), CUDA: (CUDA,), TENSORRT: (TENSORRT, CUDA)}

MIB = 1 << 20
# As the wheels of onnxruntime-gpu are linked; the plugins are loaded by it, the parser builds the network.
_TENSORRT_LIBRARIES = ("libnvinfer.so.10", "libnvinfer_plugin.so.10", "libnvonnxparser.so.10")


@dataclass(frozen=True)
class RuntimeOptions:
    """How networks are run.

    Attributes:
        provider: ``auto`` takes CUDA where it really works, else the CPU; any other is used or refused, never
            replaced.
        threads: intra-op threads of each network on the CPU; 0 takes one per core this process may use. One is
            the default: the cores are kept busy by several photos at once, while a second thread in a network helps
            only on an otherwise idle machine and, spinning, costs twice its time on a busy one.
        gpu: which GPU, as CUDA numbers them.
        gpu_memory_mib: ceiling of what the two networks may hold on the GPU, half for each; 0 for none.
        graphs: whether runs of shapes that come often are captured as CUDA graphs. Of such a session every run must
            say which graph it is, see ``device_buffers``.
        engines: folder in which TensorRT keeps what it has built; without one it builds at every start.
    """

    provider: Provider = "auto"
    threads: int = 1
    gpu: int = 0
    gpu_memory_mib: int = 4096
    graphs: bool = False
    engines: Path | None = None


@dataclass(frozen=True)
class Shapes:
    """Of a network's only input: the smallest, the most usual and the largest, for TensorRT to build for."""

    name: str
    smallest: tuple[int, ...]
    usual: tuple[int, ...]
    largest: tuple[int, ...]


def refuse_rivals() -> None:
    """
    Raises:
        DeviceError: two packages are installed over each other.
    """
    for rivals in RIVALS:
        installed = installed_of(rivals)
        if len(installed) > 1:
            raise DeviceError(
                f"{' and '.join(installed)} are both installed; they own the same module, and one has overwritten the "
                "other. Make the environment anew with one of the two: make clean, then make setup DEVICE=cpu or gpu.",
                {"installed": installed},
            )


def prepare(provider: str, gpu: int) -> str:
    """Load the libraries that ``provider`` needs; the name of the device.

    Raises:
        DeviceError: there is no such GPU, or a library is missing.
    """
    if provider == CPU:
        return "the CPU"
    name = gpu_name(gpu)
    # CUDA's libraries come as Python wheels, where the dynamic loader does not look by itself. What is missing is
    # printed, and must not get into a command's answer.
    with redirect_stdout(sys.stderr):
        ort.preload_dlls()
    if provider == TENSORRT:
        # TensorRT multiplies float32 in TF32, 10 bits of mantissa, unless told otherwise here before its first use;
        # ONNX Runtime has no option for it. The embeddings of a contract are those of float32.
        os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
        for library in _TENSORRT_LIBRARIES:
            _load(library)
    return name


def with_options(provider: str, options: RuntimeOptions, model: bytes, shapes: Shapes) -> list[tuple[str, Options]]:
    """All that may compute for ``provider``, with their options, as ``InferenceSession`` takes them."""
    make: dict[str, Callable[[], Options]] = {
        CPU: dict,
        CUDA: lambda: cuda_options(options),
        TENSORRT: lambda: tensorrt_options(options, model, shapes),
    }
    return [(name, make[name]()) for name in COMPUTES[provider]]


def cuda_options(options: RuntimeOptions) -> Options:
    """Memory within the ceiling, and the arithmetic of float32."""
    chosen = {
        "device_id": str(options.gpu),
        # By default the arena doubles whenever it grows.
        "arena_extend_strategy": "kSameAsRequested",
        # By default every convolution is timed in all its forms for each new shape of photo, which takes memory for
        # the most wasteful of them, and which one wins, and so the last bits of an embedding, differs between starts.
        "cudnn_conv_algo_search": "HEURISTIC",
        # TF32 has 10 bits of mantissa.
        "use_tf32": "0",
    }
    if options.graphs:
        chosen["enable_cuda_graph"] = "1"
    if options.gpu_memory_mib:
        chosen["gpu_mem_limit"] = str(options.gpu_memory_mib * MIB // 2)
    return chosen


def tensorrt_options(options: RuntimeOptions, model: bytes, shapes: Shapes) -> Options:
    """Float32, one engine for all shapes, kept on the disk."""
    chosen = {
        "device_id": str(options.gpu),
        "trt_fp16_enable": "False",
        "trt_bf16_enable": "False",
        "trt_int8_enable": "False",
        # Without them an engine is built for the first shape, and again whenever a photo has another.
        "trt_profile_min_shapes": _profile(shapes.name, shapes.smallest),
        "trt_profile_opt_shapes": _profile(shapes.name, shapes.usual),
        "trt_profile_max_shapes": _profile(shapes.name, shapes.largest),
    }
    if options.gpu_memory_mib:
        chosen["trt_max_workspace_size"] = str(options.gpu_memory_mib * MIB // 2)
    if options.engines:
        folder = engine_folder(options.engines, tensorrt_version(), gpu_name(options.gpu), model)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DeviceError(f"No folder for TensorRT's engines can be made: {folder}: {error.strerror}.") from error
        chosen |= {
            "trt_engine_cache_enable": "True",
            "trt_engine_cache_path": str(folder),
            # Measurements of single layers, which other networks may share.
            "trt_timing_cache_enable": "True",
            "trt_timing_cache_path": str(folder.parent),
        }
    return chosen


def engine_folder(engines: Path, version: str, gpu: str, model: bytes) -> Path:
    """``<engines>/<versions and GPU>/<sha256 of the network>``.

    The name that ONNX Runtime gives to an engine says nothing of the weights: in one folder a network that was trained
    anew would run as the old one. The network's file has its embedding contract in it, so its digest stands for both.
    """
    platform = re.sub(r"[^a-z0-9.]+", "-", f"ort-{ort.__version__}-trt-{version}-{gpu}".lower()).strip("-")
    return engines / platform / hashlib.sha256(model).hexdigest()


def tensorrt_version() -> str:
    """As in "10.14.1".

    Raises:
        DeviceError: the library is missing.
    """
    number = int(_load(_TENSORRT_LIBRARIES[0]).getInferLibVersion())
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def gpu_name(gpu: int) -> str:
    """What the driver calls a GPU.

    Raises:
        DeviceError: there is no driver, or no such GPU.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise DeviceError(f"There is no NVIDIA driver: {error}. Ask for 'cpu' where there is no GPU.") from error
    count, device, name = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(256)
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if status or not 0 <= gpu < count.value:
        raise DeviceError(
            f"GPU {gpu} was asked for, the NVIDIA driver shows {count.value} (status {status}). "
            "Set LIKENESS_GPU to one that it shows.",
            {"gpu": gpu, "gpus": count.value},
        )
    status = driver.cuDeviceGet(ctypes.byref(device), gpu) or driver.cuDeviceGetName(name, len(name), device)
    if status:
        raise DeviceError(f"GPU {gpu} cannot be used: the NVIDIA driver answers with status {status}.")
    return name.value.decode(errors="replace")


def _load(library: str) -> ctypes.CDLL:
    """TensorRT's libraries come as a Python wheel too, or with the system."""
    places = [library]
    if spec := find_spec("tensorrt_libs"):
        places = [str(Path(folder) / library) for folder in spec.submodule_search_locations or ()] + places
    reasons = []
    for place in places:
        try:
            return ctypes.CDLL(place, mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            reasons.append(str(error))
    raise DeviceError(f"TensorRT cannot be loaded: {'; '.join(reasons)}. See docs/gpu.md for what to install.")


def _profile(name: str, shape: Sequence[int]) -> str:
    return f"{name}:{'x'.join(map(str, shape))}"
