"""A folder of photos into a gallery, one sub-folder a person, some photos at a time, each with its own outcome.

A face's id tells the photo, see ``face_id_of``, and so makes a run repeatable: the faces of each person are asked for,
one short call, and only photos that are not among them are sent. A renamed photo is not enrolled again, one replaced
under its old name is. Sent twice all the same, the second is refused as a conflict with itself. An idempotency key
that does not change between runs would do harm: a face that was deleted could not be enrolled again, because the
service would repeat its first answer.
"""

import queue
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import anyio
import anyio.to_thread

from likeness import face_calls, gallery_calls, photo_calls
from likeness.errors import Conflict, GalleryNotFound, LikenessError, PersonNotFound, UnusablePhoto
from likeness.folders import PersonFolder, digest_of, face_id_of
from likeness.gallery_results import Enrolment
from likeness.operations import AsyncSender, Call, Sender, items, items_async
from likeness.photo_calls import OneFacePolicy, QualityPolicy

MOST_WORKERS = 64
# Of a request, what is no photo: a few hundred bytes.
ENVELOPE = 4096


@dataclass(frozen=True)
class PhotoOutcome:
    """What became of a photo; code and message where it was rejected."""

    what: Literal["enrolled", "already_there", "rejected"]
    person: str
    path: Path
    code: str = ""
    message: str = ""


Told = Callable[[PhotoOutcome], object]


@dataclass(frozen=True)
class _Photo:
    """A photo to send; ``content`` is its bytes."""

    person: str
    face: str
    path: Path
    content: bytes


@dataclass(frozen=True)
class Plan:
    """What is to be done, and all of it that does not wait for the service.

    Attributes:
        workers: photos sent at once.
        most_bytes: that the service takes in a request; None: not known yet.
    """

    gallery: str
    persons: Sequence[PersonFolder]
    faces: OneFacePolicy = "single"
    quality: QualityPolicy = "enrol"
    workers: int = 4
    most_bytes: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.workers <= MOST_WORKERS:
            raise ValueError(f"workers must be 1 to {MOST_WORKERS}, not {self.workers}.")

    def look(self, person: PersonFolder, path: Path, known: set[str]) -> _Photo | PhotoOutcome:
        """The photo, if it has to be sent; ``known`` has the digests of those that were."""
        try:
            content = path.read_bytes()
        except OSError as error:
            return PhotoOutcome(
                "rejected", person.id, path, "invalid_image", f"{path} cannot be read: {error.strerror}"
            )
        if self.most_bytes is not None and len(content) + ENVELOPE > self.most_bytes:
            message = f"{path} has {len(content):,} bytes; the service takes {self.most_bytes:,} a request."
            return PhotoOutcome("rejected", person.id, path, "image_too_large", message)
        face = face_id_of(person.id, path, content)
        if digest_of(face) in known:
            return PhotoOutcome("already_there", person.id, path)
        known.add(digest_of(face))
        return _Photo(person.id, face, path, content)

    def call(self, photo: _Photo) -> Call[Enrolment]:
        return face_calls.enrol(
            self.gallery,
            photo.person,
            [photo.content],
            faces=self.faces,
            quality=self.quality,
            face_ids=[photo.face],
        )

    def outcome(self, photo: _Photo, error: LikenessError | None) -> PhotoOutcome:
        """Raises the error, where it is not this photo's own."""
        if error is None:
            return PhotoOutcome("enrolled", photo.person, photo.path)
        if isinstance(error, Conflict) and error.details.get("face") == photo.face:
            # By another run that sent it at the same time.
            return PhotoOutcome("already_there", photo.person, photo.path)
        if isinstance(error, UnusablePhoto):
            told = {"code": error.code, "message": error.message, **next(iter(error.details.get("rejected", [])), {})}
            message = told["message"].replace("images[0]", photo.path.name)
            return PhotoOutcome("rejected", photo.person, photo.path, told["code"], message)
        raise error


