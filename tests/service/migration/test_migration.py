"""A gallery moves from one bundle to another: through the real application, networks and store."""

import base64
import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.engines import Engines
from service.errors import InsufficientStorage
from tests.service.migration.conftest import Service

Opened = Callable[..., AbstractContextManager[Service]]
DONE = {"persons": 5, "persons_moved": 5, "faces": 5, "faces_embedded": 5, "faces_waiting": 0}


def staffed(service: Service, portrait: bytes, group_portraits: list[bytes]) -> None:
    service.enrol("ann", [portrait])
    for number, photo in enumerate(group_portraits[:4]):
        service.enrol(f"p{number}", [photo])


def embedded(status: Any) -> bool:
    return bool(status["progress"]["faces_waiting"] == 0)


def pending(service: Service) -> list[str]:
    return [person["person_id"] for person in service.get("/migration/pending")["persons"]]


def rows(folder: Path, table: str) -> int:
    with closing(sqlite3.connect(folder / "gallery.db")) as connection:
        return int(connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])


def test_a_gallery_with_crops_moves_in_the_background_and_back(
    caplog: pytest.LogCaptureFixture,
    opened: Opened,
    contracts: tuple[str, str],
    other_bundle: str,
    portrait: bytes,
    portrait_again: bytes,
    group_portraits: list[bytes],
    tmp_path: Path,
) -> None:
    old, new = contracts
    with opened(keep_crops=True) as service:
        staffed(service, portrait, group_portraits)
        assert service.get("/migration")["phase"] == "none"
        assert service.found(portrait_again) == ("ann", old)
        assert service.search(portrait_again)["spaces"] is None
        begun = service.post("/migration", 201, json={"bundle": other_bundle})
        assert (begun["phase"], begun["embedding_contract"], begun["crops_fit"]) == ("embedding", old, True)
        assert (begun["source"]["bundle"], begun["target"]["bundle"]) == ("open", other_bundle)
        assert service.found(portrait_again)[0] == "ann"
        assert service.until(embedded)["progress"] == DONE
        assert pending(service) == []
        assert service.found(portrait_again) == ("ann", new)
        told = service.post("/migration/cut-over")
        assert (told["phase"], told["embedding_contract"]) == ("cut_over", new)
        assert service.found(portrait_again) == ("ann", new)
        # Enrolled into both, so that the way back loses nobody.
        service.enrol("p4", group_portraits[4:5])
        assert service.post("/migration/roll-back")["embedding_contract"] == old
        assert service.found(portrait_again) == ("ann", old)
        assert service.found(group_portraits[4]) == ("p4", old)
        service.post("/migration", 201, json={"bundle": other_bundle})
        service.post("/migration/cut-over")
        assert (rows(tmp_path, "templates_128"), rows(tmp_path, "templates_512_slot_1")) == (6, 6)
        ended = service.post("/migration/finish")
        assert (ended["phase"], ended["embedding_contract"]) == ("none", new)
        assert (rows(tmp_path, "templates_128"), rows(tmp_path, "templates_512_slot_1")) == (0, 6)
        assert service.post("/migration/finish") == ended
        assert service.found(group_portraits[4]) == ("p4", new)
        service.enrol("p5", group_portraits[5:])
        assert service.found(group_portraits[5]) == ("p5", new)
        exported = service.get("/export")
        assert (exported["embedding_contract"], exported["embedding_dimension"]) == (new, 512)
        assert [len(person["faces"]) for person in exported["persons"]] == [1] * 7
        # To where it came from, in the other direction.
        service.post("/migration", 201, json={"bundle": "open"})
        service.until(embedded)
        service.post("/migration/cut-over")
        service.post("/migration/finish")
        assert service.found(portrait_again) == ("ann", old)
    with opened() as service:
        assert service.found(portrait_again) == ("ann", old)
        assert service.get("")["faces"] == 7
    # Nothing of it went wrong and was mended behind the back.
    assert [record.message for record in caplog.records if record.levelname in ("ERROR", "WARNING")] == []


