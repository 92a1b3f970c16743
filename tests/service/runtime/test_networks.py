"""Opening networks: nothing that is not as the card says."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.errors import BundleError
from service.runtime.card import EmbeddingContract
from service.runtime.networks import RuntimeOptions, available_cores, in_parts, open_networks

CPU = RuntimeOptions(provider="cpu")
FLOAT, UINT8 = TensorProto.FLOAT, TensorProto.UINT8


@pytest.fixture
def contract(fields: dict[str, Any]) -> EmbeddingContract:
    """Crops of 16 × 16, dimension 2, fusion sum."""
    return EmbeddingContract.model_validate(fields["contract"])


def detector_model(image: str = "images", outputs: Sequence[str] = ("boxes", "scores", "landmarks")) -> bytes:
    graph = helper.make_graph(
        [helper.make_node("Cast", [image], [name], to=FLOAT) for name in outputs],
        "detector",
        [helper.make_tensor_value_info(image, UINT8, ["n", "h", "w", 3])],
        [helper.make_tensor_value_info(name, FLOAT, ["n", "h", "w", 3]) for name in outputs],
    )
    return saved(graph, {})


def embedder_model(
    contract: EmbeddingContract,
    size: int = 16,
    dimension: int = 2,
    crops: str = "crops",
    outputs: Sequence[str] = ("embedding", "feature_norm"),
    **stamps: str,
) -> bytes:
    """Multiplies the crop, as one long vector, with random weights."""
    weight = np.random.default_rng(1).normal(size=(size * size * 3, dimension)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", [crops], ["pixels"], to=FLOAT),
        helper.make_node("Flatten", ["pixels"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["feature"]),
        helper.make_node("ReduceL2", ["feature"], ["length"], axes=[1], keepdims=1),
        helper.make_node("ReduceL2", ["feature"], [outputs[1]], axes=[1], keepdims=0),
        helper.make_node("Div", ["feature", "length"], [outputs[0]]),
    ]
    graph = helper.make_graph(
        nodes,
        "embedder",
        [helper.make_tensor_value_info(crops, UINT8, ["n", size, size, 3])],
        [
            helper.make_tensor_value_info(outputs[0], FLOAT, ["n", dimension]),
            helper.make_tensor_value_info(outputs[1], FLOAT, ["n"]),
        ],
        [numpy_helper.from_array(weight, "w")],
    )
    stamped = {"embedding_contract": contract.digest(), "fusion": contract.fusion} | stamps
    return saved(graph, {f"likeness.{key}": value for key, value in stamped.items()})


def saved(graph: object, metadata: dict[str, str]) -> bytes:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
    helper.set_model_props(model, metadata)
    return bytes(model.SerializeToString())


def test_networks_that_keep_their_contract_are_opened_and_run(contract: EmbeddingContract) -> None:
    detector, embedder = open_networks(detector_model(), embedder_model(contract), contract, CPU)
    assert (detector.provider, embedder.provider, embedder.dimension) == ("CPUExecutionProvider",) * 2 + (2,)
    assert [part.shape for part in detector(np.zeros((2, 32, 64, 3), np.uint8))] == [(2, 32, 64, 3)] * 3
    embeddings, norms = embedder(np.full((3, 16, 16, 3), 9, np.uint8))
    assert (embeddings.shape, norms.shape) == ((3, 2), (3,))
    assert np.allclose(np.linalg.norm(embeddings, axis=1), 1)


@pytest.mark.parametrize(
    ("models", "complaint"),
    [
        (
            lambda c: (detector_model(outputs=["boxes", "scores", "points"]), embedder_model(c)),
            "The detector has .*points",
        ),
        (lambda c: (detector_model(outputs=["scores", "boxes", "landmarks"]), embedder_model(c)), "The detector has"),
        (lambda c: (detector_model(outputs=["boxes", "scores"]), embedder_model(c)), "The detector has"),
        (
            lambda c: (detector_model("image"), embedder_model(c)),
            r"The detector has .*\['image'\].*expected .*\['images'\]",
        ),
        (lambda c: (detector_model(), embedder_model(c, crops="data")), r"The embedder has .*\['data'\]"),
        (lambda c: (detector_model(), embedder_model(c, outputs=["fc1", "feature_norm"])), "The embedder has .*'fc1'"),
        (lambda c: (embedder_model(c), detector_model()), r"The detector has .*\['crops'\]"),
        (lambda _: (detector_model(), detector_model()), r"The embedder has .*\['images'\]"),
        (lambda c: (b"not ONNX", embedder_model(c)), "The detector cannot be loaded by ONNX Runtime"),
        (lambda c: (detector_model(), embedder_model(c)[:-200]), "The embedder cannot be loaded by ONNX Runtime"),
        (lambda _: (detector_model(), b""), "The embedder cannot be loaded by ONNX Runtime"),
        (
            lambda c: (detector_model(), embedder_model(c, fusion="none")),
            "likeness.fusion = sum, the network says 'none'",
        ),
        (
            lambda c: (detector_model(), embedder_model(c, embedding_contract="0" * 64)),
            "The card says likeness.embedding_contract = .*, the network says '0000",
        ),
        (lambda c: (detector_model(), embedder_model(c, size=24)), r"crops of 16×16 .*takes \[24, 24, 3\]"),
        (lambda c: (detector_model(), embedder_model(c, dimension=4)), "dimension 2, the network .* gives 4"),
    ],
)
def test_networks_that_are_not_what_the_card_says_are_refused(
    contract: EmbeddingContract, models: Callable[[EmbeddingContract], tuple[bytes, bytes]], complaint: str
) -> None:
    with pytest.raises(BundleError, match=complaint):
        open_networks(*models(contract), contract, CPU)


def test_weights_outside_the_network_are_not_looked_for(
    contract: EmbeddingContract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # ONNX Runtime would take them from the working folder.
    monkeypatch.chdir(tmp_path)
    model = onnx.load_from_string(embedder_model(contract))
    [weight] = model.graph.initializer
    (tmp_path / "weights.bin").write_bytes(numpy_helper.to_array(weight).tobytes())
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="weights.bin")
    content = model.SerializeToString()
    ort.InferenceSession(content, providers=["CPUExecutionProvider"])  # it does
    with pytest.raises(BundleError, match="The embedder cannot be loaded by ONNX Runtime: .*[Ee]xternal data path"):
        open_networks(detector_model(), content, contract, CPU)


def test_a_network_without_any_stamp_is_refused(contract: EmbeddingContract) -> None:
    model = embedder_model(contract).replace(b"likeness.", b"somebody.")
    with pytest.raises(BundleError, match="likeness.embedding_contract = .*, the network says None"):
        open_networks(detector_model(), model, contract, CPU)


@pytest.mark.parametrize(
    ("place", "value"), [("dimension", 4), ("fusion", "none"), ("precision", "float16"), ("weights", "f" * 64)]
)
def test_another_contract_than_the_stamped_one_is_refused(
    contract: EmbeddingContract, place: str, value: object
) -> None:
    other = EmbeddingContract.model_validate_json(json.dumps(contract.model_dump(mode="json") | {place: value}))
    with pytest.raises(BundleError, match=f"The card says likeness.embedding_contract = {other.digest()}"):
        open_networks(detector_model(), embedder_model(contract), other, CPU)


@pytest.mark.parametrize(("threads", "expected"), [(1, 1), (3, 3), (0, 5)])
def test_each_network_gets_the_threads_that_were_asked_for(
    contract: EmbeddingContract, monkeypatch: pytest.MonkeyPatch, threads: int, expected: int
) -> None:
    given: list[int] = []
    session = ort.InferenceSession

    def spy(model: bytes, options: ort.SessionOptions, **rest: Any) -> ort.InferenceSession:
        given.append(options.intra_op_num_threads)
        return session(model, options, **rest)

    monkeypatch.setattr(ort, "InferenceSession", spy)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {1, 2, 3, 5, 8})
    assert available_cores() == 5
    open_networks(detector_model(), embedder_model(contract), contract, RuntimeOptions("cpu", threads))
    assert given == [expected, expected]


def test_a_batch_larger_than_a_part_is_put_together_in_order(contract: EmbeddingContract) -> None:
    embedder = open_networks(detector_model(), embedder_model(contract), contract, CPU)[1]
    calls: list[int] = []

    def run(crops: Any) -> list[Any]:
        calls.append(len(crops))
        return list(embedder(crops))

    crops = np.random.default_rng(3).integers(0, 256, (7, 16, 16, 3)).astype(np.uint8)
    for most, expected in [(7, [7]), (8, [7]), (3, [3, 3, 1]), (1, [1] * 7)]:
        calls.clear()
        embeddings, norms = in_parts(run, most)(crops)
        assert calls == expected
        one_by_one = [embedder(crop[None]) for crop in crops]
        assert np.allclose(embeddings, np.concatenate([e for e, _ in one_by_one]), atol=1e-6)
        assert np.allclose(norms, np.concatenate([n for _, n in one_by_one]), rtol=1e-6)
