"""Every call of both clients against the real service, with access keys and photos of real faces."""

import io
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from likeness import (
    BulkFace,
    BulkPerson,
    Client,
    Conflict,
    ConnectionFailed,
    FaceIdNotFound,
    FaceNotFound,
    GalleryNotFound,
    InvalidImage,
    InvalidRequest,
    ModelMismatch,
    MultipleFaces,
    NotTheService,
    PersonNotFound,
    Retries,
    Unauthorized,
)
from tests.conftest import Running
from tests.likeness.conftest import Caller, opened
from tests.likeness.scripted import Scripted, answer

pytestmark = pytest.mark.anyio


async def test_facts(caller: Caller) -> None:
    assert (await caller.live()).status == "live"
    assert (await caller.ready()).status == "ready"
    info = await caller.info()
    assert (info.bundle.name, info.bundle.commercial_use) == ("open", True)
    assert info.calibration.smallest_fmr < 1e-3
    assert info.search.mode == "exact"
    assert any(point.fmr == pytest.approx(1e-4, rel=0.1) for point in info.operating_points)
    assert "likeness_requests_total" in await caller.metrics()


async def test_photos_are_bytes_paths_and_files(
    caller: Caller, photo_path: Path, portrait: bytes, portrait_again: bytes, group_photo: bytes
) -> None:
    for photo in (portrait, bytearray(portrait), memoryview(portrait), str(photo_path), photo_path):
        answer = await caller.verify(photo, io.BytesIO(portrait_again))
        assert answer.match
        assert answer.similarity >= answer.operating_point.threshold
        assert answer.operating_point.fmr == pytest.approx(1e-4, rel=0.1)
    assert answer.faces_found == (1, 1)
    assert len(answer.face_a.landmarks) == 5
    assert answer.face_a.quality.inter_eye_distance > 20
    strict = await caller.verify(portrait, portrait_again, threshold=0.9999, faces="largest", quality="probe")
    assert not strict.match
    assert strict.operating_point.threshold == 0.9999
    found = await caller.detect(group_photo)
    assert (found.image.width, found.image.height, len(found.faces)) == (1280, 886, 6)
    assert len((await caller.detect(group_photo, max_faces=2)).faces) == 2
    with pytest.raises(FileNotFoundError):
        await caller.detect("no-such-photo.jpg")
    with pytest.raises(TypeError, match="not int"):
        await caller.detect(7)
    with photo_path.open(encoding="latin-1") as text, pytest.raises(TypeError, match="reading bytes"):
        await caller.detect(text)


async def test_embeddings_come_whole_and_compare(caller: Caller, portrait: bytes, portrait_again: bytes) -> None:
    a, b = await caller.embed(portrait), await caller.embed(portrait_again, faces="largest")
    assert sum(x * x for x in a.faces[0].embedding) == pytest.approx(1, abs=1e-5)
    assert a.faces[0].feature_norm > 1
    compared = await caller.compare(
        a.faces[0].embedding, b.faces[0].embedding, embedding_contract=a.embedding_contract, fmr=1e-3
    )
    assert compared.match
    verified = await caller.verify(portrait, portrait_again)
    assert compared.similarity == pytest.approx(verified.similarity, abs=1e-5)
    with pytest.raises(ModelMismatch):
        await caller.compare(a.faces[0].embedding, b.faces[0].embedding, embedding_contract="another")


