"""``likeness enrol``: a folder of photos into a gallery of a running service, one sub-folder a person.

A face's id tells the photo, see ``face_id_of``, and so makes a request repeatable: sent twice, the second is refused
as a conflict with itself, and the photo is there once. A run asks for the faces of each person, one short request, and
sends only photos that are not among them: a renamed photo is not enrolled again, a photo replaced under its old name
is. An ``Idempotency-Key`` would add nothing, and one that does not change between runs would do harm: a face that was
deleted could not be enrolled again, because the service would repeat its first answer.
"""

import argparse
import csv
import json
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from service.api.errors import status_and_code
from service.cli.client import Client, client_of, path_of, prepare_gallery
from service.cli.photo_folder import ENDINGS, Person, digest_of, face_id_of, persons_of
from service.cli.photos import read_photo
from service.errors import Conflict, ImageTooLarge, InvalidImage, InvalidRequest, LikenessError, PersonNotFound
from service.progress import bar

MOST_WORKERS = 64


@dataclass(frozen=True)
class Photo:
    """A photo to send; ``content`` is its bytes."""

    person: str
    face: str
    path: Path
    content: bytes


@dataclass(frozen=True)
class Outcome:
    """What became of a photo; code and message where it was rejected."""

    what: Literal["enrolled", "already_there", "rejected"]
    person: str
    path: Path
    code: str = ""
    message: str = ""


