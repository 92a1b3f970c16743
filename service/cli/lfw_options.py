"""``--lfw``: the accuracy before and after, for commands that make bundles."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from service.errors import InvalidRequest
from service.runtime.card import Accuracy

if TYPE_CHECKING:
    from export.accuracy import Lfw


def add_lfw(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    command.add_argument(
        "--lfw",
        type=Path,
        metavar="DIR",
        help="folder with LFW's images/ and pairs.txt: compare the accuracy before and after, too (minutes)",
    )
    command.add_argument(
        "--lfw-pairs", type=int, default=0, metavar="N", help="only N of LFW's 6,000 pairs, a multiple of 20"
    )


def lfw_of(args: argparse.Namespace) -> "Lfw | None":
    """What the options name."""
    from export.accuracy import Lfw

    if args.lfw is None:
        if args.lfw_pairs:
            raise InvalidRequest(f"--lfw-pairs {args.lfw_pairs} needs --lfw DIR.")
        return None
    return Lfw(args.lfw, args.lfw_pairs)


def accuracy_line(accuracy: Accuracy) -> str:
    """For people."""
    return (
        f"  accuracy on {accuracy.pairs} pairs of {accuracy.dataset}: {100 * accuracy.before:.2f} % before, "
        f"{100 * accuracy.after:.2f} % after; smallest cosine there {accuracy.min_cosine:.6f}"
    )
