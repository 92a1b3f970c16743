"""What an evaluation of identification leaves behind: figures of merit, every search and two pictures.

::

    OUT/report.json    the figures, what they were measured on, and which model
    OUT/searches.csv   one line per search: in which gallery, the mate and its rank, who was found and how similar
    OUT/cmc.png  open_set.png
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from service.evaluation.bootstrap import interval_over_persons
from service.evaluation.folder import aligned, as_json, write_files
from service.evaluation.identification import fnir_at_fpir, found_within
from service.evaluation.lfw_search import NOBODY, SEED, LfwSearchResult, Searches
from service.evaluation.metrics import Scores
from service.evaluation.operating_points import RULE_OF_3
from service.evaluation.search_figures import cmc_figure, open_set_figure

RANKS = (1, 5, 10)
FPIRS = (1e-3, 1e-2, 1e-1)
CURVE_POINTS = 100


def write_search_report(result: LfwSearchResult, out: Path, model: Mapping[str, Any]) -> dict[str, Any]:
    """Write all four files into ``out`` and return what ``report.json`` says.

    Args:
        result: what running the protocol gave.
        out: a folder, made if it is not there; files of an earlier report are replaced.
        model: JSON-serialisable facts about what was measured, passed through.
    """
    photos, closed, open_set = result.photos, _closed_set(result.closed), _open_set(result.halves)
    report = {
        "dataset": {"name": "lfw", "persons": len(result.persons), "photos": len(photos.names)},
        "closed_set": closed,
        "open_set": open_set,
        "undetected_photos": photos.undetected,
        "seconds": photos.seconds,
        "photos_per_second": len(photos.names) / photos.seconds,
        "model": dict(model),
    }
    cmc, curve = closed["cmc"], open_set["curve"]
    enrolled, probes = _sizes([closed])
    enrolled_of_halves, probes_of_halves = _sizes(open_set["galleries"])
    files = {
        "searches.csv": _searches_csv(result),
        "cmc.png": cmc_figure(
            np.array(cmc["rate"]), np.array([cmc["low"], cmc["high"]]), f"LFW, closed set: {enrolled}\n{probes}"
        ),
        "open_set.png": open_set_figure(
            np.array(curve["fpir"]),
            np.array(curve["fnir"]),
            np.array(curve["fnir_std"]),
            {point["fpir"]: point["fnir"] for point in open_set["points"]},
            f"LFW, open set, {len(result.halves)} random halves: {enrolled_of_halves}\n{probes_of_halves}",
        ),
        "report.json": as_json(report),
    }
    write_files(out, files)
    return report


def search_summary(report: Mapping[str, Any]) -> str:
    """The figures of a report as aligned lines for a terminal, without a newline at the end."""
    data, closed, open_set = report["dataset"], report["closed_set"], report["open_set"]
    galleries = open_set["galleries"]
    return aligned(
        [
            ("dataset", f"{data['name']}, {data['photos']:,} photos of {data['persons']:,} persons"),
            ("closed set", ", ".join(_sizes([closed]))),
            *(
                (
                    f"rank {rank}",
                    f"{_percent(at['rate'])}, 95 % interval {_percent(at['low'])} to {_percent(at['high'])}",
                )
                for rank, at in closed["identification_rate"].items()
            ),
            ("open set", f"{len(galleries)} random halves: {', '.join(_sizes(galleries))}"),
            *(
                (
                    f"FNIR at FPIR {point['fpir']:g}",
                    f"{_percent(point['fnir'])} ± {_percent(point['fnir_std'])} over the halves, "
                    f"threshold {point['threshold']:.4f} ± {point['threshold_std']:.4f}",
                )
                for point in open_set["points"]
            ),
            ("undetected", f"{len(report['undetected_photos'])} photos"),
            ("speed", f"{report['photos_per_second']:.1f} photos/s, {report['seconds']:.1f} s"),
        ]
    )


def _closed_set(searches: Searches) -> dict[str, Any]:
    found = found_within(searches.ranks, searches.depth)
    low, high = interval_over_persons(found, searches.mates)
    cmc = {"rate": found.mean(axis=0).tolist(), "low": low.tolist(), "high": high.tolist()}
    return {
        **_counts(searches),
        "probe_persons": len(np.unique(searches.mates)),
        "identification_rate": {
            str(rank): {name: values[rank - 1] for name, values in cmc.items()}
            for rank in RANKS
            if rank <= searches.depth
        },
        "cmc": cmc,
    }


def _open_set(halves: Sequence[Searches]) -> dict[str, Any]:
    """The figures of each half, and their mean and standard deviation. Rates that one half is too small to speak
    about (rule of 3, ISO/IEC 19795-1) are left out."""
    scores = [_scores(searches) for searches in halves]
    smallest = RULE_OF_3 / min(non_mated.size for _, non_mated in scores)
    fpirs = [fpir for fpir in FPIRS if fpir >= smallest]
    points = [[fnir_at_fpir(*both, fpir) for fpir in fpirs] for both in scores]
    grid = np.geomspace(min(smallest, 0.1), 1, CURVE_POINTS)  # a decade at least, or there is no axis
    curves = np.array([[fnir_at_fpir(*both, fpir).fnir for fpir in grid] for both in scores])
    return {
        "seed": SEED,
        "points": [
            {
                "fpir": fpir,
                **_mean_and_std("fnir", [point.fnir for point in of_halves]),
                **_mean_and_std("threshold", [point.threshold for point in of_halves]),
            }
            for fpir, of_halves in zip(fpirs, zip(*points, strict=True), strict=True)
        ],
        "galleries": [
            {**_counts(searches), "points": [asdict(point) for point in of_half]}
            for searches, of_half in zip(halves, points, strict=True)
        ],
        "curve": {
            "fpir": grid.tolist(),
            "fnir": curves.mean(axis=0).tolist(),
            "fnir_std": curves.std(axis=0).tolist(),
        },
    }


def _scores(searches: Searches) -> tuple[Scores, Scores]:
    """What ``fnir_at_fpir`` looks at: the mated searches' scores, and the non-mated ones'."""
    mated = np.where(searches.ranks == 1, searches.similarities, -np.inf)[searches.mated]
    return mated, searches.similarities[~searches.mated]


def _counts(searches: Searches) -> dict[str, int]:
    mated = int(searches.mated.sum())
    return {"persons": searches.persons, "mated": mated, "non_mated": len(searches.mated) - mated}


def _mean_and_std(name: str, values: Sequence[float]) -> dict[str, float]:
    return {name: float(np.mean(values)), f"{name}_std": float(np.std(values))}


def _sizes(galleries: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """How large galleries of one kind are, from the smallest to the largest: persons, and probes."""
    sizes = {name: [gallery[name] for gallery in galleries] for name in ("persons", "mated", "non_mated")}
    persons, mated, non_mated = (
        f"{min(each):,}" + (f" to {max(each):,}" if max(each) > min(each) else "") for each in sizes.values()
    )
    probes = f"{mated} mated" + (f" and {non_mated} non-mated" if any(sizes["non_mated"]) else "")
    return f"{persons} persons enrolled", f"{probes} probes"


def _percent(rate: float) -> str:
    return f"{100 * rate:.2f} %"


def _searches_csv(result: LfwSearchResult) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["gallery", "probe", "mate", "rank", "first", "similarity"])
    galleries = {"all": result.closed, **{f"half {k}": half for k, half in enumerate(result.halves, start=1)}}
    for gallery, searches in galleries.items():
        for probe, mate, rank, first, similarity in zip(
            searches.probes, searches.mates, searches.ranks, searches.firsts, searches.similarities, strict=True
        ):
            found = (result.persons[first], repr(float(similarity))) if first != NOBODY else ("", "")
            mate_and_rank = (result.persons[mate] if mate != NOBODY else "", rank or "")
            writer.writerow((gallery, result.photos.names[probe], *mate_and_rank, *found))
    return text.getvalue().encode()
