"""Crops are kept only where an operator asks for it: sealed, and gone with their face."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from service.api.app import create_app
from service.engine import Engine
from service.errors import Unavailable
from service.gallery.gallery import Galleries
from service.gallery.store import Store
from service.settings import Settings


@contextmanager
def enrolled(engine: Engine, folder: Path, photo: bytes, **settings: bool) -> Iterator[tuple[TestClient, Store]]:
    store = Store.open(folder / "gallery.db", reserve_bytes=2**16)
    galleries = Galleries(store, engine.card.embedding_contract, engine.card.contract.dimension)
    with TestClient(create_app(engine, Settings(**settings), galleries)) as client:
        while client.get("/v1/health/ready").status_code == 503:
            time.sleep(0.01)
        client.put("/v1/galleries/g")
        client.put("/v1/galleries/g/persons/ann")
        files = [("images", photo), ("images", photo)]
        answer = client.post("/v1/galleries/g/persons/ann/faces", files=files, data={"face_ids": ["a", "b"]})
        assert answer.status_code == 201
        yield client, store
    store.close()


def sealed(folder: Path) -> list[bytes]:
    with closing(sqlite3.connect(folder / "gallery.db")) as connection:
        return [row[0] for row in connection.execute("SELECT sealed FROM crops ORDER BY face_key")]


def everything(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "reserve")


def test_no_crop_is_kept_unless_asked_for(engine: Engine, tmp_path: Path, portrait: bytes) -> None:
    with enrolled(engine, tmp_path, portrait) as (_, store):
        assert store.crops("g", "ann") == {}
        assert sealed(tmp_path) == []


def test_crops_are_sealed_and_go_with_their_face(engine: Engine, tmp_path: Path, portrait: bytes) -> None:
    image = engine.recognizer.decode(portrait)
    [face] = engine.recognizer.detect(image)
    crop = engine.recognizer.crop(image, face)
    with enrolled(engine, tmp_path, portrait, keep_crops=True) as (client, store):
        kept = store.crops("g", "ann")
        assert kept.keys() == {"a", "b"}
        np.testing.assert_array_equal(kept["a"], crop)
        first, second = sealed(tmp_path)
        raw = everything(tmp_path)
        row = crop.tobytes()[56 * 336 : 56 * 336 + 64]
        assert row not in raw
        assert first[1000:1064] in raw
        with closing(sqlite3.connect(tmp_path / "gallery.db")) as connection, connection:
            connection.execute("UPDATE crops SET sealed = ?", (first,))
        with pytest.raises(Unavailable, match="damaged"):
            store.crops("g", "ann")
        with closing(sqlite3.connect(tmp_path / "gallery.db")) as connection, connection:
            connection.execute(
                "UPDATE crops SET sealed = ? WHERE face_key = (SELECT max(face_key) FROM crops)", (second,)
            )
        assert client.delete("/v1/galleries/g/persons/ann/faces/a").status_code == 204
        raw = everything(tmp_path)
        assert not any(first[at : at + 32] in raw for at in range(0, len(first) - 32, 512))
        assert store.crops("g", "ann").keys() == {"b"}
        assert client.delete("/v1/galleries/g/persons/ann").status_code == 204
        raw = everything(tmp_path)
        assert not any(second[at : at + 32] in raw for at in range(0, len(second) - 32, 512))
