"""Calibrated on half of LFW's persons, tested on the other half: are the promised error rates kept?

Prints, for one half and over several, the FMR that was measured at the threshold of each rate against the interval
that the calibration states; then the FPIR of searches, in galleries of several sizes, at the thresholds that the
service takes for FPIR 0.01 and 0.1: with one photo a person, with all but one of them (at most ten), and with all (at
most ten) of persons with two and more. Last the FMR of comparisons with means of so many photos.
"""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from service.cli.calibrate import left_out
from service.decision.searches import Wanted, choose_person_point, choose_search_point
from service.decision.thresholds import Thresholds
from service.evaluation.calibration import calibrate_embeddings
from service.evaluation.dyads import genuine_rates, impostor_rates
from service.gallery.person_template import person_template
from service.runtime.card import Calibration
from tests.benchmarks.lfw_embedded import Embedded, arguments, embedded

FMRS = (1e-3, 1e-4, 1e-5)
FPIRS = (0.01, 0.1)
SIZES = (100, 1000, 2500)
MOST_PHOTOS = 10
# Fewest photos of whoever is enrolled, the most that are, whether one is left out, and the sizes of galleries.
WAYS = {
    "one": (1, 1, False, SIZES),
    "several": (1, MOST_PHOTOS, True, SIZES),
    "two and more": (2, MOST_PHOTOS, False, (100, 700)),
}
MEANS = (1, 2, 3, 5, 8)


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--halves", type=int, default=10)
    parser.add_argument("--galleries", type=int, default=40, help="random galleries of each size and half")
    parser.add_argument("--without", help="file of photos and persons to leave out")
    args = parser.parse_args()
    lfw = embedded(args, left_out(args.without))
    rng = np.random.default_rng(args.seed)
    known = np.unique(lfw.persons)
    rates, searches, means = [], [], []
    for half in range(args.halves):
        mixed = rng.permutation(known)
        calibration, tested = _calibrate(lfw.of(mixed[::2])), lfw.of(mixed[1::2])
        rates.append(_rates(calibration, tested))
        searches.append(_searches(calibration, tested, rng, args.galleries))
        means.append(_means(calibration, tested, rng))
        if not half:
            print(f"first half: {calibration.persons:,} persons calibrate, {len(mixed[1::2]):,} are tested")
            _print_rates(rates[0])
    _print_agreement(rates)
    _print_searches(searches)
    _print_means(means)


def _calibrate(half: Embedded) -> Calibration:
    calibration = calibrate_embeddings(half.embeddings, half.persons, ("half of lfw", "0" * 64), half.model)
    assert calibration is not None
    return calibration


def _rates(calibration: Calibration, tested: Embedded) -> list[tuple[float, ...]]:
    """For each rate: asked, threshold, stated interval, measured, its interval, FNMR stated and measured."""
    points = [Thresholds(calibration).choose(fmr=fmr) for fmr in FMRS]
    at = np.array([point.threshold for point in points])
    found = impostor_rates(tested.embeddings, tested.persons, at)
    missed = genuine_rates(tested.embeddings, tested.persons, at)
    return [
        (
            *(FMRS[k], point.threshold, *(point.fmr_interval or (0, 1))),
            *(found.rate[k], found.low[k], found.high[k]),
            *(point.fnmr or 0, *(point.fnmr_interval or (0, 1)), missed.rate[k]),
        )
        for k, point in enumerate(points)
    ]


def _print_rates(rows: list[tuple[float, ...]]) -> None:
    print("\n| FMR asked | threshold | stated 95 % interval | measured on the other half | FNMR stated | measured |")
    print("| --- | --- | --- | --- | --- | --- |")
    for fmr, threshold, low, high, found, _, _, fnmr, fnmr_low, fnmr_high, missed in rows:
        stated = f"{100 * fnmr:.2f} % ({100 * fnmr_low:.2f} to {100 * fnmr_high:.2f})"
        outside = "" if low <= found <= high else " ✗"
        print(
            f"| {fmr:.0e} | {threshold:.4f} | {low:.2e} to {high:.2e} | {found:.2e}{outside} | {stated} | "
            f"{100 * missed:.2f} % |"
        )


