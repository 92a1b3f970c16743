"""InsightFace's verification sets (``lfw.bin``, ``cfp_fp.bin``, ``agedb_30.bin``, …): aligned faces and pairs of them.

A file is the pickle of (encoded crops, labels): crops 2i and 2i + 1 are pair i, labels[i] says whether they are of one
person. Some were written by Python 2. A pickle is a program that may call anything, so nothing of it is run: it may
hold lists, bytes and bools, and the few names by which Python and numpy write bytes and bools stand for constructors of
our own. Any other name is refused.

There are ten folds of consecutive pairs, as InsightFace has them (scikit-learn's ``KFold``, not shuffled): the first
ones are one larger where the number is not divisible. Thresholds are chosen among all scores, InsightFace's on a grid
of 0.01 in squared distance, so accuracies may differ in the last digit.
"""

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidRequest
from service.evaluation.photos import EmbedPhoto, embed_contents
from service.evaluation.verification import Pair, VerificationResult

FOLDS = 10


def read_bin(path: Path) -> tuple[list[bytes], list[bool]]:
    """The encoded crops, 2n of them, and the labels of the n pairs.

    Raises:
        InvalidRequest: it cannot be read, names something that such a file has no need of, or holds something else.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"the file {path} cannot be read: {error}") from error
    try:
        found = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a pickle that is damaged, or made to harm, can end in nearly any
        raise InvalidRequest(
            f"{path} is not a verification set, a pickle of crops and labels: {str(error) or repr(error)}"
        ) from error
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise InvalidRequest(f"{path} holds a {type(found).__name__} and not two lists, crops and labels")
    crops: Any = found[0]
    labels: Any = getattr(found[1], "values", None) if isinstance(found[1], _BoolArray) else found[1]
    for what, kind, values in (("crops", bytes, crops), ("labels", bool, labels)):
        if not isinstance(values, list) or not all(type(value) is kind for value in values):
            others = {type(value).__name__ for value in values} if isinstance(values, list) else {type(values).__name__}
            raise InvalidRequest(f"{path}: the {what} are not a list of {kind.__name__} but {sorted(others)}")
    if len(crops) != 2 * len(labels) or len(labels) < FOLDS:
        raise InvalidRequest(
            f"{path} holds {len(crops)} crops and {len(labels)} labels; there are two crops for each label, and "
            f"{FOLDS} pairs or more"
        )
    return crops, labels


def evaluate_bin(embed_crop: EmbedPhoto, path: Path, workers: int) -> VerificationResult:
    """Embed each distinct crop of the file once, in ``workers`` threads, and compare its pairs.

    The file does not say who the persons are. Crops of equal bytes are one, and what genuine pairs join is one person.

    Args:
        embed_crop: embeds an encoded crop as it is; the whole of it is the face.
    """
    crops, labels = read_bin(path)
    name_of: dict[bytes, str] = {}
    for number, crop in enumerate(crops):
        name_of.setdefault(crop, f"{number:06d}")
    folds = np.repeat(np.arange(FOLDS), [len(part) for part in np.array_split(labels, FOLDS)])
    pairs = tuple(
        Pair(name_of[crops[2 * i]], name_of[crops[2 * i + 1]], genuine, int(folds[i]))
        for i, genuine in enumerate(labels)
    )
    content_of = {name: crop for crop, name in name_of.items()}
    photos = embed_contents(embed_crop, content_of.__getitem__, list(content_of), workers)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return VerificationResult(path.stem, pairs, photos, _joined(photos.names, pairs), False, path, digest)


def _joined(names: tuple[str, ...], pairs: tuple[Pair, ...]) -> NDArray[np.int64]:
    """(p,) the same number for crops that a chain of genuine pairs joins."""
    parent = {name: name for name in names}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = name = parent[parent[name]]
        return name

    for pair in pairs:
        if pair.genuine:
            parent[root(pair.first)] = root(pair.second)
    return np.unique([root(name) for name in names], return_inverse=True)[1].astype(np.int64)


class _Stateless:
    """A pickle may set attributes on whatever it names; a class that has this method does not take them."""

    def __setstate__(self, state: object) -> None:
        """What is made has all it needs."""


class _Bytes(_Stateless):
    """``_codecs.encode(text, "latin1")``: how Python 3 writes bytes for Python 2."""

    def __new__(cls, text: object, encoding: object) -> Any:
        if type(text) is not str or encoding != "latin1":
            raise pickle.UnpicklingError(f"it encodes {type(text).__name__} as {encoding!r}")
        return text.encode("latin1")


class _BoolType(_Stateless):
    """``numpy.dtype("bool")``."""

    def __init__(self, code: object, *_: object) -> None:
        if code not in ("b1", b"b1"):
            raise pickle.UnpicklingError(f"it holds numbers of numpy's type {code!r}, not bool")


class _Bool(_Stateless):
    """``numpy.bool_``."""

    def __new__(cls, kind: object, content: object) -> Any:
        return _bools(kind, content, 1)[0]


class _BoolArray:
    """``numpy.ndarray`` of bools, (n,): made empty and then given its state, or all at once (protocol 5).

    Attributes:
        values: list of bool.
    """

    def __init__(self, content: object = b"", kind: object = None, shape: object = (0,), *_: object) -> None:
        if kind is not None:
            self.__setstate__((1, shape, kind, False, content))

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, _, content = state
        [length] = shape
        self.values = _bools(kind, content, length)


class _Reconstruct(_Stateless):
    """``numpy.core.multiarray._reconstruct``."""

    def __new__(cls, kind: object, *_: object) -> Any:
        if kind is not _BoolArray:
            raise pickle.UnpicklingError("it makes an array that is none")
        return _BoolArray()


def _bools(kind: object, content: object, length: object) -> list[bool]:
    if not isinstance(kind, _BoolType) or not isinstance(content, bytes | bytearray) or len(content) != length:
        raise pickle.UnpicklingError(f"{length!r} bools are not so many bytes")
    return [byte != 0 for byte in content]


_NUMPY = {"dtype": _BoolType, "ndarray": _BoolArray}
_MULTIARRAY = {"scalar": _Bool, "_reconstruct": _Reconstruct}
_ADMITTED: dict[str, dict[str, type]] = {
    "_codecs": {"encode": _Bytes},
    "numpy": _NUMPY,
    "numpy.core.multiarray": _MULTIARRAY,
    "numpy._core.multiarray": _MULTIARRAY,
    "numpy.core.numeric": {"_frombuffer": _BoolArray},
    "numpy._core.numeric": {"_frombuffer": _BoolArray},
}


class _Unpickler(pickle.Unpickler):
    """Knows the names in ``_ADMITTED`` and imports nothing."""

    def find_class(self, module: str, name: str, /) -> Any:
        try:
            return _ADMITTED[module][name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it names {module}.{name}, which such a file has no need of; nothing of it was run"
            ) from None
