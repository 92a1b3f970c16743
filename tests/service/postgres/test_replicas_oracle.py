"""Two replicas under random operations, against a plain dict and float64 numpy: whichever makes a change, both know it.

One searches in the database, the other in a copy in memory. Few changes are kept, so that the copy is at times too far
behind to follow.
"""

import random
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis.stateful import initialize, rule, run_state_machine_as_test

from service.gallery import flat_index, segment
from service.postgres import changes
from tests.service.gallery.test_galleries_oracle import GALLERY, GalleriesMachine
from tests.service.postgres.replicas import DATABASE, MEMORY, Replica


class ReplicasMachine(GalleriesMachine):
    """As for the embedded store; ``galleries`` is now one replica and now the other."""

    server = migrated = None

    def __init__(self):
        super().__init__()
        self.database = self.server.database(template=self.migrated)
        self.url = self.server.url(self.database.__enter__())
        self.choose = random.Random(7)

    @initialize()
    def start(self):
        folder = Path(self.folder.name)
        self.both = [Replica(self.url, folder, plan, background=False) for plan in (DATABASE, MEMORY)]
        self.store = self.both[0].store

    @property
    def galleries(self):
        return self.choose.choice(self.both).galleries

    def close(self):
        for replica in self.both:
            replica.close()

    def everywhere(self):
        return [replica.galleries for replica in self.both]

    def teardown(self):
        super().teardown()
        self.database.__exit__(None, None, None)

    @rule(gallery=GALLERY)
    def bring_in_step(self, gallery):
        if gallery in self.model:
            self.both[1].get_in_step(gallery)
            # Even where it was too far behind.
            assert self.both[1].follower(gallery).revision == self.store.gallery(gallery).revision


def test_replicas_agree_with_a_dict_and_numpy(monkeypatch, postgres_server, migrated):
    monkeypatch.setattr(flat_index, "BLOCK_ROWS", 8)
    monkeypatch.setattr(segment, "DEAD_ROWS", 4)
    monkeypatch.setattr(changes, "KEPT", 3)
    monkeypatch.setattr(changes, "CUT_EVERY", 2)
    machine = type("Machine", (ReplicasMachine,), {"server": postgres_server, "migrated": migrated})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=5,
            stateful_step_count=40,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
