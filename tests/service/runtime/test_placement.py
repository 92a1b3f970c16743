"""Where each node ran, read from the profiles of real sessions."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from service.errors import DeviceError
from service.runtime.bundle import Bundle
from service.runtime.networks import DETECTOR_OUTPUTS, DETECTOR_SHAPES, RuntimeOptions
from service.runtime.placement import Placement, ran_on, read_profile
from service.runtime.providers import COMPUTES, CPU, CUDA, TENSORRT, Shapes
from service.runtime.sessions import computing_provider, open_session


@pytest.fixture(scope="module")
def nodes(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> list[Placement]:
    """Of the real detector, run on the CPU."""
    session = profiled(bundle, tmp_path_factory.mktemp("profile"))
    session.run(None, {"images": np.zeros((1, 64, 64, 3), np.uint8)})
    return read_profile(Path(session.end_profiling()))


def profiled(bundle: Bundle, folder: Path) -> ort.InferenceSession:
    return open_session(bundle.detector, "detector", CPU, RuntimeOptions(), DETECTOR_SHAPES, folder)


def test_a_profile_holds_every_node_and_tells_shapes_from_values(nodes: list[Placement]) -> None:
    assert {node.provider for node in nodes} == {CPU}
    # YuNet has 53 convolutions, and its anchors are counted from the shape of the photo.
    assert sum(node.operator == "Conv" for node in nodes) == 53
    shapes = [node for node in nodes if not node.computes]
    assert {"Shape", "Gather", "Range"} <= {node.operator for node in shapes}
    assert all(node.types == {"int64"} for node in shapes)
    # The same operator on values and on shapes: its name alone does not tell.
    assert {"Mul", "Add", "Reshape", "Concat"} <= {n.operator for n in shapes} & {
        n.operator for n in nodes if n.computes
    }


def test_all_on_the_provider_that_was_asked_for_is_well(nodes: list[Placement]) -> None:
    assert ran_on("detector", nodes, [CPU]) == CPU


@pytest.mark.parametrize("wanted", [CUDA, TENSORRT])
def test_a_session_that_ran_on_the_cpu_is_refused_with_what_ran_there(
    bundle: Bundle, tmp_path: Path, wanted: str
) -> None:
    session = profiled(bundle, tmp_path)
    with pytest.raises(DeviceError, match=rf"was to run on {wanted}, but .* Conv on CPUExecutionProvider") as caught:
        computing_provider(session, "detector", wanted, DETECTOR_SHAPES)
    assert caught.value.details["elsewhere"] == caught.value.details["nodes"] > 100
    # It goes on as it was; its profile has ended.
    assert len(session.run(list(DETECTOR_OUTPUTS), {"images": np.zeros((1, 32, 32, 3), np.uint8)})) == 3


def test_one_node_on_the_cpu_is_enough_to_be_refused_and_a_shape_is_not(nodes: list[Placement]) -> None:
    def moved(there: Placement) -> list[Placement]:
        return [node if node is there else Placement(node.operator, CUDA, node.types) for node in nodes]

    shape = next(node for node in nodes if node.operator == "Gather")
    assert ran_on("detector", moved(shape), COMPUTES[CUDA]) == CUDA
    resize = next(node for node in nodes if node.operator in ("Resize", "Upsample"))
    with pytest.raises(DeviceError, match=rf"1 of its \d+ nodes elsewhere: 1 × {resize.operator} on CPUExecution"):
        ran_on("detector", moved(resize), COMPUTES[CUDA])


def test_what_tensorrt_leaves_to_cuda_is_said_and_all_of_it_is_refused(nodes: list[Placement]) -> None:
    on_cuda = [Placement(node.operator, CUDA, node.types) for node in nodes]
    fused = Placement("TRTKernel_graph", TENSORRT, frozenset({"float"}))
    assert ran_on("detector", [fused], COMPUTES[TENSORRT]) == TENSORRT
    assert ran_on("detector", [*on_cuda, fused], COMPUTES[TENSORRT]) == f"{TENSORRT} + {CUDA}"
    with pytest.raises(DeviceError, match=rf"was to run on {TENSORRT}, but none of its"):
        ran_on("detector", on_cuda, COMPUTES[TENSORRT])


def test_a_network_that_does_not_run_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    crooked = Shapes("images", *3 * [(1, 32, 32, 4)])
    with pytest.raises(DeviceError, match="The detector does not run on CPUExecutionProvider: "):
        computing_provider(profiled(bundle, tmp_path), "detector", CPU, crooked)