async def test_a_gallery_from_beginning_to_end(
    caller: Caller, gallery: str, portrait: bytes, portrait_again: bytes, group_portraits: list[bytes]
) -> None:
    made = await caller.put_gallery(gallery, name="Staff", description="all of them", retention_days=30)
    assert (made.id, made.name, made.retention_days, made.persons) == (gallery, "Staff", 30, 0)
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    ann = await caller.put_person(gallery, "ann", name="Ann", metadata={"floor": 3, "lead": True}, expires_at=tomorrow)
    assert (ann.metadata, ann.expires_at) == ({"floor": 3, "lead": True}, tomorrow)
    changed = await caller.patch_person(gallery, "ann", name=None)
    assert (changed.name, changed.metadata, changed.expires_at) == (None, ann.metadata, ann.expires_at)
    changed = await caller.patch_person(gallery, "ann", metadata={"floor": 4}, expires_at=None)
    assert (changed.metadata, changed.expires_at) == ({"floor": 4}, None)
    assert await caller.person(gallery, "ann") == changed

    enrolment = await caller.enrol(gallery, "ann", [portrait, b"no photo"], face_ids=["first", "second"])
    assert [(face.face_id, face.image_index) for face in enrolment.enrolled] == [("first", 0)]
    assert [(photo.image_index, photo.code) for photo in enrolment.rejected] == [(1, "unsupported_media_type")]
    embedded = await caller.embed(group_portraits[0], faces="largest")
    await caller.put_person(gallery, "bo")
    vectors = {"embeddings": [embedded.faces[0].embedding], "embedding_contract": embedded.embedding_contract}
    by_template = await caller.enrol_embeddings(gallery, "bo", face_ids=["t1"], **vectors)
    assert [(face.face_id, face.image_index) for face in by_template.enrolled] == [("t1", None)]

    found = await caller.search(gallery, portrait_again, fpir=0.01, top_k=1)
    probe = found.probes[0]
    assert probe.identified is not None
    assert (probe.identified.person_id, probe.identified.face_id, len(probe.candidates)) == ("ann", "first", 1)
    assert (found.gallery_size.persons, found.gallery_size.faces) == (2, 2)
    stranger = await caller.search(gallery, group_portraits[1], faces="largest", candidates="above_threshold")
    assert (stranger.probes[0].identified, stranger.probes[0].candidates) == (None, ())
    elsewhere = await caller.search(gallery, portrait_again, filter={"floor": 5})
    assert elsewhere.probes[0].candidates == ()
    vector = (await caller.embed(portrait_again)).faces[0].embedding
    same = await caller.search_embedding(
        gallery, vector, embedding_contract=embedded.embedding_contract, filter={"floor": 4}
    )
    again = same.probes[0].identified
    assert again is not None
    assert (again.person_id, again.similarity) == ("ann", pytest.approx(probe.identified.similarity, abs=1e-5))
    assert (await caller.verify_person(gallery, "ann", portrait_again)).match
    assert not (await caller.verify_person(gallery, "bo", portrait_again, fmr=1e-3)).match

    faces = [face async for face in caller.faces(gallery, "ann")]
    assert [face.face_id for face in faces] == ["first"]
    assert faces[0].box == enrolment.enrolled[0].box
    assert faces[0].quality is not None
    report = await caller.report(gallery)
    assert (report.persons, report.duplicates) == (2, ())

    erasure = await caller.delete_face(gallery, "ann", "first")
    assert erasure.receipt
    assert abs(erasure.at - datetime.now(UTC)) < timedelta(minutes=1)
    with pytest.raises(FaceIdNotFound):
        await caller.delete_face(gallery, "ann", "first")
    assert (await caller.delete_person(gallery, "ann")).receipt != erasure.receipt
    with pytest.raises(PersonNotFound):
        await caller.person(gallery, "ann")
    assert (await caller.gallery(gallery)).persons == 1
    await caller.delete_gallery(gallery)
    with pytest.raises(GalleryNotFound) as gone:
        await caller.gallery(gallery)
    assert (gone.value.status, gone.value.code, gone.value.details) == (404, "gallery_not_found", {"gallery": gallery})
    assert gone.value.request_id
    assert gone.value.request_id in str(gone.value)


async def test_lists_are_iterated_over_all_pages(caller: Caller, gallery: str) -> None:
    info = await caller.info()
    await caller.put_gallery(gallery)
    vectors = [[1.0 if i == n else 0.0 for i in range(info.embedding_dimension)] for n in range(5)]
    people = [
        BulkPerson(f"p{n}", metadata={"even": n % 2 == 0}, faces=(BulkFace(f"f{n}", tuple(vectors[n])),))
        for n in range(5)
    ]
    counts = await caller.import_persons(gallery, people, embedding_contract=info.embedding_contract)
    assert (counts.persons.created, counts.faces.created) == (5, 5)
    assert [person.id async for person in caller.persons(gallery, limit=2)] == [f"p{n}" for n in range(5)]
    assert [person.id async for person in caller.persons(gallery, filter={"even": True})] == ["p0", "p2", "p4"]
    assert gallery in [one.id async for one in caller.galleries(limit=1)]
    exported = [person async for person in caller.export(gallery, limit=2)]
    assert [face.embedding for person in exported for face in person.faces] == [tuple(vector) for vector in vectors]
    # What came out goes in again, and changes nothing.
    again = await caller.import_persons(gallery, exported, embedding_contract=info.embedding_contract)
    assert (again.persons.created, again.persons.updated, again.faces.present) == (0, 0, 5)
    await caller.put_person(gallery, "..")
    assert (await caller.person(gallery, "..")).id == ".."


async def test_errors_have_the_class_of_their_code(
    caller: Caller, gallery: str, group_photo: bytes, scenery: bytes
) -> None:
    with pytest.raises(MultipleFaces) as several:
        await caller.embed(group_photo)
    assert len(several.value.details["boxes"]) == 6
    with pytest.raises(FaceNotFound):
        await caller.embed(scenery)
    with pytest.raises(InvalidImage):
        await caller.detect(group_photo[:5000])
    with pytest.raises(InvalidRequest, match="not both"):
        await caller.verify(scenery, scenery, fmr=1e-3, threshold=0.3)
    with pytest.raises(InvalidRequest, match="'a b' is not a gallery id"):
        await caller.put_gallery("a b")
    await caller.put_gallery(gallery)
    await caller.put_person(gallery, "ann")
    with pytest.raises(FaceNotFound) as unusable:
        await caller.enrol(gallery, "ann", [scenery])
    assert unusable.value.details["rejected"][0]["code"] == "face_not_found"
    with pytest.raises(TypeError, match="images is a list"):
        await caller.enrol(gallery, "ann", scenery)
    with pytest.raises(ValueError, match="has no time zone"):
        await caller.put_person(gallery, "bo", expires_at=datetime(2030, 1, 1))


