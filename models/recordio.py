"""InsightFace's training sets: MXNet RecordIO files of aligned faces, read without MXNet.

A folder holds ``train.rec``, ``train.idx`` and ``property``. The format, little-endian throughout:

- ``train.rec``: parts, each uint32 0xced7230a, uint32 kind << 29 | length, then so many bytes, padded to a multiple
  of 4. Kind 0 is a whole record. A record that contains the magic number at such a multiple is cut there: its parts
  are of kind 1, then 2 as often as needed, then 3, and the magic number belongs between them.
- A record: uint32 flag, float32 label, uint64 id, uint64 id2; with flag > 0 follow as many float32, which are the
  label instead. The rest is a JPEG.
- ``train.idx``: a line ``key TAB offset`` for each record.
- ``property``: ``identities,height,width``.
- Record 0 of InsightFace has a flag and no image; its label begins with the key after the last photo. Records from
  there on are about identities, not photos.
"""

import hashlib
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from service.progress import track

MAGIC = 0xCED7230A
PART = struct.Struct("<II")
HEADER = struct.Struct("<IfQQ")
WHOLE, FIRST, MIDDLE, LAST = range(4)


@dataclass(frozen=True)
class Record:
    """One record: its label, one number or several, and the bytes that follow the header."""

    label: tuple[float, ...]
    content: bytes


class RecordFile:
    """Photos of a RecordIO folder by row, 0 to n − 1, in the order of their keys. May be read by several threads.

    Attributes:
        labels: (n,) int64, the identity of each photo, from 0.
        identities: how many ``property`` says there are.
        size: (height, width) of the crops, from ``property``.
        digest: sha256 of ``property`` and ``train.idx``, which has the place of every record; the photos themselves
            would take minutes to read.
    """

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            ValueError: a file is missing or not of this format; the message says which and where.
        """
        try:
            properties, index = (folder / "property").read_text(), (folder / "train.idx").read_text()
            self.identities, height, width = map(int, properties.split(","))
            offsets = {int(key): int(offset) for key, offset in (line.split("\t") for line in index.splitlines())}
            with (folder / "train.rec").open("rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{folder} is not a RecordIO folder with train.rec, train.idx, property: {error}"
            ) from error
        self.size = (height, width)
        self.digest = hashlib.sha256((properties + index).encode()).hexdigest()
        self._path = folder / "train.rec"
        keys = sorted(offsets)
        # A header without an image is there only in InsightFace's own sets.
        if keys and not (first := self.record_at(offsets[keys[0]])).content:
            keys = [key for key in keys[1:] if key < first.label[0]]
        if not keys:
            raise ValueError(f"{folder / 'train.idx'} lists no photos")
        self._offsets = np.array([offsets[key] for key in keys], np.int64)
        self.labels = np.array(
            [self._identity(offset) for offset in track(self._offsets.tolist(), "reading labels", len(keys), "photo")],
            np.int64,
        )

    def __len__(self) -> int:
        return len(self._offsets)

    def read(self, row: int) -> NDArray[np.uint8]:
        """The photo as uint8 (height, width, 3) RGB.

        Raises:
            ValueError: it cannot be decoded, or has another size than ``property`` says.
        """
        offset = int(self._offsets[row])
        content = np.frombuffer(self.record_at(offset).content, np.uint8)
        pixels = cv2.imdecode(content, cv2.IMREAD_COLOR) if content.size else None
        if pixels is None or pixels.shape != (*self.size, 3):
            found = "not an image" if pixels is None else f"an image of {pixels.shape[:2]}, not {self.size}"
            raise ValueError(f"{self._path}, record at {offset}: {found}")
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)

    def record_at(self, offset: int) -> Record:
        """The record that begins at a byte of ``train.rec``.

        Raises:
            ValueError: no record begins there, or it is cut off.
        """
        content = self._joined(offset)
        label = self._label(content, offset)
        [flag] = struct.unpack_from("<I", content)
        return Record(label, content[HEADER.size + 4 * flag :])

    def _identity(self, offset: int) -> int:
        # Only the header is read; the photos would be the whole file.
        identity = int(self._label(self._joined(offset, HEADER.size + 4), offset, most=1)[0])
        if not 0 <= identity < self.identities:
            raise ValueError(
                f"{self._path}, record at {offset}: identity {identity}, where property announces {self.identities}"
            )
        return identity

    def _label(self, content: bytes, offset: int, most: int | None = None) -> tuple[float, ...]:
        """The label, or the first ``most`` numbers of it."""
        flag, label = struct.unpack_from("<If", content) if len(content) >= HEADER.size else (1, 0.0)
        count = flag if most is None else min(flag, most)
        if len(content) < HEADER.size + 4 * count:
            raise ValueError(f"{self._path}, record at {offset}: {len(content)} bytes are too few for its header")
        return struct.unpack_from(f"<{count}f", content, HEADER.size) if count else (label,)

    def _joined(self, offset: int, enough: int | None = None) -> bytes:
        """The record's parts put together; where ``enough`` is given, no more than is needed for so many bytes."""
        joined = b""
        position = offset
        while True:
            inside = 0 <= position <= len(self._bytes) - PART.size
            magic, word = PART.unpack_from(self._bytes, position) if inside else (0, 0)
            kind, length = word >> 29, word & ((1 << 29) - 1)
            start = position + PART.size
            expected = (WHOLE, FIRST) if position == offset else (MIDDLE, LAST)
            if magic != MAGIC or kind not in expected or start + length > len(self._bytes):
                raise ValueError(f"{self._path}, byte {position}: no part of a record, or one that is cut off")
            joined += self._bytes[start : start + (length if enough is None else min(length, enough))]
            if kind in (WHOLE, LAST) or (enough is not None and len(joined) >= enough):
                return joined
            joined += struct.pack("<I", MAGIC)
            position = start + length + -length % 4
