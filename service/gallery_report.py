"""The gallery doctor's report: the store, the calibration and the findings together, by the callers' ids."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.decision.persons import Searched
from service.decision.quality_policy import reasons
from service.decision.searches import Wanted, choose_search_point
from service.decision.thresholds import DEFAULT_FMR, UNCALIBRATED, Thresholds
from service.errors import InvalidRequest
from service.evaluation.doctor import Findings, examine
from service.gallery.store import Store
from service.runtime.card import Calibration

# All faces are compared with each other: 100,000 take minutes.
MOST_FACES = 100_000
# Of each kind, the worst ones.
MOST_TOLD = 1000
COMPARED_FMRS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
FPIRS = (0.1, 0.01)
GROWTH = 10
# So many false matches at least, or their rate says little.
FEWEST_ERRORS = 20


@dataclass(eq=False)
class _Gallery:
    """What is in it: ids, templates and measures of quality, one entry a face."""

    person_ids: list[str] = field(default_factory=list)
    persons: list[int] = field(default_factory=list)
    faces: list[str] = field(default_factory=list)
    vectors: list[NDArray[np.float32]] = field(default_factory=list)
    measures: list[Mapping[str, float]] = field(default_factory=list)


def examine_gallery(store: Store, gallery: str, thresholds: Thresholds) -> dict[str, Any]:
    """The report as JSON-serialisable facts.

    Raises:
        InvalidRequest: too many faces, or the bundle has no calibration.
        GalleryNotFound
    """
    calibration = thresholds.calibration
    if calibration is None:
        raise InvalidRequest(UNCALIBRATED)
    record = store.gallery(gallery)
    if record.faces > MOST_FACES:
        raise InvalidRequest(
            f"Gallery {gallery!r} has {record.faces:,} faces; all are compared with each other, and {MOST_FACES:,} are "
            "the most that a report is made for.",
            {"most_faces": MOST_FACES},
        )
    found = _read(store, gallery)
    smallest, largest = calibration.points[-1].fmr, calibration.points[0].fmr
    points = [thresholds.choose(fmr=fmr) for fmr in COMPARED_FMRS if smallest <= fmr <= largest]
    head = {
        "gallery": gallery,
        "persons": record.persons,
        "faces": len(found.faces),
        "calibration_id": calibration.calibration_id,
        "poor_persons": _poor(found, calibration),
    }
    if len(set(found.persons)) < 2:
        empty: dict[str, Any] = {"duplicates": [], "mislabelled": [], "impostor_scores": [], "expected_fpir": []}
        return {**head, **empty}
    at = np.array([point.threshold for point in points])
    related = thresholds.choose(fmr=max(DEFAULT_FMR, smallest)).threshold
    findings = examine(np.stack(found.vectors), np.array(found.persons), related, at)
    scores = _scores(findings, [point.fmr or 0.0 for point in points], at)
    rates = {"impostor_scores": scores, "expected_fpir": _fpirs(thresholds, found, scores)}
    return {**head, **_told(findings, found), **rates}


def _read(store: Store, gallery: str) -> _Gallery:
    found, cursor = _Gallery(), None
    while True:
        _, page = store.export_page(gallery, cursor, 1000, 10_000)
        for person in page.items:
            for face in person.faces:
                found.persons.append(len(found.person_ids))
                found.faces.append(face.id)
                found.vectors.append(face.embedding)
                quality = face.facts.get("quality")
                found.measures.append(quality if isinstance(quality, Mapping) else {})
            if person.faces:
                found.person_ids.append(person.id)
        cursor = page.cursor
        if cursor is None:
            return found


def _told(findings: Findings, found: _Gallery) -> dict[str, Any]:
    def person(number: int) -> str:
        return found.person_ids[number]

    return {
        "duplicates": [
            {
                "person_ids": [person(pair.persons[0]), person(pair.persons[1])],
                "face_ids": [found.faces[pair.faces[0]], found.faces[pair.faces[1]]],
                "similarity": round(pair.similarity, 4),
                "excess": round(pair.excess, 4),
            }
            for pair in findings.duplicates[:MOST_TOLD]
        ],
        "mislabelled": [
            {
                "person_id": person(face.person),
                "face_id": found.faces[face.face],
                "nearer_to": {"person_id": person(face.other), "face_id": found.faces[face.nearest]},
                "own_similarity": round(face.own, 4),
                "similarity": round(face.similarity, 4),
            }
            for face in findings.mislabelled[:MOST_TOLD]
        ],
    }


def _poor(found: _Gallery, calibration: Calibration) -> list[dict[str, Any]]:
    """Persons none of whose faces is good enough to be enrolled, with the reasons of their faces."""
    codes: dict[int, list[set[str]]] = {}
    for person, measures in zip(found.persons, found.measures, strict=True):
        codes.setdefault(person, []).append({reason.code for reason in reasons(measures, "enrol", calibration)})
    poor = [(person, faces) for person, faces in codes.items() if all(faces)]
    return [
        {"person_id": found.person_ids[person], "faces": len(faces), "reasons": sorted(set().union(*faces))}
        for person, faces in poor[:MOST_TOLD]
    ]


def _scores(findings: Findings, fmrs: list[float], at: NDArray[np.float64]) -> list[dict[str, Any]]:
    rates = findings.impostor
    return [
        {
            "threshold": float(at[k]),
            "calibration_fmr": fmr,
            "gallery_fmr": float(rates.rate[k]),
            "gallery_fmr_interval": [float(rates.low[k]), float(rates.high[k])],
            "errors": float(rates.rate[k] * rates.effective[k]),
        }
        for k, fmr in enumerate(fmrs)
    ]


def _fpirs(thresholds: Thresholds, found: _Gallery, scores: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What to expect at the thresholds that the service takes for usual rates, now and in a gallery that has grown.

    How often faces are alike here against the calibration is known down to the strictest threshold with enough errors,
    and taken to stay the same beyond.
    """
    known = [score for score in scores if score["errors"] >= FEWEST_ERRORS]
    factor = known[-1]["gallery_fmr"] / known[-1]["calibration_fmr"] if known else 1.0
    sizes = Counter(Counter(found.persons).values())
    grown = {photos: GROWTH * persons for photos, persons in sizes.items()}
    calibration, curve = thresholds.calibration, thresholds.curve
    assert calibration is not None
    assert curve is not None
    here, then = (Searched(calibration, curve, each) for each in (sizes, grown))
    told = []
    for fpir in FPIRS:
        wanted = Wanted(fpir=fpir, extrapolate=True)
        try:
            now, later = (choose_search_point(thresholds, each, wanted).threshold for each in (sizes, grown))
        except InvalidRequest:
            continue
        told.append(
            {
                "asked": fpir,
                "threshold": now,
                "expected": here.fpir_at(now, factor),
                "grown": GROWTH,
                "expected_grown_same_threshold": then.fpir_at(now, factor),
                "threshold_grown": later,
                "expected_grown": then.fpir_at(later, factor),
            }
        )
    return told