async def test_a_call_made_again_with_its_key_adds_nothing(
    caller: Caller, gallery: str, portrait: bytes, portrait_again: bytes
) -> None:
    await caller.put_gallery(gallery)
    await caller.put_person(gallery, "ann")
    first = await caller.enrol(gallery, "ann", [portrait], idempotency_key="k1")
    assert await caller.enrol(gallery, "ann", [portrait], idempotency_key="k1") == first
    assert len([face async for face in caller.faces(gallery, "ann")]) == 1
    with pytest.raises(Conflict):
        await caller.enrol(gallery, "ann", [portrait_again], idempotency_key="k1")
    # Without one each call has its own.
    await caller.enrol(gallery, "ann", [portrait])
    assert len([face async for face in caller.faces(gallery, "ann")]) == 2


async def test_uploads_tell_how_far_they_are(caller: Caller, group_photo: bytes) -> None:
    told: list[tuple[int, int]] = []
    slow = caller.with_options(on_upload=lambda sent, total: told.append((sent, total)))
    assert len((await slow.detect(group_photo)).faces) == 6
    total = told[0][1]
    assert total > len(group_photo)
    assert told == [(0, total)] + [(min(n, total), total) for n in range(65536, total + 65536, 65536)]
    told.clear()
    await caller.detect(group_photo)
    assert told == []


async def test_any_other_call(caller: Caller, gallery: str) -> None:
    made = await caller.request("PUT", f"/v1/galleries/{gallery}", json={"name": "G"})
    assert made["name"] == "G"
    assert (await caller.request("GET", "/v1/galleries", params={"limit": 1}))["galleries"]
    assert await caller.request("DELETE", f"/v1/galleries/{gallery}") is None


async def test_address_and_key_come_from_the_environment(
    kind: str, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIKENESS_URL", f"{running.url}/")
    for name in ("LIKENESS_API_KEY", "LIKENESS_KEY"):
        monkeypatch.delenv("LIKENESS_API_KEY", raising=False)
        monkeypatch.setenv(name, running.key)
        async with opened(kind, "") as caller:
            assert (await caller.info()).bundle.name == "open"
        monkeypatch.delenv(name)
    async with opened(kind, "") as caller:
        with pytest.raises(Unauthorized) as refused:
            await caller.info()
    assert refused.value.status == 401


async def test_an_id_is_one_step_of_a_path(kind: str) -> None:
    async with opened(kind, "http://127.0.0.1:1") as caller:
        for id in ("ann/faces/f1", "", "/"):
            with pytest.raises(ValueError, match="is no id"):
                await caller.delete_person("staff", id)


@pytest.mark.parametrize("address", ["localhost:8000", "nonsense", "ftp://somewhere", "http://", "http://[::1"])
def test_what_is_no_address_is_told(address: str) -> None:
    with pytest.raises(ValueError, match="is no address of a service"):
        Client(address)


@pytest.mark.parametrize("address", ["http://me:secret@host", "http://host/?key=secret", "http://host/#secret"])
def test_a_secret_in_an_address_is_refused_and_not_shown(address: str) -> None:
    with pytest.raises(ValueError, match="leave them out") as refused:
        Client(address)
    assert "secret" not in str(refused.value)


def test_what_is_no_key_is_told_but_not_shown() -> None:
    with pytest.raises(ValueError, match="printable ASCII") as refused:
        Client(api_key="secret\nkey")
    assert "secret" not in str(refused.value)
    with Client(api_key="secret") as client:
        assert "secret" not in repr(client) + repr(vars(client)["_options"])


async def test_an_address_at_which_nobody_listens(kind: str) -> None:
    async with opened(kind, "http://127.0.0.1:1", retries=Retries(first_pause_s=0.01)) as caller:
        with pytest.raises(ConnectionFailed, match=r"No service answers at http://127.0.0.1:1"):
            await caller.live()


@pytest.mark.parametrize(
    ("status", "content"), [(200, b"<html>"), (302, b""), (404, b"<html>"), (409, b'{"error": "x"}'), (200, b"{}")]
)
async def test_a_stranger_is_known(kind: str, status: int, content: bytes) -> None:
    with Scripted(answer(status, content, "Location: /elsewhere")) as server:
        async with opened(kind, server.url) as caller:
            with pytest.raises(NotTheService, match=f"status {status}"):
                await caller.info()
