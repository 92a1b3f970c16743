"""Where the networks were asked to run, and whether they can."""

import ctypes
from collections.abc import Iterator
from typing import TYPE_CHECKING

from service.diagnosis.finding import Finding, State
from service.errors import LikenessError
from service.runtime.rivals import installed_of

if TYPE_CHECKING:
    from service.settings import Settings

GPU_SET = "onnxruntime-gpu"
_TO_GPU = "For the GPU: make clean, then make setup DEVICE=gpu."


def gpu(settings: "Settings") -> Iterator[Finding]:
    """The driver, the GPU, and the set of packages that goes with them."""
    asked = settings.provider in ("cuda", "tensorrt")
    gpu_set = bool(installed_of([GPU_SET]))
    why_not = _driver()
    if why_not:
        to_do = "Install NVIDIA's driver (in a container: --gpus all, with NVIDIA's container toolkit), or ask for cpu."
        state: State = "fail" if asked else "warn" if gpu_set else "ok"
        found = f"none: {why_not}" + (", and the GPU set of packages is installed" if gpu_set else "")
        yield Finding("GPU", state, found, "" if state == "ok" else to_do)
    else:
        from service.runtime.providers import gpu_name

        try:
            yield Finding("GPU", "ok", ", ".join(f"{gpu} is {gpu_name(gpu)}" for gpu in settings.gpus))
        except LikenessError as error:
            yield Finding("GPU", "fail" if asked else "warn", error.message)
    if asked and not gpu_set:
        yield Finding("wheels", "fail", f"provider {settings.provider} needs {GPU_SET}, which is not here", _TO_GPU)
    elif gpu_set and settings.provider == "cpu":
        yield Finding("wheels", "ok", "the GPU set of packages, and provider cpu: the GPU is not used")
    elif not gpu_set and not why_not and settings.provider == "auto":
        yield Finding("wheels", "warn", "there is a GPU, and the CPU set of packages, which cannot use it", _TO_GPU)


def provider(settings: "Settings") -> Iterator[Finding]:
    """Which of ONNX Runtime's execution providers it comes to."""
    from service.runtime.fleet import devices_for
    from service.runtime.providers import prepare
    from service.runtime.sessions import choose_provider

    try:
        devices = devices_for(settings.provider, settings.gpus)
        chosen = choose_provider(settings.provider, devices[0])
        device = " and ".join(dict.fromkeys(prepare(chosen, gpu) for gpu in devices))
    except LikenessError as error:
        yield Finding("provider", "fail", error.message, "Set LIKENESS_PROVIDER (or --provider) to one that is here.")
        return
    yield Finding("provider", "ok", f"{settings.provider} is {chosen}, on {device}")


def networks(settings: "Settings") -> Iterator[Finding]:
    """The bundle's networks, opened and run once as the service would."""
    from service.engine import load_engine

    try:
        engine = load_engine(settings)
        engine.warm_up()
    except LikenessError as error:
        yield Finding("networks", "fail", error.message)
        return
    detector, embedder = engine.providers
    yield Finding("networks", "ok", f"both ran: detector on {detector}, embedder on {embedder}")


def _driver() -> str:
    """Why NVIDIA's driver cannot be used; empty where it can."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return f"no NVIDIA driver ({error})"
    count = ctypes.c_int()
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if status:
        return f"NVIDIA's driver answers with status {status}"
    return "" if count.value else "NVIDIA's driver shows no GPU"
