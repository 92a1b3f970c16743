"""``likeness migrate-model`` against a real server, which is killed in the middle."""

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

import likeness
from service.cli.main import main
from tests.served import Served

CROPS = {"LIKENESS_KEEP_CROPS": "true"}
FACES = 100


@pytest.fixture
def folder(data_dir: Path, tmp_path: Path) -> Path:
    """A data folder with the bundles."""
    if not (data_dir / "bundles" / "buffalo_s" / "card.json").is_file():
        pytest.skip("buffalo_s is not there; its licence has to be accepted: see docs/bundles.md")
    (tmp_path / "bundles").symlink_to(data_dir / "bundles")
    return tmp_path


def told(server: Served, capsys: Any, *more: str) -> Any:
    capsys.readouterr()
    assert main(["migrate-model", "g", *more, "--json", "--url", server.url]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_server_that_is_killed_goes_on(
    data_dir: Path,
    folder: Path,
    served: Callable[..., AbstractContextManager[Served]],
    portrait: bytes,
    portrait_again: bytes,
    group_portraits: list[bytes],
    capsys: Any,
) -> None:
    with served(data_dir, folder, environment=CROPS) as server, likeness.Client(server.url) as client:
        client.put_gallery("g")
        for person, photo in (("ann", portrait), *((f"p{i}", photo) for i, photo in enumerate(group_portraits[:3]))):
            client.put_person("g", person)
            client.enrol("g", person, [photo] * (FACES // 4))
        assert told(server, capsys, "--to", "buffalo_s", "--no-wait")["phase"] == "embedding"
        deadline = time.monotonic() + 60
        while not (progress := client.migration("g").progress) or not progress.faces_embedded:
            assert time.monotonic() < deadline
        # ``served`` ends with SIGKILL.
    begun = progress.faces_embedded
    with served(data_dir, folder, environment=CROPS) as server, likeness.Client(server.url) as client:
        # What was made durable is there, and the bundle was found without a flag.
        after = client.migration("g").progress
        assert after is not None
        assert FACES >= after.faces_embedded >= begun > 0
        assert {bundle.name for bundle in client.info().bundles} == {"open", "buffalo_s"}
        [probe] = client.search("g", portrait_again).probes
        assert probe.identified is not None
        assert probe.identified.person_id == "ann"
        done = told(server, capsys, "--to", "buffalo_s")
        assert done["progress"]["faces_embedded"] == FACES
        assert done["pending"] == []
        assert told(server, capsys, "--cut-over")["phase"] == "cut_over"
    with served(data_dir, folder) as server, likeness.Client(server.url) as client:
        assert told(server, capsys, "--finish")["phase"] == "none"
        [probe] = client.search("g", portrait_again).probes
        assert probe.identified is not None
        assert (probe.identified.person_id, probe.identified.embedding_contract) == (
            "ann",
            client.gallery("g").embedding_contract,
        )
        assert main(["migrate-model", "g", "--status", "--url", server.url]) == 0
        assert "nothing is being moved" in capsys.readouterr().out
