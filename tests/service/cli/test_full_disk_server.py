"""The real server on a disk that is really full: what it answered stays, searches and deletions go on."""

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from service.engine import Engine
from service.reserve import RESERVE_BYTES

FACES = 100
FILLER_BYTES = ROOM_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Disk:
    """A small file system in a mount namespace.

    Attributes:
        folder: its path for the processes in the namespace.
        here: a path to it for this process.
        enter: the start of a command that is to run in the namespace.
    """

    folder: Path
    here: Path
    enter: Sequence[str]

    def take_the_rest(self) -> None:
        """Leave not a byte."""
        with (self.here / "more").open("ab", buffering=0) as more:
            while os.statvfs(self.here).f_bavail:
                more.write(bytes(4096))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A tmpfs with room for the reserve, some persons, and a file ``filler``. A user namespace needs no root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    size = RESERVE_BYTES + FILLER_BYTES + ROOM_BYTES
    # cat holds the namespace, until this process ends at the latest.
    hold = [
        "sh",
        "-c",
        'mount -t tmpfs -o size="$0" likeness-test "$1" && echo mounted && exec cat',
        str(size),
        str(folder),
    ]
    for kinds in (["--mount"], ["--user", "--mount"]):
        unshare = ["unshare", *kinds, *(["--map-root-user"] if "--user" in kinds else [])]
        with subprocess.Popen(
            [*unshare, *hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as holder:
            assert holder.stdout is not None
            if holder.stdout.readline():
                keep = ["--preserve-credentials"] if "--user" in kinds else []
                enter = ["nsenter", f"--target={holder.pid}", *kinds, *keep, "--"]
                disk = Disk(folder, Path(f"/proc/{holder.pid}/root") / folder.relative_to("/"), enter)
                (disk.here / "filler").write_bytes(bytes(FILLER_BYTES))
                yield disk
                return
    pytest.skip("mounting a tmpfs is not permitted here, neither to this user nor in a user namespace")


@dataclass(frozen=True)
class Gallery:
    """A gallery of a running server."""

    http: httpx2.Client
    contract: str

    def enrol(self, person: str, vectors: list[list[float]]) -> httpx2.Response:
        """The answer that refused, or the last one."""
        made = self.http.put(f"/persons/{person}")
        if made.is_error:
            return made
        body = {"embeddings": [{"embedding": vector} for vector in vectors], "embedding_contract": self.contract}
        return self.http.post(f"/persons/{person}/faces", json=body)

    def found(self, person: str) -> list[str]:
        """Whom a search with the mean of the person's templates finds."""
        mean = np.mean(vectors_of(person), axis=0)
        body = {
            "embedding": (mean / np.linalg.norm(mean)).tolist(),
            "embedding_contract": self.contract,
            "threshold": 0.99,
        }
        [probe] = self.http.post("/search", json={**body, "candidates": "above_threshold"}).json()["probes"]
        return [candidate["person_id"] for candidate in probe["candidates"]]

    def check(self, persons: list[str], gone: str | None, portrait: bytes) -> None:
        """All of ``persons`` are whole and found, ``gone`` is neither, and the one in the portrait is verified."""
        for person in persons:
            assert self.found(person) == [person]
            assert self.http.get(f"/persons/{person}").json()["faces"] == FACES
        if gone is not None:
            assert self.found(gone) == []
            assert self.http.get(f"/persons/{gone}").status_code == 404
        verified = self.http.post("/persons/portrait/verify", files={"image": portrait})
        assert (verified.status_code, verified.json()["match"]) == (200, True)


def vectors_of(person: str) -> list[list[float]]:
    """The templates of a person, known from the name alone."""
    vectors = np.random.default_rng(list(person.encode())).normal(size=(FACES, 128))
    listed: list[list[float]] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).tolist()
    return listed


def refused(answer: httpx2.Response) -> bool:
    """Whether it is for want of room, as an error should be."""
    if answer.status_code != 507:
        assert answer.status_code == 201, answer.text
        return False
    assert answer.json()["error"]["code"] == "insufficient_storage"
    return True


def test_a_full_disk_a_kill_and_room_again(
    served: Callable[..., Any], data_dir: Path, disk: Disk, engine: Engine, astronaut: bytes
) -> None:
    @contextmanager
    def serving() -> Iterator[tuple[Gallery, Any]]:
        with (
            served(data_dir, disk.folder, under=disk.enter) as server,
            httpx2.Client(base_url=f"{server.url}/v1/galleries/g", timeout=60) as http,
        ):
            yield Gallery(http, engine.card.embedding_contract), server

    with serving() as (gallery, server):
        assert httpx2.put(f"{server.url}/v1/galleries/g").status_code == 201
        embedded = httpx2.post(f"{server.url}/v1/embed", files={"image": astronaut}).json()["faces"]
        assert gallery.enrol("portrait", [embedded[0]["embedding"]]).status_code == 201
        persons: list[str] = []
        while not refused(gallery.enrol(f"p{len(persons)}", vectors_of(f"p{len(persons)}"))):
            persons.append(f"p{len(persons)}")
        assert len(persons) > 20
        disk.take_the_rest()
        assert refused(gallery.enrol(persons[0], vectors_of("more")))
        gallery.check(persons, None, astronaut)
        gone = persons.pop(len(persons) // 2)
        assert gallery.http.delete(f"/persons/{gone}").status_code == 204
        server.process.kill()
    disk.take_the_rest()
    with serving() as (gallery, _):
        gallery.check(persons, gone, astronaut)
        assert gallery.http.delete(f"/persons/{persons[0]}").status_code == 204
        (disk.here / "filler").unlink()
        (disk.here / "more").unlink()
        assert gallery.enrol("new", vectors_of("new")).status_code == 201
        gallery.check([*persons[1:], "new"], persons[0], astronaut)
