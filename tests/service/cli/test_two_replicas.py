"""Two real services on one PostgreSQL: what one is told both know, limits are those of both together, one audit log."""

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest

from service.cli.main import EXIT_UNAVAILABLE, EXIT_WRONG_USE, main
from service.security.audit_log import Link
from service.security.erasures import erasures
from service.security.master_key import MasterKey
from tests.postgres_server import PostgresServer
from tests.served import Served, serving


@dataclass(frozen=True)
class Shared:
    """Two replicas, and the database behind them."""

    replicas: tuple[Served, Served]
    server: PostgresServer
    database: str

    def answers(self, key: str, path: str = "/v1/galleries") -> list[int]:
        """The status that each replica answers with."""
        headers = {"authorization": f"Bearer {key}"}
        return [httpx2.get(f"{replica.url}{path}", headers=headers).status_code for replica in self.replicas]

    def await_answers(self, key: str, wanted: list[int], within_s: float) -> None:
        start = time.monotonic()
        while (found := self.answers(key)) != wanted:
            assert time.monotonic() - start < within_s, found


@pytest.fixture(scope="module")
def shared(
    data_dir: Path, tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer, migrated: str
) -> Iterator[Shared]:
    with ExitStack() as ending, pytest.MonkeyPatch.context() as patch:
        name = ending.enter_context(postgres_server.database(migrated))
        environment = {
            "LIKENESS_DATABASE_URL": postgres_server.url(name),
            "LIKENESS_MASTER_KEY": MasterKey.new().text(),
        }
        # For the commands, too.
        for variable, value in environment.items():
            patch.setenv(variable, value)
        patch.chdir(tmp_path_factory.mktemp("nothing"))
        replicas = [
            ending.enter_context(
                serving(
                    data_dir, tmp_path_factory.mktemp("replica"), "--drain-s", "0", auth=True, environment=environment
                )
            )
            for _ in range(2)
        ]
        yield Shared((replicas[0], replicas[1]), postgres_server, name)
        assert list(Path().iterdir()) == []


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """What a command printed as JSON."""

    def ran(*command: str) -> Any:
        capsys.readouterr()
        assert main([*command, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return ran


def test_both_know_a_key_that_was_made_and_refuse_it_when_it_was_revoked(
    shared: Shared, run: Callable[..., Any]
) -> None:
    made = run("keys", "create", "--name", "first")
    shared.await_answers(made["key"], [200, 200], 1.5)
    anew = run("keys", "rotate", made["id"], "--overlap", "0")
    shared.await_answers(made["key"], [401, 401], 1.5)
    shared.await_answers(anew["key"], [200, 200], 1.5)
    assert [key["id"] for key in run("keys", "list")["keys"]] == [made["id"], anew["id"]]
    run("keys", "revoke", anew["id"])
    shared.await_answers(anew["key"], [401, 401], 1.5)
    for replica in shared.replicas:
        assert made["key"] not in replica.log


def test_limits_are_those_of_both_together(shared: Shared, run: Callable[..., Any]) -> None:
    often = run("keys", "create", "--rate", "30")["key"]
    one = run("keys", "create", "--concurrency", "1")["key"]
    shared.await_answers(one, [200, 200], 1.5)
    # Whoever waits for each answer is never refused, whichever replica is asked next.
    assert [shared.answers(one) for _ in range(15)] == [[200, 200]] * 15
    start, statuses = time.monotonic(), []

    def ask(url: str) -> None:
        with httpx2.Client(base_url=url, headers={"authorization": f"Bearer {often}"}) as client:
            statuses.extend(client.get("/v1/galleries").status_code for _ in range(15))

    threads = [threading.Thread(target=ask, args=(replica.url,)) for replica in shared.replicas * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(statuses) == {200, 429}
    # One comes back every two seconds.
    assert 30 <= statuses.count(200) <= 30 + (time.monotonic() - start) / 2


def test_without_the_database_nobody_is_let_in_and_nobody_past_a_limit(shared: Shared, run: Callable[..., Any]) -> None:
    keys = [run("keys", "create", *limit)["key"] for limit in ((), ("--rate", "1000"), ("--concurrency", "5"))]
    for key in keys:
        shared.await_answers(key, [200, 200], 1.5)
    with shared.server.connect() as connection:
        connection.execute(f'ALTER DATABASE "{shared.database}" ALLOW_CONNECTIONS false')
        ending = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
        connection.execute(ending, (shared.database,))
        try:
            for key in keys:
                for replica in shared.replicas:
                    answer = httpx2.get(f"{replica.url}/v1/info", headers={"authorization": f"Bearer {key}"})
                    # Without a limit, for a second at most, from what is known; with one never.
                    assert answer.status_code == 503 or key == keys[0], key
                    if answer.status_code == 503:
                        assert answer.headers["retry-after"] == "1"
                    assert httpx2.get(f"{replica.url}/v1/info").status_code == 401
                    assert httpx2.get(f"{replica.url}/v1/health/live").status_code == 200
            shared.await_answers(keys[0], [503, 503], 10)
            assert main(["keys", "list"]) == EXIT_UNAVAILABLE
        finally:
            connection.execute(f'ALTER DATABASE "{shared.database}" ALLOW_CONNECTIONS true')
    for key in keys:
        shared.await_answers(key, [200, 200], 10)


def test_the_log_of_both_verifies_after_both_were_killed_and_misses_nothing_that_was_answered(
    shared: Shared, run: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = run("keys", "create")["key"]
    shared.await_answers(key, [200, 200], 1.5)
    headers = {"authorization": f"Bearer {key}"}
    httpx2.put(f"{shared.replicas[0].url}/v1/galleries/g", headers=headers)
    began = datetime.now(UTC).replace(microsecond=0)
    receipts: dict[str, str] = {}
    made: list[str] = []

    def work(number: int) -> None:
        one, other = (httpx2.Client(base_url=replica.url, headers=headers) for replica in shared.replicas)
        with one, other, suppress(httpx2.TransportError):
            for count in itertools.count():
                person = f"p{number}-{count}"
                path = f"/v1/galleries/g/persons/{person}"
                if one.put(path, headers={"x-request-id": person}).status_code == 201:
                    made.append(person)
                gone = other.delete(path)
                if gone.status_code == 204:
                    receipts[person] = gone.headers["x-erasure-receipt"]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(1.5)
    for replica in shared.replicas:
        replica.process.kill()
    for thread in threads:
        thread.join()
    assert len(receipts) > 10
    last = list(receipts.values())[-1]
    found = run("audit", "verify", "--receipt", last)
    capsys.readouterr()
    assert main(["audit", "export"]) == 0
    exported = capsys.readouterr().out
    lines = [json.loads(line) for line in exported.splitlines()]
    assert len(lines) == found["lines"]
    told = {f"{line['seq']}:{line['mac']}" for line in lines}
    assert set(receipts.values()) <= told
    assert set(made) <= {line.get("request_id") for line in lines if line["action"] == "put_person"}
    links = [Link(0, b"", line.encode()) for line in exported.splitlines()]
    assert set(receipts) <= {erasure.person for erasure in erasures(links, began)}
    # The export is as good as the log itself.
    copy = tmp_path / "audit.jsonl"
    copy.write_text(exported)
    assert run("audit", "verify", "--file", str(copy), "--receipt", last) == found
    copy.write_text(exported.replace('"p0-0"', '"p0-x"', 1))
    assert main(["audit", "verify", "--file", str(copy)]) == EXIT_UNAVAILABLE
    assert main(["audit", "verify", "--file", str(tmp_path / "none")]) == EXIT_WRONG_USE
    assert main(["audit", "export", "--after", str(found["lines"])]) == 0
    assert capsys.readouterr().out == ""
