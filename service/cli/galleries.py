"""``likeness search``, ``export-gallery`` and ``import-gallery``: galleries of a running service."""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from likeness import ServiceError, face_calls, gallery_calls, photo_calls
from likeness.bodies import Body
from service.api.bulk_schemas import BulkPersonBody
from service.cli.client import Client, as_service_error, client_of, prepare_gallery
from service.cli.gallery_file import Header, PersonLine, Reader, Writer, created, opened
from service.cli.photos import read_photo
from service.errors import Conflict, ModelMismatch, UnusableInput
from service.gallery.store_values import checked_id
from service.progress import bar

# What one import request holds at most: short transactions, so that others can write between them.
MOST_PERSONS = MOST_FACES = 1000
MOST_BYTES = 8 * 1024 * 1024
# Of a request, what is no person.
ENVELOPE = 512


def add_commands(commands: Any, remote: argparse.ArgumentParser) -> None:
    """Register the sub-commands."""
    search = commands.add_parser("search", parents=[remote], help="who of a gallery is in a photo?")
    search.add_argument("gallery", metavar="GALLERY")
    search.add_argument("photo", type=Path, metavar="PHOTO")
    search.add_argument("--faces", choices=["single", "largest", "all"], default="single", help="default: single")
    search.add_argument("--top-k", type=int, default=5, help="candidates, 1 to 100 (default: 5)")
    point = search.add_mutually_exclusive_group()
    point.add_argument("--fpir", type=float, help="rate of searches that identify a stranger (default: 0.01)")
    point.add_argument("--fmr", type=float, help="false match rate of one comparison")
    point.add_argument("--threshold", type=float, help="raw cosine")
    search.add_argument("--extrapolate", action="store_true", help="below the calibration's rates, by a fitted tail")
    search.set_defaults(run=run_search)

    exporting = commands.add_parser("export-gallery", parents=[remote], help="write a gallery to a file")
    importing = commands.add_parser("import-gallery", parents=[remote], help="read persons from a file into a gallery")
    for command, what, run in ((exporting, "output", run_export), (importing, "input", run_import)):
        command.add_argument("gallery", metavar="GALLERY")
        command.add_argument(
            "file", type=Path, metavar="FILE", help=f"NDJSON, compressed if .gz; - for standard {what}"
        )
        command.set_defaults(run=run)


def run_search(args: argparse.Namespace) -> int:
    """0 if somebody is identified."""
    point = {name: getattr(args, name) for name in ("fpir", "fmr", "threshold") if getattr(args, name) is not None}
    gallery, photo = checked_id("gallery", args.gallery), read_photo(args.photo)
    searching = face_calls.search(
        gallery, photo, faces=args.faces, top_k=args.top_k, extrapolate=args.extrapolate, **point
    )
    with client_of(args) as client:
        answer = client.answer(searching)
    print(json.dumps(answer) if args.json else "\n".join(_in_words(answer)))
    identified = any(probe["decision"] == "identified" for probe in answer["probes"])
    return 0 if identified else 1


def run_export(args: argparse.Namespace) -> int:
    """The whole gallery into a file, which appears when it is complete."""
    gallery = checked_id("gallery", args.gallery)
    started = time.monotonic()
    with client_of(args) as client:
        record = client.answer(gallery_calls.get_gallery(gallery))
        pages = client.pages(gallery_calls.export_persons(gallery, limit=1000))
        first = next(pages)
        shown = {name: record[name] for name in ("name", "description", "embedding_contract", "created_at")}
        header = Header(gallery=record["id"], embedding_dimension=first["embedding_dimension"], **shown)
        with created(args.file) as stream, bar(record["persons"], "export", "person") as progress:
            writer = Writer(stream, header)
            for page in chain([first], pages):
                if page["embedding_contract"] != header.embedding_contract:
                    raise Conflict(f"The gallery {args.gallery!r} was replaced by another meanwhile. Export it again.")
                for person in page["persons"]:
                    writer.person(person)
                progress.update(len(page["persons"]))
            writer.finish()
    told = {"gallery": args.gallery, "persons": writer.persons, "faces": writer.faces}
    seconds = time.monotonic() - started
    words = f"{args.gallery}: {writer.persons} persons, {writer.faces} faces in {args.file}; {seconds:.1f} s"
    # Standard output may be the file.
    where = sys.stderr if str(args.file) == "-" else sys.stdout
    print(json.dumps({**told, "seconds": round(seconds, 3)}) if args.json else words, file=where)
    return 0


