"""Which form of a graph is kept: the one that is faster here, by more than a clock errs, and it is written down."""

import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import GraphProto

from export import machine
from export.embedder import PLAIN, adopt_embedder
from export.graph import load_network
from export.machine import fit_to_machine
from export.rewrites import expand_prelu
from export.stopwatch import MAX_ROUNDS, MIN_ROUNDS, race
from service.runtime.bundle import open_bundle


def test_the_faster_call_wins_and_a_disturbance_of_one_round_changes_nothing() -> None:
    calls = {"slow": 0, "fast": 0}

    def working(name: str, milliseconds: float) -> None:
        calls[name] += 1
        time.sleep(milliseconds / 1000 + (0.1 if calls[name] == 4 else 0))

    seconds = race({"slow": lambda: working("slow", 8), "fast": lambda: working("fast", 2)}, 0.2)
    assert 0.002 <= seconds["fast"] < seconds["slow"] < 0.08
    # One more to warm up.
    assert MIN_ROUNDS < calls["slow"] == calls["fast"] <= MAX_ROUNDS + 1


def test_a_network_that_is_done_in_a_moment_stays_as_it_is(tiny_embedder: Path, tiny_bundle: Path) -> None:
    model = adopt_embedder(load_network(tiny_embedder), PLAIN, "sum", {})
    form, chosen = fit_to_machine(model, 112)
    assert chosen is None
    assert form == model
    card = open_bundle(tiny_bundle).card
    assert card.graph is None
    assert '"graph"' not in card.to_json()


def test_sface_is_rewritten_and_the_card_says_how(published: tuple[Path, Path]) -> None:
    model = adopt_embedder(load_network(published[1]), PLAIN, "sum", {})
    form, chosen = fit_to_machine(model, 112)
    assert chosen is not None
    assert chosen.speedup > 1
    assert chosen.provider in ort.get_available_providers()
    assert any(name.startswith("PReLU as") for name in chosen.rewrites)
    assert "PRelu" not in {node.op_type for node in form.graph.node}
    assert "PRelu" in {node.op_type for node in model.graph.node}


def test_a_rewrite_that_is_slower_is_not_kept(tiny_embedder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def heavier(graph: GraphProto) -> int:
        """The mean of a hundred thousand zeros is added to the input."""
        graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((2000, 2000), np.float32), "zeros"))
        graph.node.insert(0, onnx.helper.make_node("ReduceMax", ["crops_f"], ["top"], keepdims=0))
        graph.node.insert(0, onnx.helper.make_node("Cast", ["crops"], ["crops_f"], to=1))
        graph.node.append(onnx.helper.make_node("Mul", ["zeros", "top"], ["more zeros"]))
        graph.node.append(onnx.helper.make_node("ReduceSum", ["more zeros"], ["nothing"], keepdims=0))
        last = next(node for node in graph.node if "embedding" in node.output)
        last.output[0] = "before"
        graph.node.append(onnx.helper.make_node("Add", ["before", "nothing"], ["embedding"]))
        return expand_prelu(graph)

    monkeypatch.setattr(machine, "STEPS", {"weight": {"heavier": heavier}})
    model = adopt_embedder(load_network(tiny_embedder), PLAIN, "sum", {})
    assert fit_to_machine(model, 112) == (model, None)
