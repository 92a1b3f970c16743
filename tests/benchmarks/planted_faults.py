"""The gallery doctor on LFW with planted faults: how many it finds, and what else it tells.

A half of a person's photos goes under a new name, 50 times; a photo of one person and one of another change places,
50 times. First among persons with few photos (from 2 and 3 on), where a second name may be one photo against one; then
among those with 4 and more. Whatever else is told is one of LFW's own errors, as listed in
export/calibration/lfw-label-errors.txt, or siblings, or a false alarm; these are listed.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.cli.calibrate import left_out
from service.decision.thresholds import Thresholds
from service.engine import load_engine
from service.evaluation.doctor import Findings, examine
from service.settings import Settings
from tests.benchmarks.lfw_embedded import Embedded, arguments, embedded

FAULTS = 50
# Who are twins, or brothers and sisters, and are told as one person: two persons, one face.
SIBLINGS = (
    *("Ahmed_Ibrahim_Bilal", "Angelica_Romero", "Ashley_Olsen", "Carolina_Moraes", "Claire_Hentzen", "George_W_Bush"),
    *("James_Phelps", "Johnny_Htu", "Pauline_Landers", "Serena_Williams", "Tamara_Mowry", "Elizabeth_Smart"),
)
MOST_PHOTOS = 20


@dataclass(frozen=True, eq=False)
class Planted:
    """``labels`` (n,); ``twice`` the pairs of labels that are one person; ``moved`` the photos that changed places."""

    labels: NDArray[np.int64]
    twice: frozenset[tuple[int, int]]
    moved: frozenset[int]


def plant(persons: NDArray[np.int64], fewest: tuple[int, int], rng: np.random.Generator) -> Planted:
    """Faults among persons with so many photos or more: to have a second name, and to change places."""
    labels, twice, moved = persons.copy(), set(), set()
    photos = np.bincount(persons)
    some = rng.permutation(np.flatnonzero((photos >= fewest[0]) & (photos <= MOST_PHOTOS)))[:FAULTS]
    for number, person in enumerate(some):
        rows = rng.permutation(np.flatnonzero(persons == person))
        labels[rows[: len(rows) // 2]] = len(photos) + number
        twice.add((int(person), len(photos) + number))
    others = rng.permutation(np.setdiff1d(np.flatnonzero((photos >= fewest[1]) & (photos <= MOST_PHOTOS)), some))
    for a, b in others[: 2 * FAULTS].reshape(-1, 2):
        i, j = (int(rng.choice(np.flatnonzero(persons == person))) for person in (a, b))
        labels[i], labels[j] = b, a
        moved |= {i, j}
    return Planted(labels, frozenset(twice), frozenset(moved))


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--known", default="export/calibration/lfw-label-errors.txt")
    args = parser.parse_args()
    lfw = embedded(args)
    known = left_out(args.known)
    wrong = np.array([name in known or name.split("/")[0] in known for name in lfw.names])
    thresholds = Thresholds(load_engine(Settings(data_dir=args.data_dir, bundle=args.bundle)).card.calibration)
    related = thresholds.choose(fmr=1e-4).threshold
    _, persons = np.unique(lfw.persons, return_inverse=True)
    found = examine(lfw.embeddings, persons, related, np.array([related]))
    print(f"as it is: {len(found.duplicates)} pairs of persons, {len(found.mislabelled)} faces")
    for pair in found.duplicates:
        print(f"  {lfw.names[pair.faces[0]]} and {lfw.names[pair.faces[1]]}")
    for face in found.mislabelled:
        print(f"  label: {lfw.names[face.face]}, nearer to {lfw.names[face.nearest]}")
    if not args.rounds:
        return
    print("\n| photos | faults | found | false alarms | LFW's own errors | siblings |")
    print("| --- | --- | --- | --- | --- | --- |")
    told: dict[str, int] = {}
    for fewest in ((2, 3), (4, 4)):
        counts = np.zeros((2, 4), int)
        for round_ in range(args.rounds):
            planted = plant(persons, fewest, np.random.default_rng(args.seed + round_))
            found = examine(lfw.embeddings, planted.labels, related, np.array([related]))
            counts += _counted(found, planted, wrong, lfw, told)
        for kind, (hit, false, own, kin), all_of in zip(
            ("second names", "moved photos"), counts, (FAULTS, 2 * FAULTS), strict=True
        ):
            share = false / max(false + hit + own + kin, 1)
            n, least = args.rounds, fewest[0 if kind == "second names" else 1]
            print(
                f"| {least} and more | {kind}, {all_of} | {hit / n:.1f} ({100 * hit / n / all_of:.1f} %) | "
                f"{false / n:.1f} ({100 * share:.1f} %) | {own / n:.1f} | {kin / n:.1f} |"
            )
    print("\nfalse alarms, and in how many of the runs:")
    for line, times in sorted(told.items(), key=lambda item: (-item[1], item[0])):
        print(f"{times} × {line}")


def _counted(
    found: Findings, planted: Planted, wrong: NDArray[np.bool_], lfw: Embedded, told: dict[str, int]
) -> NDArray[np.int64]:
    """Found, false alarms, LFW's own errors, siblings: of second names, of moved photos."""
    counts = np.zeros((2, 4), int)
    # The second name may also be found as a face of it that is nearer to the first.
    names = {tuple(sorted((face.person, face.other))) for face in found.mislabelled}
    counts[0, 0] = len(planted.twice & ({pair.persons for pair in found.duplicates} | names))
    for pair in found.duplicates:
        if pair.persons in planted.twice:
            continue
        if wrong[list(pair.faces)].any():
            counts[0, 2] += 1
        elif lfw.names[pair.faces[0]].split("/")[0] in SIBLINGS:
            counts[0, 3] += 1
        elif not planted.moved & set(pair.faces):  # a moved photo next to its own is no false alarm
            counts[0, 1] += 1
            line = f"second name: {lfw.names[pair.faces[0]]} and {lfw.names[pair.faces[1]]}"
            told[line] = told.get(line, 0) + 1
    for face in found.mislabelled:
        if face.face in planted.moved:
            counts[1, 0] += 1
        elif tuple(sorted((face.person, face.other))) in planted.twice:
            continue
        elif wrong[face.face] or wrong[face.nearest]:
            counts[1, 2] += 1
        else:
            counts[1, 1] += 1
            line = f"label: {lfw.names[face.face]}, nearer to {lfw.names[face.nearest]}"
            told[line] = told.get(line, 0) + 1
    return counts


if __name__ == "__main__":
    main()
