"""Replicas killed under load, PostgreSQL restarted, and then its primary killed: is anything lost, is anything stale?

    python -m tests.cluster --data-dir DIR [--seconds 120] [--search-in auto] [--seed N]

Three replicas on one PostgreSQL, four clients that know the right answers and ask another replica for each write that
was answered, right after; a key with a rate, used at all replicas. A replica is killed (SIGKILL) every few seconds. The
exit code is 1 if a write is lost, an answer is stale or wrong, or the rate was exceeded.
"""

import argparse
import time
from pathlib import Path

from tests.cluster.report import show
from tests.cluster.scenarios import failed_over, restarted


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data-dir", type=Path, required=True)
    arguments.add_argument("--seconds", type=float, default=120, help="of each of the two runs")
    arguments.add_argument("--search-in", help="the setting of that name; default: the service's own")
    arguments.add_argument("--seed", type=int, default=int(time.time()))
    arguments.add_argument("--only", choices=["restarted", "failed_over"], help="one of the two runs")
    args = arguments.parse_args()
    bundle = (args.data_dir / "bundles" / "open").resolve()
    settings = {"LIKENESS_SEARCH_IN": args.search_in} if args.search_in else {}
    print(f"seed {args.seed}", flush=True)
    sound = True
    for scenario in (restarted, failed_over):
        if args.only in (None, scenario.__name__):
            outcome = scenario(bundle, args.seconds, args.seed, settings)
            show(outcome)
            sound &= outcome.sound
    if not sound:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
