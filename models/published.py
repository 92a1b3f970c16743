"""Tensors out of other people's checkpoints, without running what those carry.

``torch.save`` writes pickles, and a pickle is a program: it may name any function of any module and have it called.
``torch.load(weights_only=True)`` refuses the checkpoints in which a whole network was saved. Here those are read too:
every name in the pickle is replaced by something inert, nothing is imported, and the tensors are laid out from plain
records afterwards. Both formats of ``torch.save`` are read, the zip file and the stream of before version 1.6.
"""

import io
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor, nn

from models.backbones import make_backbone
from models.backbones.mobilefacenet import from_facex_zoo

ZIP = b"PK\x03\x04"
# The stream begins with these two numbers, each a pickle of its own (torch/serialization.py).
MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001

# Whose networks are known: the backbone that is theirs too, and how the names of their tensors become ours.
PUBLISHED: Mapping[str, tuple[Callable[[], nn.Module], Callable[[Mapping[str, Tensor]], dict[str, Tensor]]]] = {
    "facex-zoo-mobilefacenet": (partial(make_backbone, "mobilefacenet", 512), from_facex_zoo),
}

DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def published_backbone(path: Path, name: str) -> nn.Module:
    """A backbone in evaluation mode, with the weights of a published checkpoint.

    Args:
        name: whose network it is, one of ``PUBLISHED``.

    Raises:
        OSError: the file cannot be read.
        ValueError: an unknown name, or the file does not hold the weights of that network.
    """
    if name not in PUBLISHED:
        raise ValueError(f"published backbone is {name!r}; known: {', '.join(PUBLISHED)}")
    make, rename = PUBLISHED[name]
    network, tensors = make(), rename(read_tensors(path))
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:  # names or shapes that differ
        raise ValueError(f"{path} does not hold the weights of {name}: {error}") from error
    return network.eval()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint, on the CPU, by the names that ``state_dict`` gives them.

    A saved network's parameters and buffers have their module's path before them, ``conv1.bn.weight``. Tensors in
    dictionaries have the keys on the way before them, ``state_dict.conv1.bn.weight``. Other contents are left out.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no checkpoint of torch, is damaged, holds no tensor, or one of a kind that is not supported.
    """
    content = path.read_bytes()
    read = _read_zip if content.startswith(ZIP) else _read_stream
    try:
        root, storages = read(io.BytesIO(content))
        tensors = {}
        for name, layout in _named(root, ""):
            if name in tensors:
                raise ValueError(f"two tensors are called {name!r}")
            tensors[name] = layout.of(storages[layout.storage.key])
    except Exception as error:  # a pickle that is damaged, or made to harm, can end in nearly any
        raise ValueError(f"the tensors of {path} cannot be read: {error}") from error
    if not tensors:
        raise ValueError(f"{path} holds no tensors in a network or in dictionaries")
    return tensors


class _Storage(NamedTuple):
    """Numbers in a row, somewhere in the file."""

    key: str
    dtype: torch.dtype
    length: int


class _Layout(NamedTuple):
    """A tensor as a view of a storage; offset and strides count elements."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def of(self, numbers: Tensor) -> Tensor:
        # Refuses what reaches outside the storage.
        return numbers.as_strided(self.size, self.stride, self.offset)


class _Inert:
    """Stands for whatever class or function the pickle names, and for what it would make. Keeps the state only."""

    state: object = None

    def __new__(cls, *_: object, **__: object) -> "_Inert":
        return super().__new__(cls)

    def __call__(self, *_: object, **__: object) -> "_Inert":
        return self

    def __setstate__(self, state: object) -> None:
        self.state = state

    def ignore(self, *_: object) -> None:
        """What unpickling calls to fill a container."""

    __setitem__ = append = extend = add = ignore


class _Dictionary(dict[Any, Any]):
    """In the place of ``OrderedDict``, whose instances would take attributes from the pickle."""

    def __setstate__(self, state: object) -> None:
        """The notes that ``state_dict`` leaves on itself are not needed."""


