"""Page-locked memory: what lies in it goes to a GPU by direct access, without a copy into the driver's own buffers.

ONNX Runtime's Python interface allocates none for its CUDA provider, so memory of numpy is locked through NVIDIA's
driver, in the context that CUDA shares with all libraries of the process. Not run on a GPU yet.
"""

import ctypes
import logging
import weakref
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)

# For all contexts of the process.
_PORTABLE = 1


def page_locked(shape: Sequence[int], gpu: int) -> NDArray[np.uint8] | None:
    """A uint8 array whose memory is locked for as long as the array is there; None, said once, where it cannot be."""
    array = np.zeros(shape, np.uint8)
    address = array.ctypes.data
    try:
        driver = _driver()
        context = _context(gpu)
        _ask(driver.cuCtxPushCurrent_v2, context)
        try:
            _ask(driver.cuMemHostRegister_v2, ctypes.c_void_p(address), ctypes.c_size_t(array.nbytes), _PORTABLE)
        finally:
            _ask(driver.cuCtxPopCurrent_v2, ctypes.byref(ctypes.c_void_p()))
    except OSError as error:
        _say_once(str(error))
        return None
    weakref.finalize(array, _release, context, address)
    return array


def _release(context: ctypes.c_void_p, address: int) -> None:
    driver = _driver()
    driver.cuCtxPushCurrent_v2(context)
    driver.cuMemHostUnregister(ctypes.c_void_p(address))
    driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))


@cache
def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")


@cache
def _context(gpu: int) -> ctypes.c_void_p:
    """The primary context of a GPU, which CUDA's runtime uses too; kept to the end of the process."""
    device, context = ctypes.c_int(), ctypes.c_void_p()
    _ask(_driver().cuInit, 0)
    _ask(_driver().cuDeviceGet, ctypes.byref(device), gpu)
    _ask(_driver().cuDevicePrimaryCtxRetain, ctypes.byref(context), device)
    return context


def _ask(function: "ctypes._NamedFuncPointer", *arguments: object) -> None:
    if status := function(*arguments):
        raise OSError(f"{function.__name__} answers with status {status}")


@cache
def _say_once(reason: str) -> None:
    log.warning("Photos go to the GPU from memory that is not locked: %s", reason)