def add_command(commands: Any, remote: argparse.ArgumentParser) -> None:
    """Register the sub-command."""
    command = commands.add_parser(
        "enrol",
        parents=[remote],
        help="enrol a folder of photos, one sub-folder a person",
        description="Started again, it goes on where it was interrupted; photos that were rejected are tried again.",
    )
    command.add_argument("gallery", metavar="GALLERY", help="made if it is not there")
    command.add_argument("folder", type=Path, metavar="DIR", help=f"DIR/PERSON/PHOTO ({' '.join(ENDINGS)})")
    command.add_argument("--faces", choices=["single", "largest"], default="single", help="default: single")
    command.add_argument(
        "--quality", choices=["enrol", "probe", "off"], default="enrol", help="limits on photos (default: enrol)"
    )
    command.add_argument("--workers", type=int, default=4, help="photos sent at once (default: 4)")
    command.add_argument(
        "--rejected", type=Path, metavar="FILE", help="CSV of photos that were rejected (default: GALLERY-rejected.csv)"
    )
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Enrol, and say what became of the photos. 3 if not one of them is in the gallery."""
    if not 1 <= args.workers <= MOST_WORKERS:
        raise InvalidRequest(f"--workers must be 1 to {MOST_WORKERS}, not {args.workers}.")
    persons = persons_of(args.folder)
    rejected = args.rejected or Path(f"{args.gallery}-rejected.csv")
    started = time.monotonic()
    with client_of(args, args.workers + 1) as client:
        info = client.call("GET", "/info")
        prepare_gallery(client, args.gallery, info["embedding_contract"])
        work = _Enrolment(client, args.gallery, (args.faces, args.quality), info["limits"]["max_body_bytes"])
        with closing(work.outcomes(persons, args.workers)) as outcomes:
            counts = _tally(outcomes, sum(len(person.photos) for person in persons), rejected)
    seconds = time.monotonic() - started
    told = {
        "gallery": args.gallery,
        "persons": len(persons),
        **{what: counts[what] for what in ("enrolled", "already_there", "rejected")},
        "seconds": round(seconds, 3),
        "photos_per_second": round(counts["enrolled"] / seconds, 2),
        "rejected_file": str(rejected),
    }
    if args.json:
        print(json.dumps(told))
    else:
        print(
            f"{args.gallery}: {len(persons)} persons, {counts['enrolled']} photos enrolled, "
            f"{counts['already_there']} already there, {counts['rejected']} rejected (see {rejected}); "
            f"{seconds:.1f} s, {told['photos_per_second']} photos/s"
        )
    return 0 if counts["enrolled"] or counts["already_there"] else 3


def _tally(outcomes: Iterable[Outcome], total: int, rejected: Path) -> Counter[str]:
    """How many of each outcome; those that were rejected are written down as they come."""
    counts: Counter[str] = Counter()
    try:
        # Names of files are bytes; those that are no text are written as they are.
        table = rejected.open("w", encoding="utf-8", errors="surrogateescape", newline="")
    except OSError as error:
        raise InvalidRequest(f"{rejected} cannot be written: {error.strerror}") from error
    with table, bar(total, "enrol", "photo") as progress:
        rows = csv.writer(table)
        rows.writerow(["person_id", "file", "code", "message"])
        for outcome in outcomes:
            counts[outcome.what] += 1
            if outcome.what == "rejected":
                rows.writerow([outcome.person, outcome.path, outcome.code, outcome.message])
                table.flush()
            progress.update(1)
    return counts


class _Enrolment:
    """One run."""

    def __init__(self, client: Client, gallery: str, policies: tuple[str, str], most_bytes: int) -> None:
        self._client, self._gallery, self._most_bytes = client, gallery, most_bytes
        self._faces, self._quality = policies

    def outcomes(self, persons: list[Person], workers: int) -> Generator[Outcome, None, None]:
        """What became of each photo, as it is known. The first error that is not a photo's own ends the run."""
        with ThreadPoolExecutor(workers) as pool:
            pending: set[Future[Outcome]] = set()
            try:
                for photo in self._photos(persons):
                    if isinstance(photo, Outcome):
                        yield photo
                        continue
                    pending.add(pool.submit(self._send, photo))
                    # Enough that no worker waits, and few enough to hold in memory.
                    if len(pending) >= 2 * workers:
                        done, pending = wait(pending, return_when=FIRST_COMPLETED)
                        yield from (future.result() for future in done)
                yield from (future.result() for future in pending)
            except BaseException:
                self._client.close()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _photos(self, persons: list[Person]) -> Iterator[Photo | Outcome]:
        """Photos that have to be sent, and the outcome of those that need not."""
        for person in persons:
            known = self._known(person)
            for path in person.photos:
                try:
                    content = self._read(path)
                except InvalidImage as error:
                    yield Outcome("rejected", person.id, path, status_and_code(error)[1], error.message)
                    continue
                face = face_id_of(person.id, path, content)
                if digest_of(face) in known:
                    yield Outcome("already_there", person.id, path)
                else:
                    known.add(digest_of(face))
                    yield Photo(person.id, face, path, content)

    def _known(self, person: Person) -> set[str]:
        """The digests of the person's faces; a person who is not there is made."""
        path = path_of("galleries", self._gallery, "persons", person.id)
        try:
            pages = self._client.pages(f"{path}/faces", 1000)
            return {digest_of(face["face_id"]) for page in pages for face in page["faces"]}
        except PersonNotFound:
            self._client.call("PUT", path, json={"name": person.name})
            return set()

    def _read(self, path: Path) -> bytes:
        content = read_photo(path)
        # The rest of the body is a few hundred bytes.
        if len(content) + 4096 > self._most_bytes:
            raise ImageTooLarge(f"{path} has {len(content):,} bytes; the service takes {self._most_bytes:,} a request.")
        return content

    def _send(self, photo: Photo) -> Outcome:
        try:
            self._client.call(
                "POST",
                path_of("galleries", self._gallery, "persons", photo.person, "faces"),
                repeatable=True,
                files=[("images", ("photo", photo.content))],
                data={"faces": self._faces, "quality": self._quality, "face_ids": photo.face},
            )
        except Conflict as error:
            if error.details.get("face") != photo.face:
                raise
            # Sent before, by a try whose answer was lost or by another run.
            return Outcome("already_there", photo.person, photo.path)
        except LikenessError as error:
            if not error.details.get("rejected"):
                raise
            told = error.details["rejected"][0]
            message = told["message"].replace("images[0]", photo.path.name)
            return Outcome("rejected", photo.person, photo.path, told["code"], message)
        return Outcome("enrolled", photo.person, photo.path)
