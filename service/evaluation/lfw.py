"""The verification protocol of Labeled Faces in the Wild, for its photos or those of a folder named alike.

Source: Huang, Ramesh, Berg, Learned-Miller, "Labeled Faces in the Wild", technical report 07-49, University
of Massachusetts, Amherst, 2007.
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from service.errors import InvalidRequest
from service.evaluation.photos import EmbedPhoto, embed_photos, persons_of
from service.evaluation.verification import Pair, VerificationResult, named_in

# A name becomes a part of a path, so it may not lead out of the images folder.
NAME = re.compile(r"[^\s/\\.][^\s/\\]*")


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of ``pairs.txt`` (View 2), or of ``pairsDevTrain.txt`` and ``pairsDevTest.txt`` (View 1).

    The first line says how many folds there are and how many pairs of each kind a fold has; a single number
    is the latter, for one fold. Each fold lists its matched pairs, ``Name i j``, then its mismatched ones,
    ``NameA i NameB j``.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"the pairs file {path} cannot be read: {error}") from error
    folds, per_fold = _read_header(path, lines[0] if lines else "")
    body = [(number, line) for number, line in enumerate(lines[1:], start=2) if line.strip()]
    if len(body) != 2 * folds * per_fold:
        raise InvalidRequest(
            f"{path}, line 1: {lines[0]!r} announces {2 * folds * per_fold} pairs, but {len(body)} follow; "
            "the file is cut off or not one of LFW's pairs files"
        )
    return [
        _read_pair(path, number, line, genuine=k // per_fold % 2 == 0, fold=k // (2 * per_fold))
        for k, (number, line) in enumerate(body)
    ]


def evaluate_lfw(
    embed_photo: EmbedPhoto, images: Path, pairs_file: Path, workers: int, name: str = "lfw"
) -> VerificationResult:
    """Embed each photo of the protocol once, in ``workers`` threads, and compare its pairs.

    A photo without a usable face, or that cannot be decoded, is kept as undetected: leaving its pairs out
    would flatter the system. A photo that is missing is an error: the protocol would be another one.
    """
    pairs = tuple(read_pairs(pairs_file))
    names = named_in(pairs)
    _require_photos(images, names)
    photos = embed_photos(embed_photo, images, names, workers)
    digest = hashlib.sha256(pairs_file.read_bytes()).hexdigest()
    return VerificationResult(name, pairs, photos, persons_of(names)[1], True, pairs_file, digest)


def _require_photos(images: Path, photos: Sequence[str]) -> None:
    missing = [photo for photo in photos if not (images / photo).is_file()]
    if missing:
        raise InvalidRequest(
            f"{len(missing)} of the {len(photos)} photos are not in {images}, the first being {missing[0]}; "
            "give the folder that has one folder per person",
            {"missing": len(missing), "first_missing": missing[0], "images": str(images)},
        )


def _read_header(path: Path, line: str) -> tuple[int, int]:
    numbers = [int(field) for field in line.split() if field.isascii() and field.isdigit()]
    if len(numbers) != len(line.split()) or len(numbers) not in (1, 2) or 0 in numbers:
        raise InvalidRequest(f"{path}, line 1: {line!r} is not the number of folds and of pairs of each kind per fold")
    return (numbers[0], numbers[1]) if len(numbers) == 2 else (1, numbers[0])


def _read_pair(path: Path, number: int, line: str, genuine: bool, fold: int) -> Pair:
    fields = line.split()
    form = "Name i j" if genuine else "NameA i NameB j"
    if len(fields) != len(form.split()):
        kind = "matched" if genuine else "mismatched"
        raise InvalidRequest(f"{path}, line {number}: {line!r} is not a {kind} pair, {form!r}")
    if genuine:
        fields.insert(2, fields[0])
    for name, index in (fields[:2], fields[2:]):
        if not NAME.fullmatch(name) or not re.fullmatch(r"[0-9]{1,4}", index):
            raise InvalidRequest(f"{path}, line {number}: {line!r} does not name photos as {form!r}")
    first, second = (f"{name}/{name}_{int(index):04d}.jpg" for name, index in (fields[:2], fields[2:]))
    return Pair(first, second, genuine, fold)
