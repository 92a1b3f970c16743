"""How close together two persons above the threshold are: one face under two names, and ordinary searches.

LFW, one photo of each person enrolled, one other photo of everybody who has it searched, at the threshold of FPIR 0.01;
then, of persons with three photos, the difference of the similarities of one photo to the two others, as if these were
enrolled under two names.
"""

import numpy as np

from service.cli.calibrate import left_out
from service.decision.searches import Wanted, choose_search_point
from service.decision.thresholds import Thresholds
from service.engine import load_engine
from service.settings import Settings
from tests.benchmarks.lfw_embedded import arguments, embedded

MARGINS = (0.05, 0.1, 0.15, 0.2)


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--without", help="file of photos and persons to leave out")
    args = parser.parse_args()
    lfw = embedded(args, left_out(args.without))
    thresholds = Thresholds(load_engine(Settings(data_dir=args.data_dir, bundle=args.bundle)).card.calibration)
    rng = np.random.default_rng(args.seed)
    mixed = [rng.permutation(np.flatnonzero(lfw.persons == person)) for person in np.unique(lfw.persons)]
    threshold = choose_search_point(thresholds, {1: len(mixed)}, Wanted(fpir=0.01)).threshold
    gallery = np.array([rows[0] for rows in mixed])
    searched = [number for number, rows in enumerate(mixed) if len(rows) > 1]
    scores = lfw.embeddings[[mixed[number][1] for number in searched]] @ lfw.embeddings[gallery].T
    first, second = np.argsort(-scores, axis=1)[:, :2].T
    best, next_best = np.take_along_axis(scores, np.stack([first, second], axis=1), axis=1).T
    doubt = next_best >= threshold
    wrong = first != np.array(searched)
    twice = []
    for rows in mixed:
        if len(rows) > 2:
            both = lfw.embeddings[rows[1:3]] @ lfw.embeddings[rows[0]]
            twice += [abs(float(both[0] - both[1]))] if both.min() >= threshold else []
    print(f"{args.bundle}: {len(searched)} searches of {len(mixed):,} persons, threshold {threshold:.4f}: in ", end="")
    print(f"{doubt.sum()} two persons reach it, in {(doubt & wrong).sum()} of these the first is wrong")
    print(f"{len(twice)} faces under two names\n\n| margin below | two names told | searches told | of these wrong |")
    print("| --- | --- | --- | --- |")
    for margin in MARGINS:
        told = doubt & (best - next_best < margin)
        share = 100 * np.mean(np.array(twice) < margin)
        print(f"| {margin} | {share:.0f} % | {told.sum()} | {(told & wrong).sum()} |")


if __name__ == "__main__":
    main()
