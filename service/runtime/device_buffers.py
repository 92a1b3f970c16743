"""Runs a network on a GPU through buffers that stay there."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

# Input buffers lie outside ONNX Runtime's arena and so outside its ceiling. 8 tiles of 1280² are 39 MB.
_MOST_BYTES = 128 << 20


class BoundSession:
    """A session with one input, run by one caller at a time: one stream of work.

    The input, uint8, is copied into a buffer on the device that is kept for its shape; where ``run`` would allocate
    one for every call. The outputs come back to RAM. Those used least lately are given up beyond ``most_bytes``.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        outputs: Sequence[str],
        device: str,
        gpu: int,
        most_bytes: int = _MOST_BYTES,
    ) -> None:
        """``device``: "cuda", or "cpu" where there is no GPU."""
        self._session, self._outputs = session, tuple(outputs)
        self._input: str = session.get_inputs()[0].name
        self._device, self._gpu, self._most_bytes = device, gpu, most_bytes
        self._lock = threading.Lock()
        self._bound: OrderedDict[tuple[int, ...], tuple[ort.OrtValue, ort.SessionIOBinding]] = OrderedDict()

    def __call__(self, values: NDArray[np.uint8]) -> list[NDArray[Any]]:
        """The outputs, as arrays of the caller's own."""
        values = np.ascontiguousarray(values)
        with self._lock:
            buffer, binding = self._binding(values.shape)
            buffer.update_inplace(values)
            self._session.run_with_iobinding(binding)
            return [np.array(output.numpy()) for output in binding.get_outputs()]

    @property
    def kept(self) -> list[tuple[int, ...]]:
        """Shapes with a buffer, the one used last at the end."""
        return list(self._bound)

    def _binding(self, shape: tuple[int, ...]) -> tuple[ort.OrtValue, ort.SessionIOBinding]:
        if shape not in self._bound:
            while self._bound and sum(map(_bytes, self._bound)) + _bytes(shape) > self._most_bytes:
                self._bound.popitem(last=False)
            buffer = ort.OrtValue.ortvalue_from_shape_and_type(shape, np.uint8, self._device, self._gpu)
            binding = self._session.io_binding()
            binding.bind_ortvalue_input(self._input, buffer)
            for name in self._outputs:
                binding.bind_output(name, "cpu")
            self._bound[shape] = buffer, binding
        self._bound.move_to_end(shape)
        return self._bound[shape]


def _bytes(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape))