def run_import(args: argparse.Namespace) -> int:
    """Check the whole file (but for standard input), then send it in batches; each is there whole or not at all."""
    started = time.monotonic()
    with client_of(args) as client:
        info = client.answer(photo_calls.info())
        contract, total = info["embedding_contract"], None
        if str(args.file) != "-":
            with opened(args.file) as stream, bar(None, "check", "person") as progress:
                reader = _reader(stream, args.file, contract)
                for _ in reader.persons():
                    progress.update(1)
                total = reader.trailer.persons if reader.trailer else None
        with opened(args.file) as stream, bar(total, "import", "person") as progress:
            reader = _reader(stream, args.file, contract)
            header = reader.header
            prepare_gallery(client, args.gallery, name=header.name, description=header.description)
            counts: Counter[str] = Counter()
            for batch in batches(reader.persons(), min(MOST_BYTES, info["limits"]["max_body_bytes"]) - ENVELOPE):
                answer = _send(client, args.gallery, contract, batch, args.file)
                counts.update({f"{kind} {what}": n for kind, by in answer.items() for what, n in by.items()})
                # The header is a line too.
                progress.update(batch.last - 1 - progress.n)
    seconds = time.monotonic() - started
    told = {
        "persons": {what: counts[f"persons {what}"] for what in ("created", "updated")},
        "faces": {what: counts[f"faces {what}"] for what in ("created", "present")},
    }
    if args.json:
        print(json.dumps({"gallery": args.gallery, **told, "seconds": round(seconds, 3)}))
    else:
        print(
            f"{args.gallery}: {told['persons']['created']} persons and {told['faces']['created']} faces added, "
            f"{told['persons']['updated']} persons changed, {told['faces']['present']} faces already there; "
            f"{seconds:.1f} s"
        )
    return 0


@dataclass
class Batch:
    """Persons for one request, as JSON; the lines of the file that they come from."""

    persons: list[bytes] = field(default_factory=list)
    size: int = 0
    faces: int = 0
    first: int = 0
    last: int = 0

    def add(self, content: bytes, faces: int, line: int) -> None:
        self.persons.append(content)
        self.size += len(content) + 1
        self.faces += faces
        self.first, self.last = self.first or line, line


def batches(lines: Iterable[PersonLine], most_bytes: int) -> Iterator[Batch]:
    """Batches of bounded size. A person of whom there is too much for one comes in several."""
    batch = Batch()
    for line in lines:
        for content, faces in _pieces(line.content, line.person, most_bytes):
            full = batch.size + len(content) > most_bytes or batch.faces + faces > MOST_FACES
            # Two pieces of one person in one request would be one person given twice.
            if batch.persons and (full or len(batch.persons) == MOST_PERSONS or batch.last == line.number):
                yield batch
                batch = Batch()
            batch.add(content, faces, line.number)
    if batch.persons:
        yield batch


def _pieces(content: bytes, person: BulkPersonBody, most_bytes: int) -> Iterator[tuple[bytes, int]]:
    faces = person.faces
    if len(faces) <= 1 or (len(content) <= most_bytes and len(faces) <= MOST_FACES):
        yield content, len(faces)
        return
    half = len(faces) // 2
    for part in (faces[:half], faces[half:]):
        piece = person.model_copy(update={"faces": part})
        yield from _pieces(piece.model_dump_json().encode(), piece, most_bytes)


def _send(client: Client, gallery: str, contract: str, batch: Batch, file: Path) -> Any:
    body = b'{"embedding_contract":%s,"persons":[%s]}' % (json.dumps(contract).encode(), b",".join(batch.persons))
    # The lines as they stand in the file: nothing of them is parsed and written anew.
    importing = replace(
        gallery_calls.import_persons(gallery, [], embedding_contract=contract), body=Body(body, "application/json")
    )
    try:
        return client.answer(importing)
    except ServiceError as error:
        told = as_service_error(error)
        if not isinstance(told, UnusableInput):
            raise
        where = f"Lines {batch.first} to {batch.last} of {file}"
        raise type(told)(f"{where} were not imported: {told.message}", told.details) from error


def _reader(stream: Any, file: Path, contract: str) -> Reader:
    reader = Reader(stream, str(file))
    if reader.header.embedding_contract != contract:
        raise ModelMismatch(
            f"{file} holds templates of the contract {reader.header.embedding_contract[:16]}…, this service runs "
            f"{contract[:16]}…. Enrol the photos again, or serve the bundle that the templates were made with.",
            {"embedding_contract": reader.header.embedding_contract},
        )
    return reader


def _in_words(answer: Any) -> Iterator[str]:
    point, size = answer["operating_point"], answer["gallery_size"]
    rate = f", false positive identification rate {point['fpir']:.3g}" if point["fpir"] is not None else ""
    yield f"{size['persons']} persons searched, threshold {point['threshold']:.4f}{rate}"
    if not answer["probes"]:
        yield "no face in the photo"
    for probe in answer["probes"]:
        box = probe["box"]
        doubt = ", but two persons are close together" if probe["ambiguous"] else ""
        place = f"{box['width']:.0f} × {box['height']:.0f} at ({box['x']:.0f}, {box['y']:.0f})"
        yield f"face {place}: {probe['decision']}{doubt}"
        for found in probe["candidates"]:
            name = f" ({found['name']})" if found["name"] else ""
            yield f"  {found['rank']}. {found['similarity']:.4f}  {found['person_id']}{name}, face {found['face_id']}"
