"""Opens a network on the execution provider that was asked for, or not at all."""

import logging
import os
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnxruntime as ort

from service.cores import available_cores
from service.errors import BundleError, DeviceError
from service.runtime.device_buffers import run_options
from service.runtime.placement import ran_on, read_profile
from service.runtime.providers import (
    COMPUTES,
    CPU,
    CUDA,
    NAMES,
    Provider,
    RuntimeOptions,
    Shapes,
    prepare,
    refuse_rivals,
    with_options,
)

log = logging.getLogger(__name__)


def choose_provider(wanted: Provider, gpu: int = 0) -> str:
    """ONNX Runtime's name of the execution provider to use.

    ``auto`` is CUDA where it really computes, else the CPU. It leaves out TensorRT, which builds engines for minutes
    at its first start.

    Raises:
        DeviceError: this installation has not what is wanted, or has packages installed over each other.
    """
    refuse_rivals()
    available = ort.get_available_providers()
    if wanted == "auto":
        return CUDA if CUDA in available and not _why_cuda_fails(gpu) else CPU
    missing = [name for name in COMPUTES[NAMES[wanted]] if name not in available]
    if missing:
        raise DeviceError(
            f"Provider {wanted!r} was asked for, but this installation of ONNX Runtime offers only "
            f"{', '.join(available)}. Install the GPU set (make setup DEVICE=gpu) or ask for 'cpu'.",
            {"available": available},
        )
    return NAMES[wanted]


def open_session(
    model: bytes, role: str, provider: str, options: RuntimeOptions, shapes: Shapes, profile: Path | None = None
) -> ort.InferenceSession:
    """A session that may use ``provider`` and what goes with it, and the CPU for shapes.

    Args:
        role: the network's, for messages.
        shapes: of its input.
        profile: folder for the profile that ``computing_provider`` reads.

    Raises:
        BundleError: this is no network that ONNX Runtime can load.
        DeviceError: it cannot be loaded there.
    """
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = options.threads or available_cores()
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    # Of a network that is given as bytes ONNX Runtime looks for weights outside it in the working folder.
    settings.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    if profile is not None:
        settings.enable_profiling = True
        settings.profile_file_prefix = str(profile / role)
    try:
        # By default an exception, here or in any later run, opens the network anew on the CPU.
        session = ort.InferenceSession(
            model, settings, providers=with_options(provider, options, model, shapes), enable_fallback=0
        )
    except DeviceError:
        raise
    except Exception as error:  # ONNX Runtime raises a private exception class per status code
        if provider == CPU:
            raise BundleError(f"The {role} cannot be loaded by ONNX Runtime: {error}") from error
        open_session(model, role, CPU, options, shapes)
        raise DeviceError(f"The {role} cannot be opened on {provider}: {error}") from error
    # Where a provider's libraries cannot be loaded ONNX Runtime leaves it out, with no more than a log line.
    allowed, found = list(COMPUTES[provider]), session.get_providers()
    if found[: len(allowed)] != allowed:
        raise DeviceError(
            f"The {role} was to run on {allowed[0]}, but ONNX Runtime would run it on {' and '.join(found)}. Its log "
            "says which library or device is missing; docs/gpu.md says what is needed."
        )
    return session


def computing_provider(session: ort.InferenceSession, role: str, provider: str, shapes: Shapes) -> str:
    """Run a session that was opened with a profile once, and see what computed: see ``placement.ran_on``.

    Raises:
        DeviceError: it does not run, or not where it should.
    """
    feeds = {shapes.name: np.zeros(shapes.usual, np.uint8)}
    try:
        session.run(None, feeds, run_options())
    except Exception as error:
        raise DeviceError(f"The {role} does not run on {provider}: {error}") from error
    return ran_on(role, read_profile(Path(session.end_profiling())), COMPUTES[provider])


@cache
def _why_cuda_fails(gpu: int) -> str:
    """Why "auto" does not take CUDA; empty where it computes. Said in the log once."""
    try:
        name = prepare(CUDA, gpu)
        shapes = Shapes("x", *3 * [(1, 3, 8, 8)])
        with TemporaryDirectory(prefix="likeness-") as folder:
            session = open_session(_probe(), "probe", CUDA, RuntimeOptions(gpu=gpu), shapes, Path(folder))
            computing_provider(session, "probe", CUDA, shapes)
    except (DeviceError, OSError) as error:
        log.warning("provider auto takes the CPU: CUDA is installed but does not work: %s", error)
        return str(error)
    log.info("provider auto takes CUDA: GPU %d is %s", gpu, name)
    return ""


def _probe() -> bytes:
    """A convolution and a matrix product, so that cuDNN and cuBLAS are both needed."""
    # Only where CUDA is offered: the service does without this library otherwise.
    from onnx import TensorProto, helper, numpy_helper

    ones = {"w": np.ones((4, 3, 3, 3), np.float32), "m": np.ones((6, 2), np.float32)}
    nodes = [
        helper.make_node("Cast", ["x"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["pixels", "w"], ["map"], kernel_shape=[3, 3]),
        helper.make_node("MatMul", ["map", "m"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 6, 2])],
        [numpy_helper.from_array(value, name) for name, value in ones.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
    return bytes(model.SerializeToString())
