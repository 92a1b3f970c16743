"""Asked for a GPU: it is used or refused. Real sessions; what a machine without a GPU can show is shown."""

import os
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from service.errors import BundleError, DeviceError
from service.runtime import sessions
from service.runtime.bundle import Bundle
from service.runtime.networks import DETECTOR_SHAPES, RuntimeOptions, choose_provider, open_networks
from service.runtime.providers import (
    CPU,
    CUDA,
    TENSORRT,
    Shapes,
    cuda_options,
    engine_folder,
    gpu_name,
    tensorrt_options,
)
from service.runtime.sessions import computing_provider, open_session

HAS_CUDA = CUDA in ort.get_available_providers()
without_cuda = pytest.mark.skipif(HAS_CUDA, reason="this ONNX Runtime has CUDA")


@pytest.fixture
def fresh_probe() -> Any:
    """What was found out about CUDA is found out anew."""
    sessions._why_cuda_fails.cache_clear()
    yield
    sessions._why_cuda_fails.cache_clear()


@without_cuda
@pytest.mark.parametrize("wanted", ["cuda", "tensorrt"])
def test_a_provider_that_is_not_installed_is_refused_with_what_there_is(bundle: Bundle, wanted: Any) -> None:
    with pytest.raises(DeviceError, match=f"'{wanted}' was asked for, .* offers only .*CPUExecutionProvider") as caught:
        open_networks(bundle.detector, bundle.embedder, bundle.card.contract, RuntimeOptions(provider=wanted))
    assert caught.value.details == {"available": ort.get_available_providers()}


@without_cuda
@pytest.mark.parametrize("wanted", ["auto", "cpu"])
def test_auto_is_the_cpu_where_there_is_nothing_else(bundle: Bundle, wanted: Any) -> None:
    networks = open_networks(bundle.detector, bundle.embedder, bundle.card.contract, RuntimeOptions(provider=wanted))
    assert [network.provider for network in networks] == ["CPUExecutionProvider"] * 2


@without_cuda
@pytest.mark.parametrize("wanted", ["cuda", "tensorrt"])
def test_the_command_line_ends_with_4_and_says_why(data_dir: Path, wanted: str) -> None:
    run = likeness("serve", "--provider", wanted, "--data-dir", str(data_dir), "--port", "0")
    assert run.returncode == 4
    assert f"Provider '{wanted}' was asked for" in run.stderr


@without_cuda
@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.parametrize("provider", [CUDA, TENSORRT])
def test_a_session_that_onnx_runtime_gives_to_the_cpu_is_refused(bundle: Bundle, provider: str) -> None:
    # As where CUDA's libraries are missing: ONNX Runtime opens the network on the CPU, with a warning.
    with pytest.raises(DeviceError, match=f"The detector was to run on {provider}, .* on CPUExecutionProvider"):
        open_session(bundle.detector, "detector", provider, RuntimeOptions(), DETECTOR_SHAPES)


@without_cuda
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_what_is_no_network_is_not_blamed_on_the_device(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="The detector cannot be loaded"):
        open_session(bundle.detector[:1000], "detector", CUDA, RuntimeOptions(), DETECTOR_SHAPES)


