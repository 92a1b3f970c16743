"""RecordIO files, written here by the format's description, are read back."""

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from models.data import record_faces
from models.recordio import RecordFile

MAGIC = struct.pack("<I", 0xCED7230A)


def written_record(content: bytes) -> bytes:
    """A record as dmlc's writer leaves it: cut at every magic number that lies at a multiple of four."""
    pieces, start = [], 0
    for position in range(0, len(content) - 3, 4):
        if content[position : position + 4] == MAGIC:
            pieces.append(content[start:position])
            start = position + 4
    pieces.append(content[start:])
    kinds = [0] if len(pieces) == 1 else [1, *[2] * (len(pieces) - 2), 3]
    parts = [
        MAGIC + struct.pack("<I", kind << 29 | len(piece)) + piece + b"\0" * (-len(piece) % 4)
        for kind, piece in zip(kinds, pieces, strict=True)
    ]
    return b"".join(parts)


def header(label: float | list[float]) -> bytes:
    if isinstance(label, list):
        return struct.pack("<IfQQ", len(label), 0.0, 7, 0) + struct.pack(f"<{len(label)}f", *label)
    return struct.pack("<IfQQ", 0, label, 7, 0)


def write_folder(folder: Path, records: dict[int, bytes], properties: str) -> Path:
    folder.mkdir()
    index, content = [], b""
    for key, record in records.items():
        index.append(f"{key}\t{len(content)}\n")
        content += written_record(record)
    (folder / "train.rec").write_bytes(content)
    (folder / "train.idx").write_text("".join(index))
    (folder / "property").write_text(properties)
    return folder


def photo(seed: int, size: int = 112) -> tuple[NDArray[np.uint8], bytes]:
    """Smooth noise, RGB, and a JPEG of it."""
    noise = np.random.default_rng(seed).integers(0, 255, (7, 7, 3), dtype=np.uint8)
    pixels = cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
    done, encoded = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 98])
    assert done
    return np.asarray(pixels, np.uint8), encoded.tobytes()


def test_insightface_folder_is_read_in_any_order(tmp_path: Path) -> None:
    photos = {key: photo(key) for key in (1, 2, 3, 4)}
    labels: dict[int, float | list[float]] = {1: 0.0, 2: 1.0, 3: [1.0, 0.0], 4: 0.0}
    records = {0: header([5.0, 7.0])}
    records |= {key: header(labels[key]) + photos[key][1] for key in photos}
    records |= {5: header([1.0, 3.0]), 6: header([3.0, 5.0])}  # of identities, not photos
    file = RecordFile(write_folder(tmp_path / "set", records, "2,112,112"))
    assert len(file) == 4
    assert file.labels.tolist() == [0, 1, 1, 0]
    for row in (3, 0, 2, 1):
        difference = np.abs(file.read(row).astype(int) - photos[row + 1][0])
        # JPEG is not exact; red and blue in each other's place would be far off.
        assert difference.mean() < 3


def test_folder_without_a_header_record(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", {3: header(1.0) + photo(1)[1], 1: header(0.0) + photo(2)[1]}, "2,112,112")
    faces = record_faces(folder)
    assert faces.labels.tolist() == [0, 1]
    assert faces.identities == ("0", "1")
    assert faces.alignment.size == 112
    assert faces.of(["1"]).read(0).tolist() == faces.read(1).tolist()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_magic_numbers_inside_a_record_come_back(tmp_path: Path, count: int) -> None:
    payload = b"ab" + b"".join(b"12" + MAGIC + b"x" * 8 for _ in range(count)) + MAGIC + b"end"
    # The header has 24 bytes: at a multiple of four lie all but the last.
    folder = write_folder(tmp_path / "set", {1: header(0.0) + payload, 2: header(0.0) + MAGIC}, "1,112,112")
    content = (folder / "train.rec").read_bytes()
    assert struct.unpack_from("<I", content, 4)[0] >> 29 == 1
    file = RecordFile(folder)
    assert file.record_at(0).content == payload
    second = int((folder / "train.idx").read_text().split()[3])
    assert file.record_at(second).content == MAGIC


def test_magic_number_in_the_header_does_not_hide_the_label(tmp_path: Path) -> None:
    [odd] = struct.unpack("<f", MAGIC)
    folder = write_folder(tmp_path / "set", {1: header([0.0, odd]) + b"1234"}, "1,112,112")
    file = RecordFile(folder)
    assert file.labels.tolist() == [0]
    assert file.record_at(0).content == b"1234"


def test_what_is_not_a_record_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a RecordIO folder"):
        RecordFile(tmp_path)
    good = {1: header(0.0) + photo(1)[1]}
    with pytest.raises(ValueError, match="identity 0, where property announces 0"):
        RecordFile(write_folder(tmp_path / "none", good, "0,112,112"))
    with pytest.raises(ValueError, match="of which the alignment is not known"):
        record_faces(write_folder(tmp_path / "size", good, "1,96,112"))
    cut = write_folder(tmp_path / "cut", good, "1,112,112")
    (cut / "train.rec").write_bytes((cut / "train.rec").read_bytes()[:-100])
    with pytest.raises(ValueError, match="byte 0: no part of a record, or one that is cut off"):
        RecordFile(cut)
    astray = write_folder(tmp_path / "astray", good, "1,112,112")
    (astray / "train.idx").write_text("1\t8\n")
    with pytest.raises(ValueError, match="byte 8: no part"):
        RecordFile(astray)
    with pytest.raises(ValueError, match=r"train.idx lists no photos"):
        RecordFile(write_folder(tmp_path / "empty", {0: header([1.0, 1.0])}, "1,112,112"))


def test_photos_of_another_kind_are_refused(tmp_path: Path) -> None:
    records = {1: header(0.0) + b"no jpeg", 2: header(0.0) + photo(1, 96)[1]}
    file = RecordFile(write_folder(tmp_path / "set", records, "1,112,112"))
    with pytest.raises(ValueError, match="record at 0: not an image"):
        file.read(0)
    with pytest.raises(ValueError, match=r"an image of \(96, 96\), not \(112, 112\)"):
        file.read(1)