def test_persons_without_crops_stay_findable_until_they_are_enrolled_again(
    opened: Opened,
    contracts: tuple[str, str],
    other_bundle: str,
    portrait: bytes,
    portrait_again: bytes,
    group_portraits: list[bytes],
) -> None:
    old, new = contracts
    everybody = ["ann", "p0", "p1", "p2", "p3"]
    with opened() as service:
        staffed(service, portrait, group_portraits)
        service.post("/migration", 201, json={"bundle": other_bundle})
        assert pending(service) == everybody
        first = service.get("/migration/pending", params={"limit": 2})
        assert [person["person_id"] for person in first["persons"]] == everybody[:2]
        rest = service.get("/migration/pending", params={"cursor": first["cursor"]})
        assert [person["person_id"] for person in rest["persons"]] == everybody[2:]
        assert rest["persons"][0] == {
            "person_id": "p1",
            "name": None,
            "faces": 1,
            "faces_embedded": 0,
            "faces_waiting": 0,
        }
        service.enrol("ann", [portrait])
        assert pending(service) == everybody[1:]
        # One by the new photo alone, the others as they were; each is found, and by the right calibration.
        answer = service.search(portrait_again)
        [probe] = answer["probes"]
        assert (probe["decision"], probe["ambiguous"]) == ("identified", False)
        by_person = {found["person_id"]: found["embedding_contract"] for found in probe["candidates"]}
        assert by_person == {"ann": new, **dict.fromkeys(everybody[1:], old)}
        assert [(space["embedding_contract"], space["persons"]) for space in answer["spaces"]] == [(old, 4), (new, 1)]
        rates = [found["fmr"] for found in probe["candidates"] if found["fmr"] is not None]
        assert rates == sorted(rates)
        assert service.found(group_portraits[0]) == ("p0", old)
        service.post("/migration/cut-over")
        assert [space["embedding_contract"] for space in service.search(portrait_again)["spaces"]] == [new, old]
        assert service.found(group_portraits[0]) == ("p0", old)
        refused = service.post("/migration/finish", 409)
        assert refused["error"]["code"] == "conflict"
        assert refused["error"]["details"] == {"persons": 4}
        service.enrol("p0", group_portraits[:1])
        assert service.found(group_portraits[0]) == ("p0", new)
    with opened() as service:
        assert service.found(group_portraits[0]) == ("p0", new)
        assert service.found(group_portraits[1]) == ("p1", old)
        service.post("/migration/finish", json={"leave_behind": True})
        assert service.found(portrait_again) == ("ann", new)
        assert service.found(group_portraits[1]) == (None, None)
        # Still there, to be enrolled again.
        assert service.get("/persons/p1")["faces"] == 0
        assert (service.get("")["persons"], service.get("")["faces"]) == (5, 2)
        service.enrol("p1", group_portraits[1:2])
        assert service.found(group_portraits[1]) == ("p1", new)


def test_abandoning_erases_the_new_space(
    opened: Opened, contracts: tuple[str, str], other_bundle: str, portrait: bytes, tmp_path: Path
) -> None:
    with opened(keep_crops=True) as service:
        service.enrol("ann", [portrait])
        service.post("/migration", 201, json={"bundle": other_bundle})
        service.until(embedded)
        assert rows(tmp_path, "templates_512_slot_1") == 1
        assert service.client.delete("/v1/galleries/g/migration").status_code == 204
        assert rows(tmp_path, "templates_512_slot_1") == 0
        assert service.get("/migration")["phase"] == "none"
        assert service.found(portrait) == ("ann", contracts[0])
        assert service.client.delete("/v1/galleries/g/migration").status_code == 204