def _tensor(storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> _Layout:
    return _Layout(storage, offset, size, stride)


def _parameter(layout: _Layout, *_: object) -> _Layout:
    return layout


KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): _Dictionary,
    ("__builtin__", "set"): set,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
}


class _Unpickler(pickle.Unpickler):
    """Knows the names in ``KNOWN`` and ``DTYPES``; all others are inert."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(stream, encoding="utf-8")
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str, /) -> Any:
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        if module == "torch._utils" and (module, name) not in KNOWN:
            # Inert, it would lose a tensor in silence.
            raise ValueError(f"{module}.{name} makes a kind of tensor that is not supported")
        known = KNOWN.get((module, name), _Inert)
        # A pickle may also set attributes on what it names, defaults say; a function of ours would keep them.
        return known if isinstance(known, type) else partial(known)

    def persistent_load(self, pid: Any, /) -> Any:
        kind, *rest = pid
        if kind == "module":  # class, source file, source
            return rest[0]
        dtype, key, _, length, *view = rest
        if kind != "storage" or not isinstance(dtype, torch.dtype) or any(view):
            raise ValueError(f"it refers to {pid!r}, which is not supported")
        storage = _Storage(key, dtype, length)
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError(f"storage {key!r} is described in two ways")
        return storage


def _read_zip(content: BinaryIO) -> tuple[object, dict[str, Tensor]]:
    with zipfile.ZipFile(content) as archive:
        names = archive.namelist()
        root = next((name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl")), None)
        if root is None:
            raise ValueError("it is a zip file without data.pkl")
        if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
            raise ValueError("it was written by a big-endian machine")
        unpickler = _Unpickler(io.BytesIO(archive.read(f"{root}data.pkl")))
        tree = unpickler.load()
        numbers = {
            key: _numbers(archive.read(f"{root}data/{key}"), storage) for key, storage in unpickler.storages.items()
        }
        return tree, numbers


def _read_stream(content: BinaryIO) -> tuple[object, dict[str, Tensor]]:
    if (_Unpickler(content).load(), _Unpickler(content).load()) != (MAGIC, PROTOCOL):
        raise ValueError("it is neither of the formats of torch.save")
    if not _Unpickler(content).load()["little_endian"]:
        raise ValueError("it was written by a big-endian machine")
    unpickler = _Unpickler(content)
    tree = unpickler.load()
    numbers = {}
    for key in _Unpickler(content).load():
        storage = unpickler.storages[key]
        [length] = struct.unpack("<q", content.read(8))
        if length != storage.length:
            raise ValueError(f"storage {key!r} has {length} numbers instead of {storage.length}")
        numbers[key] = _numbers(content.read(length * storage.dtype.itemsize), storage)
    return tree, numbers


def _numbers(data: bytes, storage: _Storage) -> Tensor:
    if len(data) != storage.length * storage.dtype.itemsize:
        raise ValueError(f"storage {storage.key!r} has {len(data)} bytes instead of {storage.length} {storage.dtype}")
    # A bytearray, as torch warns of memory that must not be written; it has no tensor of an empty one.
    return torch.frombuffer(bytearray(data), dtype=storage.dtype) if data else torch.empty(0, dtype=storage.dtype)


def _named(value: object, path: str) -> Iterator[tuple[str, _Layout]]:
    """Every tensor below ``value``, with the names on the way to it."""
    if isinstance(value, _Layout):
        yield path, value
    elif isinstance(value, _Inert) and isinstance(value.state, Mapping) and "_modules" in value.state:
        state = value.state
        transient = state.get("_non_persistent_buffers_set", ())
        yield from _named(state["_parameters"], path)
        yield from _named({k: v for k, v in state["_buffers"].items() if k not in transient}, path)
        yield from _named(state["_modules"], path)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _named(inner, f"{path}.{key}" if path else str(key))
