"""What came of a run, in a table."""

from tests.cluster.run import Outcome
from tests.cluster.told import BROKEN


def show(outcome: Outcome) -> None:
    """Print it."""
    told = outcome.told
    print(f"\n{outcome.name}: {outcome.seconds:.0f} s")
    print(f"{'call':<9}{'requests':>9}  answers by code (no answer: the connection broke)")
    for call in sorted({call for call, _ in told.answers}):
        codes = {status: count for (name, status), count in sorted(told.answers.items()) if name == call}
        told_by_code = (f"{'no answer' if code == BROKEN else code}: {count}" for code, count in codes.items())
        print(f"{call:<9}{sum(codes.values()):>9}  {', '.join(told_by_code)}")
    print(
        f"replicas killed {outcome.kills}, ended by themselves {outcome.ends}, failed to start {outcome.failed_starts}"
    )
    away = ", ".join(f"{end - start:.1f} s" for start, end in told.away)
    print(f"PostgreSQL away {away}")
    print(
        f"longest time without service {told.longest_gap_s:.1f} s, around PostgreSQL's {told.longest_gap_away_s:.1f} s"
    )
    print(f"answered writes {told.writes}, lost {len(outcome.lost)}, unknown {outcome.unknown} (either is right)")
    print(
        f"looks at them at another replica {told.looks}, stale {len(told.stale)}; other wrong answers {len(told.wrong)}"
    )
    allowed, refused, most = outcome.limited
    print(f"key with a rate: allowed {allowed}, at most {most}; refused {refused}")
    print(f"audit chain verified, {outcome.audit_lines} lines")
    for words in (*outcome.lost[:20], *told.stale[:20], *told.wrong[:20]):
        print(f"  {words}")
