"""Enrolment and search with photos: the recognizer and the galleries together, independent of HTTP."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from service.decision.quality_policy import QualityPolicy
from service.decision.searches import SearchPoint
from service.decision.thresholds import OperatingPoint
from service.engine import Comparison, Engine, Subject, compared
from service.errors import PersonNotFound, UnusableInput
from service.gallery.candidates import Candidate
from service.gallery.gallery import Galleries
from service.gallery.person_template import person_template
from service.gallery.records import FaceRecord, NewFace
from service.gallery.store import AddedFaces, Once
from service.metrics import SEARCH_SIMILARITY
from service.recognition.select import OneFacePolicy, box_details

Answer = Mapping[str, object]

# Two persons above the threshold, closer together than this: see docs/thresholds.md for what was measured.
AMBIGUOUS_MARGIN = 0.15


@dataclass(frozen=True)
class Rejection:
    """A photo that was not enrolled, and why."""

    image_index: int
    error: UnusableInput


@dataclass(frozen=True)
class Identification:
    """What a search says of one probe.

    Attributes:
        identified: does the first candidate reach the threshold?
        candidates: those to tell.
        margin: how much more similar the first candidate is than the second; None where there are not two.
        ambiguous: the second reaches the threshold, too, and is no further than ``AMBIGUOUS_MARGIN`` behind.
    """

    identified: bool
    candidates: tuple[Candidate, ...]
    margin: float | None
    ambiguous: bool


def examine(
    engine: Engine, content: bytes, policy: OneFacePolicy, name: str, quality: QualityPolicy
) -> Subject | UnusableInput:
    """The person in a photo, or the reason why it cannot be used, as a value: other photos go on."""
    try:
        return engine.subject(content, policy, name, quality)
    except UnusableInput as error:
        return error


def enrol(
    galleries: Galleries,
    place: tuple[str, str],
    examined: Sequence[Subject | UnusableInput],
    face_ids: Sequence[str | None],
    once: Once | None,
    code_of: Callable[[UnusableInput], str],
    keep_crops: bool = False,
) -> AddedFaces:
    """Add what could be used of some photos to a person, in one durable step.

    Args:
        place: gallery and person.
        examined: one entry a photo.
        face_ids: the caller's id for each photo's face, or None.
        code_of: the stable code that stands for an error in the answer.
        keep_crops: whether the aligned faces are kept too.

    Raises:
        UnusableInput: no photo could be used; it is the first one's error, with all of them in ``details``.
    """
    rejected = [Rejection(i, e) for i, e in enumerate(examined) if isinstance(e, UnusableInput)]
    used = [(i, s) for i, s in enumerate(examined) if isinstance(s, Subject)]
    told = [{"image_index": r.image_index, "code": code_of(r.error), "message": r.error.message} for r in rejected]
    if not used:
        first = rejected[0].error
        raise type(first)(f"None of {len(examined)} photos could be enrolled. {first.message}", {"rejected": told})
    faces = [
        NewFace(s.embedded.embedding, face_ids[i], _facts(s), s.embedded.crop if keep_crops else None) for i, s in used
    ]

    def answer(records: Sequence[FaceRecord]) -> Answer:
        enrolled = [
            {"face_id": record.id, "image_index": i, **record.facts}
            for record, (i, _) in zip(records, used, strict=True)
        ]
        return {"enrolled": enrolled, "rejected": told}

    return galleries.enrol(*place, faces, once, answer)


def decide(candidates: Sequence[Candidate], point: SearchPoint, only_above: bool) -> Identification:
    """Identified, if the best candidate reaches the threshold; else unknown, an ordinary answer. Counted."""
    above = tuple(c for c in candidates if c.similarity >= point.threshold)
    if candidates:
        SEARCH_SIMILARITY.labels("identified" if above else "unknown").observe(candidates[0].similarity)
    margin = candidates[0].similarity - candidates[1].similarity if len(candidates) > 1 else None
    ambiguous = len(above) > 1 and margin is not None and margin < AMBIGUOUS_MARGIN
    return Identification(bool(above), above if only_above else tuple(candidates), margin, ambiguous)


def verify_enrolled(
    galleries: Galleries,
    place: tuple[str, str],
    subject: Subject,
    choose: Callable[[int], OperatingPoint],
) -> Comparison:
    """Is the person in the photo the enrolled one? What decides is the person's template, the mean of the faces.

    Args:
        choose: the operating point for a person with so many faces.
    """
    templates = galleries.person_embeddings(*place)
    if not len(templates):
        raise PersonNotFound(f"Person {place[1]!r} has no enrolled face to verify against.")
    return compared(person_template(templates), subject.embedded.embedding, choose(len(templates)))


def digest(*parts: object) -> str:
    """sha256 over the content of a request, to tell a repetition from another use of the same idempotency key."""
    total = hashlib.sha256()
    for part in parts:
        content = part if isinstance(part, bytes) else repr(part).encode()
        total.update(len(content).to_bytes(8, "big") + content)
    return total.hexdigest()


def _facts(subject: Subject) -> Mapping[str, object]:
    return {"box": box_details(subject.found.face), "quality": subject.found.quality.details()}
