"""What stands best for a person with several photos: the best of them, their mean, their mean weighted by quality, or
both together.

LFW's persons with three photos or more: one photo is the probe, of the others up to ten are enrolled. Strangers are the
other persons, one photo each. Given are FNMR at FMR 1e-3 and 1e-4 of one comparison with the person, and FNIR of a
search among all these persons at FPIR 0.1 and 0.01, each at the threshold where the way itself has that rate.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from service.cli.calibrate import left_out
from service.evaluation.bootstrap import interval_over_persons
from tests.benchmarks.lfw_embedded import Embedded, arguments, embedded

Floats = NDArray[np.float64]
Scores = Callable[[Floats, Floats, Floats], Floats]
MOST_PHOTOS = 10
FMRS, FPIRS = (1e-3, 1e-4), (0.1, 0.01)


def best_of(probes: Floats, photos: Floats, _: Floats) -> Floats:
    return (probes @ photos.T).max(axis=1)


def mean_of(probes: Floats, photos: Floats, _: Floats) -> Floats:
    mean = photos.sum(axis=0)
    return probes @ (mean / np.linalg.norm(mean))


def weighted(probes: Floats, photos: Floats, norms: Floats) -> Floats:
    mean = (photos * norms[:, None]).sum(axis=0)
    return probes @ (mean / np.linalg.norm(mean))


def both(probes: Floats, photos: Floats, norms: Floats) -> Floats:
    return (best_of(probes, photos, norms) + mean_of(probes, photos, norms)) / 2


WAYS: Mapping[str, Scores] = {"best of": best_of, "mean": mean_of, "weighted by norm": weighted, "best and mean": both}


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without", help="file of photos and persons to leave out")
    args = parser.parse_args()
    lfw = embedded(args, left_out(args.without))
    counts = np.bincount(lfw.persons)
    enrolled = np.flatnonzero(counts >= 3)
    print(f"{args.bundle}: {len(enrolled)} persons enrolled\n")
    print(
        "| way | " + " | ".join([*(f"FNMR at FMR {r:.0e}" for r in FMRS), *(f"FNIR at FPIR {r}" for r in FPIRS)]) + " |"
    )
    print("| --- |" + " --- |" * (len(FMRS) + len(FPIRS)))
    drawn = [_draw(lfw, enrolled, np.random.default_rng(args.seed + k)) for k in range(args.rounds)]
    for way, scores in WAYS.items():
        missed = [_missed(lfw, each, scores) for each in drawn]
        outcomes = np.concatenate(missed)
        low, high = interval_over_persons(outcomes, np.tile(enrolled, args.rounds))
        cells = [
            f"{100 * rate:.2f} % ({100 * a:.2f} to {100 * b:.2f})"
            for rate, a, b in zip(outcomes.mean(axis=0), low, high, strict=True)
        ]
        print(f"| {way} | " + " | ".join(cells) + " |")


def _draw(
    lfw: Embedded, enrolled: NDArray[np.int64], rng: np.random.Generator
) -> tuple[NDArray[np.int64], list[NDArray[np.int64]], NDArray[np.int64]]:
    """The probe of each person, the photos enrolled, and the strangers' probes."""
    mixed = [rng.permutation(np.flatnonzero(lfw.persons == person)) for person in enrolled]
    others = np.setdiff1d(np.unique(lfw.persons), enrolled)
    strangers = np.array([rng.choice(np.flatnonzero(lfw.persons == person)) for person in others])
    return np.array([rows[0] for rows in mixed]), [rows[1 : 1 + MOST_PHOTOS] for rows in mixed], strangers


def _missed(
    lfw: Embedded,
    drawn: tuple[NDArray[np.int64], list[NDArray[np.int64]], NDArray[np.int64]],
    scores: Scores,
) -> NDArray[np.bool_]:
    """(persons, rates): is the probe missed?"""
    mates, photos, strangers = drawn
    vectors = lfw.embeddings.astype(np.float64)
    probes = vectors[np.concatenate([mates, strangers])]
    table = np.stack([scores(probes, vectors[rows], lfw.feature_norms[rows]) for rows in photos], axis=1)
    own = np.arange(len(mates))
    genuine = table[own, own]
    impostor = np.sort(table[len(mates) :].ravel())
    first = table[: len(mates)].argmax(axis=1) == own
    highest = np.sort(table[len(mates) :].max(axis=1))
    missed = [genuine < impostor[-1 - int(rate * impostor.size)] for rate in FMRS]
    missed += [~first | (genuine < highest[-1 - int(rate * highest.size)]) for rate in FPIRS]
    return np.stack(missed, axis=1)


if __name__ == "__main__":
    main()
