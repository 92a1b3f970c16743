"""Calls about galleries and the persons in them."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from json import dumps
from types import EllipsisType
from typing import Any

import httpx

from likeness.bodies import given, json_body
from likeness.gallery_results import BulkPerson, Erasure, Gallery, Imported, Metadata, Person
from likeness.operations import Call, Page, as_json, as_page, path_of
from likeness.parsing import parse, time_to_json, to_json
from likeness.report_results import GalleryReport

PAGE = 100


def put_gallery(
    gallery: str, *, name: str | None = None, description: str | None = None, retention_days: int | None = None
) -> Call[Gallery]:
    """Make a gallery, or give one that is there these fields. Its persons are erased ``retention_days`` after they
    were made."""
    fields = given(name=name, description=description, retention_days=retention_days)
    return Call("PUT", path_of("galleries", gallery), as_json(Gallery), body=json_body(fields))


def list_galleries(*, limit: int = PAGE) -> Call[Page[Gallery]]:
    """The galleries that the access key is for. ``limit`` is how many a page has."""
    return Call("GET", path_of("galleries"), as_page("galleries", Gallery), {"limit": limit})


def get_gallery(gallery: str) -> Call[Gallery]:
    """A gallery, with the numbers of its persons and faces."""
    return Call("GET", path_of("galleries", gallery), as_json(Gallery))


def delete_gallery(gallery: str) -> Call[Erasure]:
    """Remove a gallery with all persons, faces and templates."""
    return erasing(path_of("galleries", gallery))


def report(gallery: str) -> Call[GalleryReport]:
    """Probable duplicates, mislabelled and poor photos, and error rates to expect. Minutes for large galleries."""
    return Call("GET", path_of("galleries", gallery, "report"), as_json(GalleryReport))


def put_person(
    gallery: str,
    person: str,
    *,
    name: str | None = None,
    metadata: Metadata | None = None,
    expires_at: datetime | None = None,
) -> Call[Person]:
    """Make a person, or replace name, metadata and expiry of one who is there."""
    fields = _person_fields(given(name=name, metadata=metadata, expires_at=expires_at))
    return Call("PUT", path_of("galleries", gallery, "persons", person), as_json(Person), body=json_body(fields))


def list_persons(
    gallery: str, *, filter: Mapping[str, str | bool | int | float] | None = None, limit: int = PAGE
) -> Call[Page[Person]]:
    """The persons of a gallery, in the order of their ids.

    Args:
        filter: only those whose metadata has these values.
        limit: how many a page has.
    """
    params: dict[str, str | int] = {"limit": limit} | ({} if filter is None else {"filter": dumps(dict(filter))})
    return Call("GET", path_of("galleries", gallery, "persons"), as_page("persons", Person), params)


def get_person(gallery: str, person: str) -> Call[Person]:
    """A person, with the number of enrolled faces."""
    return Call("GET", path_of("galleries", gallery, "persons", person), as_json(Person))


def patch_person(
    gallery: str,
    person: str,
    *,
    name: str | EllipsisType | None = ...,
    metadata: Metadata | EllipsisType = ...,
    expires_at: datetime | EllipsisType | None = ...,
) -> Call[Person]:
    """Change the fields that are given, the others stay; None removes one, metadata is replaced as a whole."""
    sent = {"name": name, "metadata": metadata, "expires_at": expires_at}
    fields = _person_fields({field: value for field, value in sent.items() if value is not ...})
    return Call("PATCH", path_of("galleries", gallery, "persons", person), as_json(Person), body=json_body(fields))


def delete_person(gallery: str, person: str) -> Call[Erasure]:
    """Remove a person with all faces and templates; answered once all of it is durable."""
    return erasing(path_of("galleries", gallery, "persons", person))


def export_persons(gallery: str, *, limit: int = PAGE) -> Call[Page[BulkPerson]]:
    """All persons with their templates, also of a gallery of another contract. Templates are biometric data."""
    return Call("GET", path_of("galleries", gallery, "export"), as_page("persons", BulkPerson), {"limit": limit})


def import_persons(gallery: str, persons: Iterable[BulkPerson], *, embedding_contract: str) -> Call[Imported]:
    """Persons with their templates, all or nothing; the same again changes nothing. At most 10,000 persons and faces
    a call."""
    fields = {"embedding_contract": embedding_contract, "persons": [to_json(person) for person in persons]}
    return Call("POST", path_of("galleries", gallery, "import"), as_json(Imported), body=json_body(fields))


def erasing(path: str) -> Call[Erasure]:
    """A deletion that asks for its receipt."""
    headers = {"Prefer": "return=representation"}
    return Call("DELETE", path, _erasure, headers=headers, absent=lambda _: Erasure())


def _erasure(response: httpx.Response) -> Erasure:
    return parse(Erasure, response.json()) if response.content else Erasure()


def _person_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """As JSON has them: a time is text."""
    return {name: time_to_json(value) if isinstance(value, datetime) else value for name, value in fields.items()}
