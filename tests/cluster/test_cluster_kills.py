"""The short form of ``make cluster-kills``: replicas are killed, and the primary, whose standby takes over.

``LIKENESS_TEST_SEED`` repeats the clients' choices and the moments of the kills.
"""

import os
from pathlib import Path

from tests.cluster.report import show
from tests.cluster.scenarios import failed_over

SECONDS = 8.0
SEED = int(os.environ.get("LIKENESS_TEST_SEED") or int.from_bytes(os.urandom(4), "big"))


def test_no_answered_write_is_lost_or_unseen_when_replicas_and_the_primary_are_killed(data_dir: Path) -> None:
    print(f"LIKENESS_TEST_SEED={SEED}")
    outcome = failed_over(data_dir / "bundles" / "open", SECONDS, SEED, {})
    show(outcome)
    assert outcome.lost == []
    assert outcome.told.stale == []
    assert outcome.told.wrong == []
    assert outcome.ends == 0
    assert outcome.kills >= 1
    assert outcome.told.writes > 20
    assert outcome.told.looks > 20
    allowed, _, most = outcome.limited
    assert 0 < allowed <= most
