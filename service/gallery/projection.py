"""What else is written in the transactions of the store: whatever searches outside this process go by."""

from collections.abc import Sequence
from typing import Protocol

from sqlalchemy import Connection

from service.gallery.records import GalleryRecord, Templates


class Projection(Protocol):
    """Is told of every change of faces inside the transaction that makes it, and is undone with it.

    ``gallery`` is the gallery after the change: its revision is that of the change.
    """

    def made(self, connection: Connection, gallery: GalleryRecord) -> None:
        """The gallery is new."""

    def added(self, connection: Connection, gallery: GalleryRecord, templates: Templates) -> None:
        """These faces are new."""

    def removed(self, connection: Connection, gallery: GalleryRecord, person: int, faces: Sequence[int]) -> None:
        """These faces of one person, by their keys, are gone from the tables; perhaps the person is too."""

    def condemned(self, connection: Connection, gallery_key: int) -> None:
        """The gallery with this key is gone for its callers."""
