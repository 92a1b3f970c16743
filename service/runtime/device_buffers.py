"""Runs a network on a GPU: one stream of work, buffers that stay there, CUDA graphs for the shapes that come often.

A CUDA graph is the list of kernels of one run with all their addresses, launched as one. ONNX Runtime captures one for
each ``gpu_graph_id``, and keeps it in the context of the thread that captured it; so all runs on a GPU are made by one
thread, and input and outputs of a graph lie in places of their own. What it replays is not checked by it, so here a
graph is only used after its answer was compared with that of a plain run.
"""

import logging
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from service.runtime.pinned import page_locked

log = logging.getLogger(__name__)

Shape: TypeAlias = tuple[int, ...]
Values: TypeAlias = NDArray[np.uint8]

# Input buffers lie outside ONNX Runtime's arena and so outside its ceiling. 8 tiles of 1280² are 39 MB.
_MOST_BYTES = 128 << 20
# What a replayed run may differ by from a plain one: some kernels add up in an order that is not fixed.
_RTOL, _ATOL = 1e-3, 1e-4


@dataclass(frozen=True)
class Device:
    """Where buffers lie, and the one thread that works there.

    Attributes:
        kind: "cuda", or "cpu" where there is no GPU.
        number: as CUDA numbers them.
    """

    kind: str
    number: int = 0
    stream: Executor = field(default_factory=lambda: ThreadPoolExecutor(1, "stream"))


@dataclass(frozen=True)
class Captured:
    """Which inputs (n, h, w, 3) are run as graphs: batches that are filled up to one of these sizes.

    Attributes:
        batches: in rising order.
        largest_side: of the images. Larger ones keep the GPU busy by themselves.
        most: graphs, as each holds its input and outputs for ever. The first so many shapes have one.
    """

    batches: tuple[int, ...]
    largest_side: int
    most: int = 32

    def shape_for(self, shape: Shape) -> Shape | None:
        """The shape that ``shape`` is filled up to; None if it is not run as a graph."""
        batch = next((size for size in self.batches if size >= shape[0]), None)
        return None if batch is None or max(shape[1:3]) > self.largest_side else (batch, *shape[1:])


class BoundSession:
    """A session with one input, uint8. Thread-safe; its runs are made one after the other on the device's stream.

    The input is copied into a buffer on the device that is kept for its shape, where ``run`` would allocate one for
    every call. Buffers used least lately are given up beyond ``most_bytes``.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        outputs: Sequence[str],
        device: Device,
        captured: Captured | None = None,
        most_bytes: int = _MOST_BYTES,
    ) -> None:
        """``captured``: which inputs are run as graphs, of a session that was opened for them; None for no graphs."""
        self._session, self._outputs, self._device = session, tuple(outputs), device
        self._captured, self._most_bytes = captured, most_bytes
        self._input: str = session.get_inputs()[0].name
        self._plain: OrderedDict[Shape, _Bound] = OrderedDict()
        self._graphs: dict[Shape, _Bound] = {}

    def __call__(self, values: Values) -> list[NDArray[Any]]:
        """The outputs, as arrays of the caller's own."""
        return self._device.stream.submit(self._run, values).result()

    @property
    def kept(self) -> list[Shape]:
        """Shapes with a buffer, the one used last at the end; without those of graphs."""
        return list(self._plain)

    @property
    def graphs(self) -> list[Shape]:
        """Shapes that are run as graphs."""
        return list(self._graphs)

    def _run(self, values: Values) -> list[NDArray[Any]]:
        shape = self._captured.shape_for(values.shape) if self._captured is not None else None
        if shape in self._graphs:
            return self._graphs[shape].answer(values)
        if shape is None or self._captured is None or len(self._graphs) >= self._captured.most:
            return self._plainly(values)
        filled = np.zeros(shape, np.uint8)
        filled[: len(values)] = values
        answer = self._plainly(filled)
        try:
            self._graphs[shape] = self._capture(filled, answer)
            log.info("%s is run as a CUDA graph for inputs %s", self._input, shape)
        except Exception as error:
            # ONNX Runtime raises a private exception class per status code.
            self._captured = None
            self._graphs.clear()
            log.warning("%s is run without CUDA graphs: %s", self._input, error)
        return [output[: len(values)] for output in answer]

    def _plainly(self, values: Values) -> list[NDArray[Any]]:
        shape = values.shape
        if shape not in self._plain:
            while self._plain and sum(map(_bytes, self._plain)) + _bytes(shape) > self._most_bytes:
                self._plain.popitem(last=False)
            self._plain[shape] = _Bound(self._session, self._device, self._input, shape, -1)
            self._plain[shape].bind_new(self._outputs)
        self._plain.move_to_end(shape)
        return self._plain[shape].answer(values)

    def _capture(self, values: Values, expected: Sequence[NDArray[Any]]) -> "_Bound":
        """
        Raises:
            RuntimeError: the graph's answer is not the ``expected`` one.
        """
        graph = _Bound(self._session, self._device, self._input, values.shape, len(self._graphs) + 1)
        graph.bind_places(self._outputs, expected)
        # With other values than it is then compared with: a graph that goes on giving its first answer is found out.
        graph.answer(255 - values)
        for name, replayed, plain in zip(self._outputs, graph.answer(values), expected, strict=True):
            if not np.allclose(replayed, plain, rtol=_RTOL, atol=_ATOL):
                off = float(np.abs(replayed - plain).max())
                raise RuntimeError(f"{name} of a graph for {values.shape} is off by {off:.3g} from a plain run")
        return graph


class _Bound:
    """The input of one shape, on the device, and where the outputs go."""

    def __init__(self, session: ort.InferenceSession, device: Device, name: str, shape: Shape, graph: int) -> None:
        """``graph``: its number, -1 for none."""
        self._session, self._device, self._shape = session, device, shape
        self._buffer = ort.OrtValue.ortvalue_from_shape_and_type(shape, np.uint8, device.kind, device.number)
        self._stage = page_locked(shape, device.number) if device.kind == "cuda" else None
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(name, self._buffer)
        self._options = run_options(graph)

    def bind_new(self, outputs: Sequence[str]) -> None:
        """Outputs come to RAM, wherever ONNX Runtime has room."""
        for name in outputs:
            self._binding.bind_output(name, "cpu")

    def bind_places(self, outputs: Sequence[str], like: Sequence[NDArray[Any]]) -> None:
        """Outputs come to places of their own on the device."""
        for name, one in zip(outputs, like, strict=True):
            place = ort.OrtValue.ortvalue_from_shape_and_type(
                one.shape, one.dtype, self._device.kind, self._device.number
            )
            self._binding.bind_ortvalue_output(name, place)

    def answer(self, values: Values) -> list[NDArray[Any]]:
        """The outputs of ``values``, which may be fewer than there is room for."""
        count = len(values)
        if self._stage is not None or count < self._shape[0]:
            stage = np.zeros(self._shape, np.uint8) if self._stage is None else self._stage
            # What a longer batch left behind the last one does no harm: images of a batch know nothing of each other.
            stage[:count] = values
            values = stage
        self._buffer.update_inplace(np.ascontiguousarray(values))
        self._session.run_with_iobinding(self._binding, self._options)
        return [np.array(output.numpy()[:count]) for output in self._binding.get_outputs()]


def run_options(graph: int = -1) -> ort.RunOptions:
    """For one run: the number of the graph to capture or replay, -1 for a plain run. Without graphs it is ignored."""
    options = ort.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(graph))
    return options


def _bytes(shape: Shape) -> int:
    return int(np.prod(shape))
