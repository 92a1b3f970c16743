"""Enrolment, search, and 1:1 against an enrolled person."""

from collections.abc import Iterable, Mapping, Sequence
from json import dumps
from typing import Any, Literal
from uuid import uuid4

from likeness.bodies import Body, Photo, form, given, json_body
from likeness.gallery_calls import PAGE, erasing
from likeness.gallery_results import Enrolment, Erasure, FaceRecord, Search
from likeness.operations import Call, Page, as_json, as_page, path_of
from likeness.photo_calls import FacePolicy, OneFacePolicy, QualityPolicy
from likeness.results import PersonComparison

Wanted = Mapping[str, str | bool | int | float]
CandidatePolicy = Literal["all", "above_threshold"]


def enrol(
    gallery: str,
    person: str,
    images: Sequence[Photo],
    *,
    faces: OneFacePolicy = "single",
    quality: QualityPolicy = "enrol",
    face_ids: Sequence[str] | None = None,
    idempotency_key: str | None = None,
) -> Call[Enrolment]:
    """Enrol 1 to 32 photos of a person who is there; each has its own outcome.

    Args:
        faces: ``single`` refuses a photo with several usable faces, ``largest`` takes the largest.
        quality: how good a photo has to be.
        face_ids: ids of your own, one a photo.
        idempotency_key: with the same key the same call gives the first answer again and adds nothing. Each call has
            one of its own unless you give it, so it is safe when it is sent again after a broken connection; give
            one where your program may make the call again itself.

    Raises:
        UnusablePhoto: not one photo could be used; ``details["rejected"]`` has the reason of each.
    """
    if isinstance(images, (str, bytes, bytearray, memoryview)):
        raise TypeError(f"images is a list of photos, not {type(images).__name__}.")
    fields = {"faces": faces, "quality": quality, "face_ids": None if face_ids is None else list(face_ids)}
    return _enrolling(gallery, person, form([("images", image) for image in images], fields), idempotency_key)


def enrol_embeddings(
    gallery: str,
    person: str,
    embeddings: Iterable[Iterable[float]],
    *,
    embedding_contract: str,
    face_ids: Sequence[str] | None = None,
    idempotency_key: str | None = None,
) -> Call[Enrolment]:
    """Enrol 1 to 1000 embeddings made elsewhere under the same contract; for the rest see ``enrol``."""
    items: list[dict[str, Any]] = [{"embedding": [float(x) for x in vector]} for vector in embeddings]
    for item, face_id in zip(items, face_ids or (), strict=face_ids is not None):
        item["face_id"] = face_id
    body = json_body({"embeddings": items, "embedding_contract": embedding_contract})
    return _enrolling(gallery, person, body, idempotency_key)


def list_faces(gallery: str, person: str, *, limit: int = PAGE) -> Call[Page[FaceRecord]]:
    """The enrolled faces of a person. ``limit`` is how many a page has."""
    path = path_of("galleries", gallery, "persons", person, "faces")
    return Call("GET", path, as_page("faces", FaceRecord), {"limit": limit})


def delete_face(gallery: str, person: str, face_id: str) -> Call[Erasure]:
    """Remove one face and its template."""
    return erasing(path_of("galleries", gallery, "persons", person, "faces", face_id))


def verify_person(
    gallery: str,
    person: str,
    image: Photo,
    *,
    faces: OneFacePolicy = "single",
    quality: QualityPolicy = "off",
    fmr: float | None = None,
    threshold: float | None = None,
    extrapolate: bool = False,
) -> Call[PersonComparison]:
    """Is the person in the photo the enrolled one? Compared is the mean of that person's faces.

    For the arguments see ``verify``; ``fmr`` is the rate of the whole comparison, however many faces it has.
    """
    fields = given(fmr=fmr, threshold=threshold, extrapolate=extrapolate or None, faces=faces, quality=quality)
    path = path_of("galleries", gallery, "persons", person, "verify")
    return Call("POST", path, as_json(PersonComparison), body=form([("image", image)], fields))


def search(
    gallery: str,
    image: Photo,
    *,
    faces: FacePolicy = "single",
    quality: QualityPolicy = "off",
    top_k: int = 5,
    fpir: float | None = None,
    fmr: float | None = None,
    threshold: float | None = None,
    extrapolate: bool = False,
    filter: Wanted | None = None,
    candidates: CandidatePolicy = "all",
    exact: bool = False,
) -> Call[Search]:
    """Who of the gallery is it? That it is nobody known is an ordinary answer.

    Args:
        faces: ``single`` refuses a photo with several usable faces, ``largest`` takes the largest, ``all`` searches
            each.
        quality: how good the photo has to be.
        top_k: candidates a face, 1 to 100.
        fpir: how often a stranger may be identified; without a rate and a threshold 1 %.
        fmr: the false match rate of one comparison in place of it.
        threshold: a raw cosine in place of a rate.
        extrapolate: below the rates that the calibration can speak about, answer from a fitted tail.
        filter: only persons whose metadata has these values.
        candidates: ``above_threshold`` leaves out those below it.
        exact: compare with everybody, also where the service has an index for speed.
    """
    options = _search_options(top_k, fpir, fmr, threshold, extrapolate, candidates) | given(exact=exact or None)
    fields = {"faces": faces, "quality": quality, **options, "filter": None if filter is None else dumps(dict(filter))}
    return _searching(gallery, form([("image", image)], fields))


def search_embedding(
    gallery: str,
    embedding: Iterable[float],
    *,
    embedding_contract: str,
    top_k: int = 5,
    fpir: float | None = None,
    fmr: float | None = None,
    threshold: float | None = None,
    extrapolate: bool = False,
    filter: Wanted | None = None,
    candidates: CandidatePolicy = "all",
    exact: bool = False,
) -> Call[Search]:
    """Whose embedding is it? For the arguments see ``search``."""
    fields = _search_options(top_k, fpir, fmr, threshold, extrapolate, candidates) | given(exact=exact or None)
    fields |= {"embedding": [float(x) for x in embedding], "embedding_contract": embedding_contract}
    return _searching(gallery, json_body(fields | given(filter=None if filter is None else dict(filter))))


def _enrolling(gallery: str, person: str, body: Body, idempotency_key: str | None) -> Call[Enrolment]:
    headers = {"Idempotency-Key": uuid4().hex if idempotency_key is None else idempotency_key}
    path = path_of("galleries", gallery, "persons", person, "faces")
    return Call("POST", path, as_json(Enrolment), body=body, headers=headers)


def _searching(gallery: str, body: Body) -> Call[Search]:
    return Call("POST", path_of("galleries", gallery, "search"), as_json(Search), body=body)


def _search_options(
    top_k: int,
    fpir: float | None,
    fmr: float | None,
    threshold: float | None,
    extrapolate: bool,
    candidates: CandidatePolicy,
) -> dict[str, Any]:
    point = given(fpir=fpir, fmr=fmr, threshold=threshold, extrapolate=extrapolate or None)
    return {"top_k": top_k, "candidates": candidates, **point}
