"""Calls about photos, with which nothing is kept; health, and facts about the service."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from likeness.bodies import Photo, form, given, json_body
from likeness.operations import Call, as_json, path_of
from likeness.results import Comparison, Detection, Embedded, Health, Info, Verification

FacePolicy = Literal["single", "largest", "all"]
OneFacePolicy = Literal["single", "largest"]
QualityPolicy = Literal["off", "probe", "enrol"]


def live() -> Call[Health]:
    """Does the process run?"""
    return Call("GET", path_of("health", "live"), as_json(Health))


def ready() -> Call[Health]:
    """Is it ready? While it starts this waits and asks again, as every call does, then raises ``NotReady``."""
    return Call("GET", path_of("health", "ready"), as_json(Health))


def info() -> Call[Info]:
    """What runs there: the bundle, its licence, its operating points, and the limits."""
    return Call("GET", path_of("info"), as_json(Info))


def metrics() -> Call[str]:
    """Counters and times, as Prometheus' text."""
    return Call("GET", "/metrics", lambda response: response.text)


def detect(image: Photo, *, max_faces: int | None = None) -> Call[Detection]:
    """All faces of a photo, largest first. None is an ordinary answer."""
    return Call("POST", path_of("detect"), as_json(Detection), body=form([("image", image)], {"max_faces": max_faces}))


def embed(image: Photo, *, faces: FacePolicy = "single") -> Call[Embedded]:
    """The embeddings of a photo's faces. They are personal data: a face can be rebuilt from one."""
    fields = {"faces": faces, "encoding": "base64"}
    return Call("POST", path_of("embed"), as_json(Embedded), body=form([("image", image)], fields))


def verify(
    image_a: Photo,
    image_b: Photo,
    *,
    faces: OneFacePolicy = "single",
    fmr: float | None = None,
    threshold: float | None = None,
    extrapolate: bool = False,
    quality: QualityPolicy = "off",
) -> Call[Verification]:
    """Do two photos show the same person?

    Args:
        faces: ``single`` refuses a photo with several usable faces, ``largest`` takes the largest.
        fmr: the false match rate that the threshold is to have; without it and ``threshold`` 1e-4.
        threshold: a raw cosine in place of a rate.
        extrapolate: below the rates that the calibration can speak about, answer from a fitted tail.
        quality: how good the photos have to be.
    """
    fields = _decided(fmr, threshold, extrapolate) | {"faces": faces, "quality": quality}
    photos = [("image_a", image_a), ("image_b", image_b)]
    return Call("POST", path_of("verify"), as_json(Verification), body=form(photos, fields))


def compare(
    a: Iterable[float],
    b: Iterable[float],
    *,
    embedding_contract: str,
    fmr: float | None = None,
    threshold: float | None = None,
    extrapolate: bool = False,
) -> Call[Comparison]:
    """Do two embeddings, made earlier under this contract, belong to the same person? For the rest see ``verify``."""
    fields = _decided(fmr, threshold, extrapolate) | {"embedding_contract": embedding_contract}
    vectors = {"a": [float(x) for x in a], "b": [float(x) for x in b]}
    return Call("POST", path_of("compare"), as_json(Comparison), body=json_body({**vectors, **fields}))


def request(
    method: str,
    path: str,
    *,
    json: Mapping[str, Any] | None = None,
    params: Mapping[str, str | int] | None = None,
    repeatable: bool | None = None,
) -> Call[Any]:
    """Any call, such as one that this client does not know yet; the JSON of its answer, None where there is none.

    Args:
        path: with its ``/v1``.
        repeatable: whether it may be sent again when nobody knows what became of it; None: all but POST.
    """
    body = None if json is None else json_body(json)
    again = method != "POST" if repeatable is None else repeatable
    return Call(
        method, path, lambda response: response.json() if response.content else None, params or {}, body, {}, again
    )


def _decided(fmr: float | None, threshold: float | None, extrapolate: bool) -> dict[str, Any]:
    return given(fmr=fmr, threshold=threshold, extrapolate=extrapolate or None)