def run(client: Sender, plan: Plan, told: Told | None) -> tuple[PhotoOutcome, ...]:
    """Enrol in threads. ``told`` is called in the calling one; the first error that is no photo's own ends the run."""
    plan = _prepared(client, plan)
    work, taking, stopped = _work(client, plan), threading.Lock(), threading.Event()
    done: queue.SimpleQueue[PhotoOutcome | BaseException | None] = queue.SimpleQueue()

    def work_off() -> None:
        try:
            while not stopped.is_set():
                with taking:
                    item = next(work, None)
                if item is None:
                    break
                done.put(_send(client, plan, item) if isinstance(item, _Photo) else item)
            done.put(None)
        except BaseException as error:
            done.put(error)

    outcomes: list[PhotoOutcome] = []
    # Daemons: who interrupts the program does not wait for calls that are under way.
    threads = [threading.Thread(target=work_off, daemon=True) for _ in range(plan.workers)]
    try:
        for thread in threads:
            thread.start()
        running = len(threads)
        while running:
            item = done.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                running -= 1
                continue
            outcomes.append(item)
            if told is not None:
                told(item)
    finally:
        stopped.set()
    return tuple(outcomes)


async def run_async(client: AsyncSender, plan: Plan, told: Told | None) -> tuple[PhotoOutcome, ...]:
    """The same, in tasks."""
    plan = await _prepared_async(client, plan)
    work, taking = _work_async(client, plan), anyio.Lock()
    outcomes: list[PhotoOutcome] = []
    failures: list[Exception] = []

    async def work_off() -> None:
        try:
            while True:
                async with taking:
                    item = await anext(work, None)
                if item is None:
                    return
                outcomes.append(await _send_async(client, plan, item) if isinstance(item, _Photo) else item)
                if told is not None:
                    told(outcomes[-1])
        except Exception as error:
            failures.append(error)
            tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        for _ in range(plan.workers):
            tasks.start_soon(work_off)
    await work.aclose()
    if failures:
        raise failures[0]
    return tuple(outcomes)


def _work(client: Sender, plan: Plan) -> Iterator[_Photo | PhotoOutcome]:
    for person in plan.persons:
        try:
            faces = items(client, face_calls.list_faces(plan.gallery, person.id, limit=1000))
            known = {digest_of(face.face_id) for face in faces}
        except PersonNotFound:
            client.send(gallery_calls.put_person(plan.gallery, person.id, name=person.name))
            known = set()
        for path in person.photos:
            yield plan.look(person, path, known)


async def _work_async(client: AsyncSender, plan: Plan) -> AsyncGenerator[_Photo | PhotoOutcome, None]:
    for person in plan.persons:
        try:
            faces = items_async(client, face_calls.list_faces(plan.gallery, person.id, limit=1000))
            known = {digest_of(face.face_id) async for face in faces}
        except PersonNotFound:
            await client.send(gallery_calls.put_person(plan.gallery, person.id, name=person.name))
            known = set()
        for path in person.photos:
            yield await anyio.to_thread.run_sync(plan.look, person, path, known)


def _send(client: Sender, plan: Plan, photo: _Photo) -> PhotoOutcome:
    try:
        client.send(plan.call(photo))
    except LikenessError as error:
        return plan.outcome(photo, error)
    return plan.outcome(photo, None)


async def _send_async(client: AsyncSender, plan: Plan, photo: _Photo) -> PhotoOutcome:
    try:
        await client.send(plan.call(photo))
    except LikenessError as error:
        return plan.outcome(photo, error)
    return plan.outcome(photo, None)


def _prepared(client: Sender, plan: Plan) -> Plan:
    """See to it that the gallery is there."""
    # Not PUT at once: it would take away the name of one that is there.
    try:
        client.send(gallery_calls.get_gallery(plan.gallery))
    except GalleryNotFound:
        client.send(gallery_calls.put_gallery(plan.gallery))
    return replace(plan, most_bytes=client.send(photo_calls.info()).limits.max_body_bytes)


async def _prepared_async(client: AsyncSender, plan: Plan) -> Plan:
    try:
        await client.send(gallery_calls.get_gallery(plan.gallery))
    except GalleryNotFound:
        await client.send(gallery_calls.put_gallery(plan.gallery))
    return replace(plan, most_bytes=(await client.send(photo_calls.info())).limits.max_body_bytes)
