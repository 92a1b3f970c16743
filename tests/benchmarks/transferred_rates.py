"""Calibrated on half of LFW's persons, tested on the other half: are the promised error rates kept?

Prints, for one half and over several, the FMR that was measured at the threshold of each rate against the interval
that the calibration states; then the FPIR of searches, in galleries of several sizes, at the thresholds that the
service takes for FPIR 0.01 and 0.1: with one photo a person, and with all but one of them (at most ten).
"""

import numpy as np
from numpy.typing import NDArray

from service.cli.calibrate import left_out
from service.decision.searches import Wanted, choose_search_point
from service.decision.thresholds import Thresholds
from service.evaluation.calibration import calibrate_embeddings
from service.evaluation.dyads import genuine_rates, impostor_rates
from service.runtime.card import Calibration
from tests.benchmarks.lfw_embedded import Embedded, arguments, embedded

FMRS = (1e-3, 1e-4, 1e-5)
FPIRS = (0.01, 0.1)
SIZES = (100, 1000, 2500)
MOST_PHOTOS = 10


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--halves", type=int, default=10)
    parser.add_argument("--galleries", type=int, default=40, help="random galleries of each size and half")
    parser.add_argument("--without", help="file of photos and persons to leave out")
    args = parser.parse_args()
    lfw = embedded(args, left_out(args.without))
    rng = np.random.default_rng(args.seed)
    known = np.unique(lfw.persons)
    rates, searches = [], []
    for half in range(args.halves):
        mixed = rng.permutation(known)
        calibration, tested = _calibrate(lfw.of(mixed[::2])), lfw.of(mixed[1::2])
        rates.append(_rates(calibration, tested))
        searches.append(_searches(calibration, tested, rng, args.galleries))
        if not half:
            print(f"first half: {calibration.persons:,} persons calibrate, {len(mixed[1::2]):,} are tested")
            _print_rates(rates[0])
    _print_agreement(rates)
    _print_searches(searches)


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
    for photos, most in (("one", 1), ("several", MOST_PHOTOS)):
        for size in SIZES:
            for _ in range(galleries):
                mixed = rng.permutation(everyone)
                enrolled = [_some(rows_of[person], most, rng) for person in mixed[:size]]
                # One search of each stranger: many of one man's would be many of one face.
                probes = np.array([rng.choice(rows_of[person]) for person in mixed[size:]])
                best = _best(tested.embeddings, np.concatenate(enrolled), probes)
                counts = np.unique([len(rows) for rows in enrolled], return_counts=True)
                sizes = dict(zip(*(column.tolist() for column in counts), strict=True))
                for fpir in FPIRS:
                    point = choose_search_point(thresholds, sizes, Wanted(fpir=fpir))
                    found.setdefault((photos, size, fpir), []).append(float((best >= point.threshold).mean()))
    return found


def _some(rows: NDArray[np.int64], most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    return rng.permutation(rows)[: min(most, max(1, len(rows) - 1))]


def _best(
    embeddings: NDArray[np.float32], gallery: NDArray[np.int64], probes: NDArray[np.int64]
) -> NDArray[np.float32]:
    best: NDArray[np.float32] = (embeddings[probes] @ embeddings[gallery].T).max(axis=1)
    return best


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
