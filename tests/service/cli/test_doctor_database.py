"""``likeness doctor --system`` where the galleries are in PostgreSQL."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.cli.main import main
from service.postgres.store import open_store
from service.security.master_key import GivenPlace, MasterKey
from tests.postgres_server import PostgresServer

Doctor = Callable[[str, str], dict[str, Any]]


@pytest.fixture
def doctor(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    postgres_server: PostgresServer,
) -> Doctor:
    """Asks with this address and master key: ``check -> finding``; the password is never in it."""

    def ask(url: str, master: str) -> dict[str, Any]:
        monkeypatch.setenv("LIKENESS_DATABASE_URL", url)
        monkeypatch.setenv("LIKENESS_MASTER_KEY", master)
        capsys.readouterr()
        main(["doctor", "--system", "--json", "--data-dir", str(tmp_path), "--port", "0"])
        told = capsys.readouterr().out
        assert postgres_server.password not in told
        return {finding["check"]: finding for finding in json.loads(told)["findings"]}

    return ask


def test_a_database_in_use(doctor: Doctor, postgres_server: PostgresServer, postgres_url: str) -> None:
    master = MasterKey.new().text()
    open_store(postgres_url, GivenPlace(master)).close()
    found = doctor(postgres_url, master)
    assert (found["database"]["state"], found["pgvector"]["state"], found["master key"]["state"]) == ("ok", "ok", "ok")
    assert f"127.0.0.1:{postgres_server.port}" in found["database"]["found"]
    assert found["durability"]["state"] == "warn"
    assert "fsync" in found["durability"]["found"]
    assert found["access keys"]["state"] == "warn"
    assert main(["keys", "create"]) == 0
    assert doctor(postgres_url, master)["access keys"]["found"] == "1 of 1 can be used"
    found = doctor(postgres_url, MasterKey.new().text())
    assert found["master key"]["state"] == "fail"
    assert "Put the right one back" in found["master key"]["found"]


def test_what_is_missing(doctor: Doctor, postgres_server: PostgresServer) -> None:
    master = MasterKey.new().text()
    with postgres_server.database() as name:
        with postgres_server.connect(name) as connection:
            connection.execute("DROP EXTENSION vector")
        found = doctor(postgres_server.url(name), master)
        assert found["pgvector"]["state"] == "fail"
        assert "CREATE EXTENSION vector" in found["pgvector"]["advice"]
        assert "nothing is sealed" in found["master key"]["found"]
    found = doctor(postgres_server.url("nowhere"), master)
    assert found["database"]["state"] == "fail"
    assert '"nowhere" does not exist' in found["database"]["found"]