def test_a_session_is_never_opened_anew_on_the_cpu_after_an_error(bundle: Bundle) -> None:
    # What onnxruntime.InferenceSession does by default when a run fails on its provider.
    session = open_session(bundle.detector, "detector", CPU, RuntimeOptions(), DETECTOR_SHAPES)
    assert session._enable_fallback is False


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="there is a GPU")
@pytest.mark.usefixtures("fresh_probe")
def test_where_cuda_is_offered_but_there_is_no_gpu_it_is_refused_and_auto_takes_the_cpu(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # The GPU set of packages on a machine without a GPU offers exactly these.
    monkeypatch.setattr(ort, "get_available_providers", lambda: [TENSORRT, CUDA, "CPUExecutionProvider"])
    files = bundle.detector, bundle.embedder, bundle.card.contract
    for wanted in ("cuda", "tensorrt"):
        with pytest.raises(DeviceError, match="no NVIDIA driver|NVIDIA driver shows 0"):
            open_networks(*files, RuntimeOptions(provider=wanted))
    with caplog.at_level("INFO"):
        networks = open_networks(*files, RuntimeOptions(provider="auto"))
        assert choose_provider("auto") == "CPUExecutionProvider"
    assert [network.provider for network in networks] == ["CPUExecutionProvider"] * 2
    [said] = [record for record in caplog.records if "provider auto" in record.message]
    assert said.levelname == "WARNING"
    assert "CUDA is installed but does not work: " in said.message


def test_the_probe_computes_where_it_is_asked_to(tmp_path: Path) -> None:
    shapes = Shapes("x", *3 * [(1, 3, 8, 8)])
    session = open_session(sessions._probe(), "probe", CPU, RuntimeOptions(), shapes, tmp_path)
    # 27 ones under the kernel, six of them in a row.
    assert (session.run(None, {"x": np.ones((1, 3, 8, 8), np.uint8)})[0] == 27 * 6).all()
    assert computing_provider(session, "probe", CPU, shapes) == CPU


@pytest.mark.skipif(not Path("/dev/nvidiactl").exists(), reason="there is no GPU")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    assert gpu_name(0)
    with pytest.raises(DeviceError, match="GPU 99 was asked for, the NVIDIA driver shows"):
        gpu_name(99)


@pytest.mark.parametrize("pair", [("onnxruntime", "onnxruntime-gpu"), ("faiss-cpu", "faiss-gpu")], ids=" ".join)
def test_two_packages_over_each_other_are_refused(tmp_path: Path, data_dir: Path, pair: tuple[str, str]) -> None:
    [rival] = [name for name in pair if not list(distributions(name=name))]
    folder = tmp_path / f"{rival.replace('-', '_')}-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {rival}\nVersion: 1.0\n")
    run = likeness("serve", "--data-dir", str(data_dir), "--port", "0", path=tmp_path)
    assert run.returncode == 4
    assert f"{pair[0]} and {pair[1]} are both installed" in run.stderr


def test_cuda_keeps_within_the_ceiling_and_in_float32() -> None:
    options = cuda_options(RuntimeOptions(gpu=2, gpu_memory_mib=1000))
    assert options["device_id"] == "2"
    # Two networks, an arena each.
    assert int(options["gpu_mem_limit"]) == 500 * 2**20
    assert options["arena_extend_strategy"] == "kSameAsRequested"
    assert options["use_tf32"] == "0"
    assert "gpu_mem_limit" not in cuda_options(RuntimeOptions(gpu_memory_mib=0))


@pytest.mark.skipif(not HAS_CUDA, reason="this ONNX Runtime has no CUDA")
def test_onnx_runtime_knows_every_option_and_value(bundle: Bundle) -> None:
    # Its CUDA provider reads them before it looks for a GPU, so that this can be seen without one.
    ort.preload_dlls()

    def complaint(options: dict[str, str]) -> str:
        try:
            ort.InferenceSession(bundle.detector, providers=[(CUDA, options)], enable_fallback=0)
        except RuntimeError as error:
            return str(error)
        return ""

    known = cuda_options(RuntimeOptions())
    if not Path("/dev/nvidiactl").exists():
        del known["device_id"]  # is compared with the number of GPUs
    assert "Pars" not in complaint(known)
    for name in known:
        assert "Pars" in complaint(known | {name: "nonsense"}), name
    assert "Pars" in complaint(known | {"no_such_option": "1"})


def test_tensorrt_is_built_for_all_shapes_in_float32() -> None:
    options = tensorrt_options(RuntimeOptions(gpu=1), b"", DETECTOR_SHAPES)
    assert options["trt_profile_min_shapes"] == "images:1x32x32x3"
    assert options["trt_profile_max_shapes"] == "images:8x1280x1280x3"
    assert {options[f"trt_{kind}_enable"] for kind in ("fp16", "bf16", "int8")} == {"False"}
    # Without a folder nothing is kept.
    assert not [key for key in options if "cache" in key]


def test_engines_of_other_weights_versions_and_gpus_never_meet() -> None:
    base = Path("engines"), "10.14.1", "NVIDIA H100 80GB HBM3", b"network"
    folder = engine_folder(*base)
    assert folder.parts[1] == f"ort-{ort.__version__}-trt-10.14.1-nvidia-h100-80gb-hbm3"
    others = [
        engine_folder(Path("engines"), "10.15.0", base[2], base[3]),
        engine_folder(Path("engines"), base[1], "NVIDIA L4", base[3]),
        engine_folder(Path("engines"), base[1], base[2], b"Network"),
    ]
    assert len({folder, *others}) == 4


def likeness(*arguments: str, path: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """The command line, with ``path`` among the places where packages are looked for."""
    places = [str(path)] * (path is not None) + [os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, places))}
    command = [sys.executable, "-m", "service.cli.main", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
