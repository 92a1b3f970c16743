"""Whether an ONNX file is all there, read off its protobuf without ``onnx``, which the service does without.

Tensors may name other files, with paths out of the folder, and ONNX Runtime does not refuse them everywhere: inside a
subgraph it loads what lies in the working directory. So no file with such a tensor is given to it. Field numbers are
those of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto); the encoding is protobuf's
(https://protobuf.dev/programming-guides/encoding/).
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

_EXTERNAL_DATA, _DATA_LOCATION, _EXTERNAL = 13, 14, 1
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# The fields of each message through which a tensor can be reached, and the messages they hold.
_FIELDS: Mapping[str, Mapping[int, str]] = MappingProxyType(
    {
        "model": {7: "graph", 20: "training", 25: "function"},
        "graph": {1: "node", 5: "tensor", 15: "sparse"},
        "node": {5: "attribute"},
        "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
        "sparse": {1: "tensor", 2: "tensor"},
        "function": {7: "node", 11: "attribute"},
        "training": {1: "graph", 2: "graph"},
    }
)


def keeps_data_outside(model: bytes) -> bool:
    """Whether any tensor of a serialised ``ModelProto``, however deep, has its data in another file.

    Raises:
        ValueError: not protobuf.
    """
    rest = [("model", memoryview(model))]
    while rest:
        kind, content = rest.pop()
        for field, value in _fields(content):
            if kind == "tensor":
                if field == _EXTERNAL_DATA or (field == _DATA_LOCATION and value == _EXTERNAL):
                    return True
            elif isinstance(value, memoryview) and (inner := _FIELDS[kind].get(field)):
                rest.append((inner, value))
    return False


def _fields(content: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Numbers and values of a message's fields; of fixed-width ones only the number, with 0."""
    place = 0
    while place < len(content):
        key, place = _varint(content, place)
        field, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, place = _varint(content, place)
            yield field, value
            continue
        if wire == _BYTES:
            length, place = _varint(content, place)
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire}")
        if length > len(content) - place:
            raise ValueError("cut off")
        yield field, content[place : place + length] if wire == _BYTES else 0
        place += length


def _varint(content: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(content):
            raise ValueError("cut off")
        byte = content[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (2**64 - 1), place
    raise ValueError("a number of more than ten bytes")