def test_erasing_a_space_that_failed_half_way_is_taken_up_again(
    opened: Opened, other_bundle: str, portrait: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(keep_crops=True) as service:
        service.enrol("ann", [portrait])
        service.post("/migration", 201, json={"bundle": other_bundle})
        service.until(embedded)
        service.post("/migration/cut-over")
        with monkeypatch.context() as broken:
            broken.setattr(service.store.spaces, "discard", _full)
            service.post("/migration/finish", 507)
        assert rows(tmp_path, "templates_128") == 1
        assert service.post("/migration/finish")["phase"] == "none"
        assert rows(tmp_path, "templates_128") == 0


def _full(key: int) -> None:
    raise InsufficientStorage(f"The disk is full at gallery {key}.")


def test_a_deletion_takes_the_templates_of_both_spaces(
    opened: Opened, other_bundle: str, portrait: bytes, group_portraits: list[bytes], tmp_path: Path
) -> None:
    both = ("templates_128", "templates_512_slot_1")
    with opened(keep_crops=True) as service:
        staffed(service, portrait, group_portraits)
        service.enrol("ann", [portrait])
        service.post("/migration", 201, json={"bundle": other_bundle})
        service.until(embedded)
        assert [rows(tmp_path, table) for table in both] == [6, 6]
        sealed = {}
        with closing(sqlite3.connect(tmp_path / "gallery.db")) as connection:
            for table in both:
                sealed[table] = [row[0] for row in connection.execute(f"SELECT sealed FROM {table}")]
        face = service.get("/persons/ann/faces")["faces"][0]["face_id"]
        assert service.client.delete(f"/v1/galleries/g/persons/ann/faces/{face}").status_code == 204
        assert [rows(tmp_path, table) for table in both] == [5, 5]
        assert service.found(portrait)[0] == "ann"
        for person in ("ann", "p0", "p1", "p2", "p3"):
            assert service.client.delete(f"/v1/galleries/g/persons/{person}").status_code == 204
        assert [rows(tmp_path, table) for table in both] == [0, 0]
        assert service.search(portrait)["probes"][0]["candidates"] == []
        raw = (tmp_path / "gallery.db").read_bytes() + (tmp_path / "gallery.db-wal").read_bytes()
        assert not any(blob[16:48] in raw for table in both for blob in sealed[table])


def test_templates_are_enrolled_and_searched_under_their_own_contract(
    opened: Opened,
    contracts: tuple[str, str],
    engines: Engines,
    other_bundle: str,
    portrait: bytes,
    portrait_again: bytes,
) -> None:
    old, new = contracts
    first, second = engines.loaded()
    vectors = {}
    for engine in (first, second):
        subject = engine.subject(portrait_again, "single", "image")
        vectors[engine.contract] = subject.embedded.embedding.astype(float).tolist()

    def search(service: Service, contract: str, status: int = 200) -> Any:
        body = {"embedding": vectors[contract], "embedding_contract": contract}
        return service.post("/search", status, json=body)

    with opened(keep_crops=True) as service:
        service.enrol("ann", [portrait])
        assert search(service, new, 409)["error"]["code"] == "model_mismatch"
        service.post("/migration", 201, json={"bundle": other_bundle})
        service.until(embedded)
        # Whoever still sends embeddings of the old contract finds everybody who has one.
        for contract in (old, new):
            [probe] = search(service, contract)["probes"]
            assert probe["decision"] == "identified"
            assert probe["candidates"][0]["embedding_contract"] == contract
        service.client.put("/v1/galleries/g/persons/bob")
        template = {"embeddings": [{"embedding": vectors[old]}], "embedding_contract": old}
        service.post("/persons/bob/faces", 201, json=template)
        assert pending(service) == ["bob"]
        [probe] = search(service, new)["probes"]
        assert [found["person_id"] for found in probe["candidates"]] == ["ann"]
        # The template of a face that is there comes into the space that lacks it.
        face = service.get("/persons/bob/faces")["faces"][0]["face_id"]
        packed = np.array(vectors[new], "<f4").tobytes()
        sent = {"face_id": face, "embedding": base64.b64encode(packed).decode()}
        answer = service.post(
            "/import", json={"embedding_contract": new, "persons": [{"person_id": "bob", "faces": [sent]}]}
        )
        assert answer["faces"] == {"created": 1, "present": 0}
        assert service.get("/persons/bob")["faces"] == 1
        assert pending(service) == []
        service.post("/migration/cut-over")
        service.post("/migration/finish")
        assert search(service, old, 409)["error"]["code"] == "model_mismatch"
        [probe] = search(service, new)["probes"]
        assert {found["person_id"] for found in probe["candidates"]} == {"ann", "bob"}


def test_verifying_a_person_follows_the_person(
    opened: Opened,
    contracts: tuple[str, str],
    other_bundle: str,
    portrait: bytes,
    portrait_again: bytes,
    group_portraits: list[bytes],
) -> None:
    old, new = contracts
    with opened() as service:
        staffed(service, portrait, group_portraits)
        service.post("/migration", 201, json={"bundle": other_bundle})
        service.enrol("ann", [portrait])
        for person, photo, contract in (("ann", portrait_again, new), ("p0", group_portraits[0], old)):
            answer = service.post(f"/persons/{person}/verify", files={"image": photo}, data={"fmr": "1e-4"})
            assert (answer["match"], answer["embedding_contract"]) == (True, contract)
            assert answer["operating_point"]["fmr"] == pytest.approx(1e-4)
        stranger = service.post("/persons/ann/verify", files={"image": group_portraits[1]})
        assert stranger["match"] is False


def test_what_cannot_be_is_refused(opened: Opened, other_bundle: str, portrait: bytes) -> None:
    with opened() as service:
        service.enrol("ann", [portrait])
        assert service.post("/migration", 409, json={"bundle": "open"})["error"]["code"] == "conflict"
        assert service.post("/migration", 503, json={"bundle": "none-such"})["error"]["code"] == "not_ready"
        assert service.post("/migration", 422, json={"bundle": "../open"})["error"]["code"] == "invalid_request"
        assert service.post("/migration/cut-over", 409)["error"]["code"] == "conflict"
        service.post("/migration", 201, json={"bundle": other_bundle})
        assert service.post("/migration/roll-back", 409)["error"]["code"] == "conflict"
        assert service.post("/migration/finish", 409)["error"]["code"] == "conflict"
        service.post("/migration/cut-over")
        assert service.client.delete("/v1/galleries/g/migration").status_code == 409
        assert service.client.get("/v1/galleries/none/migration").status_code == 404


def test_the_bundles_that_run_are_told(opened: Opened, contracts: tuple[str, str], other_bundle: str) -> None:
    with opened() as service:
        service.post("/migration", 201, json={"bundle": other_bundle})
        told = service.client.get("/v1/info").json()["bundles"]
        assert [(bundle["name"], bundle["embedding_contract"]) for bundle in told] == list(
            zip(("open", other_bundle), contracts, strict=True)
        )
        figures = service.client.get("/metrics").text
        assert f'bundle="{other_bundle}"' in figures
        assert 'likeness_migrations{phase="embedding"} 1.0' in figures
