"""Enrolment and search with photos: the recognizer and the galleries together, independent of HTTP."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.decision.quality_policy import QualityPolicy
from service.decision.thresholds import OperatingPoint
from service.decision.two_spaces import Rule
from service.engine import Comparison, Engine, FoundFace, Subject, compared
from service.errors import ModelMismatch, PersonNotFound, UnusableInput
from service.gallery.candidates import Candidate
from service.gallery.gallery import Galleries
from service.gallery.person_template import person_template
from service.gallery.records import FaceRecord, NewFace
from service.gallery.store import AddedFaces, Once
from service.metrics import SEARCH_SIMILARITY
from service.recognition.select import FacePolicy, OneFacePolicy, box_details

Answer = Mapping[str, object]

# Two persons above the threshold, closer together than this: see docs/thresholds.md for what was measured.
AMBIGUOUS_MARGIN = 0.15


@dataclass(frozen=True)
class Rejection:
    """A photo that was not enrolled, and why."""

    image_index: int
    error: UnusableInput


@dataclass(frozen=True)
class Ranked:
    """A candidate of a search.

    Attributes:
        contract: of the embeddings whose cosine ``found.similarity`` is.
        rank: among those of all embedding spaces, from 1.
        fmr: of this similarity, in a gallery with two spaces, where the calibration can say; else None.
    """

    found: Candidate
    contract: str
    rank: int
    fmr: float | None = None


@dataclass(frozen=True)
class Identification:
    """What a search says of one probe.

    Attributes:
        identified: does the first candidate reach the threshold?
        candidates: those to tell.
        margin: how much more similar the first candidate is than the second; None where there are not two, or where
            they are of two embedding spaces.
        ambiguous: the second reaches the threshold, too, and is no further than ``AMBIGUOUS_MARGIN`` behind, or nobody
            knows how far.
    """

    identified: bool
    candidates: tuple[Ranked, ...]
    margin: float | None
    ambiguous: bool


def examine(
    engines: Sequence[Engine], content: bytes, policy: OneFacePolicy, name: str, quality: QualityPolicy
) -> Subject | UnusableInput:
    """The person in a photo, or the reason why it cannot be used, as a value: other photos go on.

    The first of the engines finds the face, all embed it.
    """
    try:
        return engines[0].subject(content, policy, name, quality, engines[1:])
    except UnusableInput as error:
        return error


def probes(
    engines: Sequence[Engine], content: bytes, policy: FacePolicy
) -> tuple[list[FoundFace], Mapping[str, NDArray[np.float32]]]:
    """The faces of a photo that ``policy`` chooses, and their embeddings (k, d) by contract.

    The first of the engines finds the faces, all embed them.
    """
    first, *others = engines
    image, found = first.embed(content, policy)
    embedded = [face for _, face in found]
    own = [face.embedding for face in embedded] or [np.zeros((0, first.card.contract.dimension), np.float32)]
    vectors = {first.contract: np.stack(own) if embedded else own[0]}
    return [face for face, _ in found], {
        **vectors,
        **{other.contract: other.embed_again(image, embedded, first) for other in others},
    }


def enrol(
    galleries: Galleries,
    place: tuple[str, str],
    contract: str,
    examined: Sequence[Subject | UnusableInput],
    face_ids: Sequence[str | None],
    once: Once | None,
    code_of: Callable[[UnusableInput], str],
    keep_crops: bool = False,
) -> AddedFaces:
    """Add what could be used of some photos to a person, in one durable step.

    Args:
        place: gallery and person.
        contract: of the embeddings of the engine that has found the faces.
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
        NewFace(
            s.embedded.embedding,
            face_ids[i],
            _facts(s),
            s.embedded.crop if keep_crops else None,
            contract,
            s.others,
        )
        for i, s in used
    ]

    def answer(records: Sequence[FaceRecord]) -> Answer:
        enrolled = [
            {"face_id": record.id, "image_index": i, **record.facts}
            for record, (i, _) in zip(records, used, strict=True)
        ]
        return {"enrolled": enrolled, "rejected": told}

    return galleries.enrol(*place, faces, once, answer)


def decide(found: Sequence[tuple[Rule, Sequence[Candidate]]], only_above: bool) -> Identification:
    """Identified, if the best candidate reaches the threshold; else unknown, an ordinary answer. Counted.

    Args:
        found: the candidates of each embedding space, best first, and how it decides.
    """
    several = len(found) > 1
    order = [(rule.excess(c.similarity) if several else 0.0, rule, c) for rule, those in found for c in those]
    if several:
        order.sort(key=lambda entry: (entry[0], entry[2].person.key))
    ranked = tuple(
        Ranked(c, rule.part.contract, rank, rule.fmr(c.similarity) if several else None)
        for rank, (_, rule, c) in enumerate(order, start=1)
    )
    reached = [c.similarity >= rule.point.threshold for _, rule, c in order]
    above = tuple(candidate for candidate, reaches in zip(ranked, reached, strict=True) if reaches)
    if ranked:
        SEARCH_SIMILARITY.labels("identified" if above else "unknown").observe(ranked[0].found.similarity)
    margin = None
    if len(ranked) > 1 and ranked[0].contract == ranked[1].contract:
        margin = ranked[0].found.similarity - ranked[1].found.similarity
    close = len(ranked) > 1 and (margin is None or margin < AMBIGUOUS_MARGIN)
    return Identification(bool(above), above if only_above else ranked, margin, len(above) > 1 and close)


def verify_enrolled(
    galleries: Galleries,
    place: tuple[str, str],
    subject: Mapping[str, NDArray[np.float32]],
    choose: Callable[[str, int], OperatingPoint],
) -> tuple[Comparison, str]:
    """Is the person in the photo the enrolled one? What decides is the person's template, the mean of the faces.

    Args:
        subject: the face by contract.
        choose: the operating point, by contract, for a person with so many faces.

    Returns: also the contract of the embeddings that were compared.

    Raises:
        ModelMismatch: the person is compared under a contract that ``subject`` lacks.
    """
    contract, templates = galleries.person_embeddings(*place)
    if not len(templates):
        raise PersonNotFound(f"Person {place[1]!r} has no enrolled face to verify against.")
    if contract not in subject:
        raise ModelMismatch(
            f"Person {place[1]!r} is compared under contract {contract[:16]!r}…; embed the photo again.",
            {"embedding_contract": contract},
        )
    return compared(person_template(templates), subject[contract], choose(contract, len(templates))), contract


def digest(*parts: object) -> str:
    """sha256 over the content of a request, to tell a repetition from another use of the same idempotency key."""
    total = hashlib.sha256()
    for part in parts:
        content = part if isinstance(part, bytes) else repr(part).encode()
        total.update(len(content).to_bytes(8, "big") + content)
    return total.hexdigest()


def _facts(subject: Subject) -> Mapping[str, object]:
    return {"box": box_details(subject.found.face), "quality": subject.found.quality.details()}
