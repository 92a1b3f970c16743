"""HAProxy as it is delivered, in front of real services that drain and die. Skipped where it is not installed."""

import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest

from tests.cluster.balancer import balancing
from tests.served import Served, serving

pytestmark = pytest.mark.skipif(shutil.which("haproxy") is None, reason="HAProxy is not installed.")
DRAIN_S = 4


@pytest.fixture
def services(data_dir: Path, tmp_path: Path) -> Iterator[list[Served]]:
    with ExitStack() as running:
        folders = [tmp_path / name for name in ("a", "b")]
        yield [running.enter_context(serving(data_dir, one, "--drain-s", str(DRAIN_S))) for one in folders]


def test_one_that_drains_costs_no_request_and_one_that_died_only_what_it_was_working_on(
    services: list[Served], tmp_path: Path
) -> None:
    with (
        balancing([one.url for one in services], tmp_path) as url,
        httpx2.Client(base_url=url or "", timeout=30) as http,
    ):
        body = {"a": [1.0] + [0.0] * 127, "b": [1.0] + [0.0] * 127}
        body["embedding_contract"] = http.get("/v1/info").json()["embedding_contract"]
        statuses, over = [], threading.Event()

        def ask() -> None:
            while not over.is_set():
                statuses.append(http.post("/v1/compare", json=body).status_code)
                over.wait(0.01)

        asking = threading.Thread(target=ask)
        asking.start()
        services[0].process.send_signal(signal.SIGTERM)
        assert services[0].process.wait(timeout=60) == 0
        over.set()
        asking.join()
        assert set(statuses) == {200}
        assert len(statuses) > 100

        # One is left. What changes nothing is asked again, so that even a kill is not seen.
        assert http.get("/metrics").status_code == 404
        services[1].process.kill()
        services[1].process.wait()
        gone = http.get("/v1/info")
        assert gone.status_code == 503
        assert gone.headers["retry-after"] == "1"
        assert gone.json()["error"]["code"] == "not_ready"
        assert gone.json()["request_id"] == gone.headers["x-request-id"]