def _print_agreement(halves: list[list[tuple[float, ...]]]) -> None:
    table = np.array(halves)
    print(f"\n{len(halves)} halves | measured / asked, mean ± sd | within the stated interval | intervals overlap")
    for k, fmr in enumerate(FMRS):
        _, _, low, high, found, found_low, found_high = table[:, k, :7].T
        within, overlap = (found >= low) & (found <= high), (found_high >= low) & (found_low <= high)
        ratio = found / fmr
        print(f"{fmr:.0e} | {ratio.mean():.2f} ± {ratio.std():.2f} | {within.sum()} | {overlap.sum()}")


def _searches(
    calibration: Calibration, tested: Embedded, rng: np.random.Generator, galleries: int
) -> dict[tuple[str, int, float], list[float]]:
    """Measured FPIRs by photos enrolled, size and FPIR asked."""
    thresholds, found = Thresholds(calibration), {}
    rows_of = {person: np.flatnonzero(tested.persons == person) for person in np.unique(tested.persons)}
    everyone = np.array(list(rows_of))
    for photos, (fewest, most, leave, sizes_of) in WAYS.items():
        able = np.array([person for person, rows in rows_of.items() if len(rows) >= fewest])
        for size in sizes_of:
            for _ in range(galleries):
                mixed = rng.permutation(able)[:size]
                enrolled = [_some(rows_of[person], most, leave, rng) for person in mixed]
                mixed = np.concatenate([mixed, np.setdiff1d(everyone, mixed)])
                # One search of each stranger: many of one man's would be many of one face.
                probes = np.array([rng.choice(rows_of[person]) for person in mixed[size:]])
                templates = np.stack([person_template(tested.embeddings[rows]) for rows in enrolled])
                best = (tested.embeddings[probes] @ templates.T).max(axis=1)
                sizes = Counter(len(rows) for rows in enrolled)
                for fpir in FPIRS:
                    point = choose_search_point(thresholds, sizes, Wanted(fpir=fpir))
                    found.setdefault((photos, size, fpir), []).append(float((best >= point.threshold).mean()))
    return found


def _some(rows: NDArray[np.int64], most: int, leave: bool, rng: np.random.Generator) -> NDArray[np.int64]:
    return rng.permutation(rows)[: min(most, max(1, len(rows) - leave))]


def _means(calibration: Calibration, tested: Embedded, rng: np.random.Generator) -> list[list[float]]:
    """By rate and number of photos: the FMR measured, over that asked for."""
    _, owners, counts = np.unique(tested.persons, return_inverse=True, return_counts=True)
    weights = 1 / counts[owners] / (len(counts) - 1)
    found = []
    for photos in MEANS:
        able = np.flatnonzero(counts >= photos)
        drawn = [rng.permutation(np.flatnonzero(owners == person))[:photos] for person in able]
        templates = [person_template(tested.embeddings[rows]) for rows in drawn]
        scores = np.stack(templates) @ tested.embeddings.T
        scores[able[:, None] == owners] = -1
        at = [choose_person_point(Thresholds(calibration), photos, fmr, None).threshold for fmr in FMRS]
        found.append([float(((scores >= t) @ weights).mean() / fmr) for t, fmr in zip(at, FMRS, strict=True)])
    return found


def _print_means(halves: list[list[list[float]]]) -> None:
    ratios = np.array(halves)
    print("\n| photos | " + " | ".join(f"FMR {fmr:.0e}: measured / asked, ± sd" for fmr in FMRS) + " |")
    print("| --- |" + " --- |" * len(FMRS))
    for row, photos in enumerate(MEANS):
        cells = [f"{m:.2f} ± {sd:.2f}" for m, sd in zip(ratios[:, row].mean(0), ratios[:, row].std(0), strict=True)]
        print(f"| {photos} | " + " | ".join(cells) + " |")


def _print_searches(halves: list[dict[tuple[str, int, float], list[float]]]) -> None:
    print("\n| photos a person | persons | FPIR asked | measured | ratio | sd over halves |")
    print("| --- | --- | --- | --- | --- | --- |")
    for photos, size, fpir in halves[0]:
        means = np.array([np.mean(half[photos, size, fpir]) for half in halves])
        ratio = means.mean() / fpir
        flag = "" if 0.7 <= ratio <= 1.3 else " ✗"
        print(f"| {photos} | {size:,} | {fpir} | {means.mean():.4f} | {ratio:.2f}{flag} | {means.std() / fpir:.2f} |")


if __name__ == "__main__":
    main()
