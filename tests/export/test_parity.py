"""The gate: an adopted network that is not the published one any more does not pass it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from export.parity import measure_parity
from export.published import decode_yunet, onnx_detections, onnx_features
from export.pull import Pulled
from service.errors import BundleError
from service.recognition.types import Detector, Embedder
from service.runtime.bundle import Bundle, open_bundle
from service.runtime.card import Parity
from service.runtime.networks import EmbedderNetwork, RuntimeOptions, open_networks

Pixels = NDArray[np.uint8]
Found = tuple[NDArray[np.float32], ...]
Networks = tuple[Detector, Embedder]
Measure = Callable[..., Parity]


@pytest.fixture(scope="module")
def tiny(tiny_bundle: Path) -> Bundle:
    return open_bundle(tiny_bundle)


@pytest.fixture(scope="module")
def networks(tiny: Bundle) -> Networks:
    return open_networks(tiny.detector, tiny.embedder, tiny.card.contract, RuntimeOptions("cpu"))


@pytest.fixture(scope="module")
def measure(tiny: Bundle, networks: Networks, published: tuple[Path, Path], tiny_embedder: Path) -> Measure:
    """Parity of the tiny bundle; what is given in place of a network is measured instead."""

    def run(detector: Detector | None = None, embedder: Embedder | None = None) -> Parity:
        before = onnx_detections(published[0], "yunet"), onnx_features(tiny_embedder)
        return measure_parity(before, detector or networks[0], embedder or networks[1], tiny.card.contract)

    return run


def perturbed(tiny: Bundle, amount: float) -> EmbedderNetwork:
    """The adopted embedder, every weight of its last layer changed by about this share."""
    model = onnx.load_model_from_string(tiny.embedder)
    [tensor] = [tensor for tensor in model.graph.initializer if tensor.name == "gemm.weight"]
    weight = numpy_helper.to_array(tensor)
    noise = np.random.default_rng(0).normal(0, amount, weight.shape)
    tensor.CopyFrom(numpy_helper.from_array((weight * (1 + noise)).astype(np.float32), tensor.name))
    return open_networks(tiny.detector, model.SerializeToString(), tiny.card.contract, RuntimeOptions("cpu"))[1]


def test_an_adopted_bundle_passes_with_room_to_spare(measure: Measure) -> None:
    parity = measure()
    assert parity.crops == 6
    assert 0.999999 < parity.min_cosine <= 1.000001
    assert parity.max_abs_deviation < 1e-6
    assert parity.max_batch_deviation < 1e-6
    assert parity.detector_max_px < 0.005
    assert parity.detector_max_score < 1e-5


def test_the_default_bundle_passes_too(pulled: Pulled) -> None:
    parity = pulled.card.parity
    assert parity.crops == 6
    assert parity.min_cosine > 0.999999


@pytest.mark.parametrize("amount", [0.02, 1.0])
def test_perturbed_weights_do_not_pass(measure: Measure, tiny: Bundle, amount: float) -> None:
    with pytest.raises(
        BundleError, match=r"Parity failed: the cosine to the published embedder is -?0\.\d+, the limit"
    ):
        measure(embedder=perturbed(tiny, amount))


def test_weights_changed_by_less_than_their_rounding_pass(measure: Measure, tiny: Bundle) -> None:
    assert measure(embedder=perturbed(tiny, 1e-7)).min_cosine > 0.99999


@pytest.mark.parametrize(
    "view",
    [lambda crops: crops[..., ::-1], lambda crops: crops[:, ::-1], lambda crops: crops // 2],
    ids=["bgr", "upside down", "dark"],
)
def test_crops_that_reach_the_network_changed_do_not_pass(
    measure: Measure, networks: Networks, view: Callable[[Pixels], Pixels]
) -> None:
    with pytest.raises(BundleError, match="the cosine to the published embedder"):
        measure(embedder=lambda crops: networks[1](np.ascontiguousarray(view(crops))))


def test_an_embedder_that_depends_on_the_rest_of_the_batch_does_not_pass(measure: Measure, networks: Networks) -> None:
    def leaking(crops: Pixels) -> Found:
        embeddings, norms = networks[1](crops)
        # Too little for the cosine to notice.
        return embeddings + np.float32(2e-5 * (len(crops) > 1)), norms

    with pytest.raises(
        BundleError, match=r"the difference between a batch and single crops is .*e-05, the limit is 1e-05"
    ):
        measure(embedder=leaking)


@pytest.mark.parametrize("part", [0, 2], ids=["boxes", "landmarks"])
def test_a_detector_that_is_off_by_a_tenth_of_a_pixel_does_not_pass(
    measure: Measure, networks: Networks, part: int
) -> None:
    def off(by: float) -> Callable[[Pixels], Found]:
        def detector(images: Pixels) -> Found:
            found = list(networks[0](images))
            found[part] = found[part] + np.float32(by)
            return tuple(found)

        return detector

    with pytest.raises(BundleError, match=r"the detector's deviation in pixels is 0\.1\d*, the limit is 0\.05"):
        measure(detector=off(0.1))
    assert measure(detector=off(0.02)).detector_max_px == pytest.approx(0.02, rel=0.05)


def test_a_detector_whose_scores_are_off_does_not_pass(measure: Measure, networks: Networks) -> None:
    def detector(images: Pixels) -> Found:
        boxes, scores, landmarks = networks[0](images)
        return boxes, scores + np.float32(2e-4), landmarks

    with pytest.raises(BundleError, match=r"the detector's deviation in score is 0\.0002\d*, the limit is 0\.0001"):
        measure(detector=detector)


def test_a_detector_that_finds_no_face_does_not_pass(measure: Measure, networks: Networks) -> None:
    def blind(images: Pixels) -> Found:
        boxes, scores, landmarks = networks[0](images)
        return boxes, np.zeros_like(scores), landmarks

    with pytest.raises(BundleError, match="finds no face"):
        measure(detector=blind)


def test_an_embedder_that_gives_no_numbers_does_not_pass(measure: Measure, networks: Networks) -> None:
    def broken(crops: Pixels) -> Found:
        embeddings, norms = networks[1](crops)
        return np.full_like(embeddings, np.nan), norms

    with pytest.raises(BundleError, match="Parity failed"):
        measure(embedder=broken)


def test_published_maps_are_decoded_by_the_formula() -> None:
    side, stride, row, column = 64, 16, 2, 3
    cell = row * (side // stride) + column
    cells = {s: (side // s) ** 2 for s in (8, 16, 32)}
    maps = {
        f"{kind}_{s}": np.zeros((1, cells[s], width), np.float32)
        for s in cells
        for kind, width in {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}.items()
    }
    maps[f"cls_{stride}"][0, cell], maps[f"obj_{stride}"][0, cell] = 0.81, 0.64
    maps[f"bbox_{stride}"][0, cell] = [0.25, -0.5, np.log(2.0), np.log(3.0)]
    maps[f"kps_{stride}"][0, cell] = np.arange(10) / 10
    boxes, scores, landmarks = decode_yunet(maps, side)

    anchor = cells[8] + cell
    x, y = (column + 0.25) * stride, (row - 0.5) * stride
    assert scores.shape == (sum(cells.values()),)
    assert np.flatnonzero(scores).tolist() == [anchor]
    assert scores[anchor] == pytest.approx(0.72)
    assert boxes[anchor] == pytest.approx([x - stride, y - 1.5 * stride, x + stride, y + 1.5 * stride], abs=1e-5)
    assert landmarks[anchor, 1] == pytest.approx([(column + 0.2) * stride, (row + 0.3) * stride])
