"""Who is enrolled, durably: the truth that indexes are built from and checked against."""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from service.files import make_private_folder
from service.gallery import (
    store_bulk,
    store_crops,
    store_faces,
    store_galleries,
    store_keys,
    store_persons,
    store_retention,
)
from service.gallery.backend import Backend
from service.gallery.database import open_database, storage_errors
from service.gallery.records import FaceRecord, GalleryRecord, Metadata, NewFace, Page, PersonRecord, Templates
from service.gallery.space_store import SpaceStore
from service.gallery.store_bulk import BulkPerson, Imported
from service.gallery.store_faces import AddedFaces, Answer, Once
from service.gallery.store_persons import Removed
from service.gallery.store_session import Sessions
from service.gallery.store_values import MAX_PAGE, batches
from service.reserve import RESERVE_BYTES
from service.security.key_file import KeyFile
from service.security.master_key import FilePlace

__all__ = ["AddedFaces", "Once", "Store"]

log = logging.getLogger(__name__)


class Store:
    """Galleries, persons and faces in one database. Thread-safe: one writer at a time, readers beside it.

    A method that changes something returns when the change is durable; one that raises has changed nothing. Changes
    of persons and faces bump the revision of their gallery in the same transaction.

    Templates are sealed, each with the key of its person, and the keys are in a file of their own: deleting a person
    destroys its key, so that a backup of the database can bring nobody back. After a deletion no byte of the templates,
    sealed as they are, is left in the database file or its WAL either (see ``erase``).

    Besides the errors that each method names, any can raise InvalidRequest (an id, cursor, limit or field that
    cannot be), InsufficientStorage (when adding or changing; deletions have a reserve) and Unavailable.
    """

    def __init__(self, backend: Backend) -> None:
        """Work on ``backend`` and finish deletions that were cut off. See ``Store.open``, ``service.postgres.store``.

        Raises:
            KeyFileError: keys are missing that were never destroyed.
        """
        self.backend, self.keys = backend, backend.keys
        self._sessions = backend.sessions
        self._check = backend.check
        # Of persons whose rows are gone, until they are destroyed: only a disk that fails leaves any here.
        self._doomed: set[int] = set()
        self._settle(backend)
        self.spaces = SpaceStore(self._sessions, self.keys)
        self.spaces.finish_discarding()
        self.finish_deletions()
        self.erase()

    @classmethod
    def open(cls, path: Path, reserve_bytes: int = RESERVE_BYTES, keys: KeyFile | None = None) -> "Store":
        """The store in the database file ``path``, made if missing. Raises like ``open_database``.

        Args:
            keys: of the persons; closed with the store. None: in the folder ``keys`` beside the database, with the
                master key in a file there.
        """
        if keys is None:
            folder = path.parent / "keys"
            with storage_errors(folder):
                make_private_folder(path.parent)
                keys = KeyFile.open(folder, FilePlace(folder / "master.key"))
        try:
            engine = open_database(path, keys)
            try:
                sessions = Sessions(engine, reserve_bytes)
                with sessions.read() as connection:
                    store_keys.check_belongs(connection, keys)
                keys.bind()
                return cls(Backend(sessions, keys, partial(store_keys.differences, keys=keys)))
            except BaseException:
                engine.dispose()
                raise
        except BaseException:
            keys.close()
            raise

    @property
    def engine(self) -> str:
        """What keeps it: "sqlite" or "postgresql"."""
        return self._sessions.engine.dialect.name

    @property
    def remote(self) -> bool:
        """Whether the database is a process of its own, which may be away; then ``check`` tells."""
        return self._check is not None

    def check(self) -> None:
        """Raises Unavailable: the database does not answer, or not to these keys."""
        if self._check is not None:
            self._check()

    def close(self) -> None:
        """Close the connections and unlock the folder. Nothing is lost without it."""
        self._sessions.close()
        self.keys.close()

    def erase(self) -> bool:
        """Empty the WAL, so that nothing deleted is left in it; every deletion does it. See ``Sessions.erase``."""
        return self._sessions.erase()

    def put_gallery(
        self,
        id: str,
        name: str | None,
        description: str | None,
        embedding_contract: str,
        dimension: int,
        retention_days: int | None = None,
    ) -> tuple[GalleryRecord, bool]:
        """Make a gallery, or replace what is shown of the one that is there; whether it was made.

        Args:
            retention_days: how long its persons are kept; None: until they are deleted.

        Raises:
            ModelMismatch: it is there, for another contract or dimension.
        """
        with self._sessions.write() as connection:
            shown = {"name": name, "description": description, "retention_days": retention_days}
            gallery, made = store_galleries.put(connection, id, shown, embedding_contract, dimension)
            if made and self.backend.projection is not None:
                self.backend.projection.made(connection, gallery)
            return gallery, made

    def gallery(self, id: str) -> GalleryRecord:
        """Raises GalleryNotFound."""
        with self._sessions.read() as connection:
            return store_galleries.get(connection, id)

    def galleries(self, cursor: str | None = None, limit: int = 100) -> Page[GalleryRecord]:
        """Up to ``limit`` (1 to 1000) galleries in the order of their ids."""
        with self._sessions.read() as connection:
            return store_galleries.page(connection, cursor, limit)

    def every_gallery(self) -> Iterator[GalleryRecord]:
        """All of them in the order of their ids; each page of them is of one moment."""
        cursor = None
        while True:
            page = self.galleries(cursor, MAX_PAGE)
            yield from page.items
            if page.cursor is None:
                return
            cursor = page.cursor

    def galleries_among(self, ids: Collection[str], cursor: str | None = None, limit: int = 100) -> Page[GalleryRecord]:
        """As ``galleries``, of those with these ids."""
        with self._sessions.read() as connection:
            return store_galleries.page(connection, cursor, limit, ids)

    def delete_gallery(self, id: str) -> int:
        """Delete a gallery with all that is in it; its key. Raises GalleryNotFound.

        It is gone for all callers in one durable step. Its rows follow in bounded steps, between which others write.
        Should they be cut off, a store that is opened finishes them, or ``finish_deletions``.
        """
        key = self._sessions.delete(lambda connection: self._condemn(connection, id))
        self._delete_condemned(key)
        self.erase()
        return key

    def finish_deletions(self) -> None:
        """Clear up behind galleries whose deletion was cut off; also while somebody else does so."""
        with self._sessions.read() as connection:
            cut_off = store_galleries.condemned(connection)
        for key in cut_off:
            self._delete_condemned(key)

    def put_person(
        self,
        gallery: str,
        id: str,
        name: str | None = None,
        metadata: Metadata | None = None,
        expires_at: datetime | None = None,
    ) -> tuple[PersonRecord, bool]:
        """Make a person, or replace all three fields of the one that is there; whether it was made.

        Raises GalleryNotFound.
        """
        with self._sessions.write() as connection:
            return store_persons.put(
                connection, self.keys.within(connection), (gallery, id), name, metadata or {}, expires_at
            )

    def patch_person(self, gallery: str, id: str, changes: Mapping[str, Any]) -> PersonRecord:
        """Replace those of ``name``, ``metadata`` (as a whole) and ``expires_at`` that ``changes`` has.

        Raises GalleryNotFound, PersonNotFound.
        """
        with self._sessions.write() as connection:
            return store_persons.patch(connection, gallery, id, changes)

    def person(self, gallery: str, id: str) -> PersonRecord:
        """Raises GalleryNotFound, PersonNotFound."""
        with self._sessions.read() as connection:
            return store_persons.get(connection, gallery, id)

    def persons(
        self, gallery: str, cursor: str | None = None, limit: int = 100, filter: Metadata | None = None
    ) -> Page[PersonRecord]:
        """Up to ``limit`` (1 to 1000) persons whose metadata has all of ``filter``, in the order of their ids.

        Raises GalleryNotFound.
        """
        with self._sessions.read() as connection:
            return store_persons.page(connection, gallery, cursor, limit, filter)

    def delete_person(self, gallery: str, id: str) -> list[int]:
        """Delete a person with all faces, and destroy the person's key; the keys of the faces.

        Raises:
            GalleryNotFound, PersonNotFound
            Unavailable: the person is gone, but the key could not be overwritten: the disk fails. It will be when the
                store opens or deletes again.
        """
        gone = self._sessions.delete(
            lambda connection: self._told(
                connection, gallery, store_persons.remove(connection, self.keys.within(connection), gallery, id)
            )
        )
        self._destroy([gone.key])
        self.erase()
        return gone.faces

    def due(self, at: datetime, limit: int) -> list[tuple[str, str]]:
        """Gallery and person of up to ``limit`` persons whose time is up."""
        with self._sessions.read() as connection:
            return store_retention.due(connection, at, limit)

    def delete_if_due(self, gallery: str, id: str, at: datetime) -> list[int] | None:
        """Like ``delete_person``, but None, and nothing done, for a person whose time is not up at ``at``."""
        gone = self._sessions.delete(lambda connection: self._remove_if_due(connection, gallery, id, at))
        if gone is None:
            return None
        self._destroy([gone.key])
        self.erase()
        return gone.faces

    def person_keys(self, gallery: str, filter: Metadata | None = None) -> NDArray[np.int64]:
        """The keys of the persons whose metadata has all of ``filter``, ascending. Raises GalleryNotFound."""
        with self._sessions.read() as connection:
            return store_persons.keys(connection, gallery, filter)

    def owners(self, faces: Iterable[int]) -> dict[int, tuple[PersonRecord, FaceRecord]]:
        """Of faces of any gallery, by their keys, the person and the face; those that are gone are left out."""
        with self._sessions.read() as connection:
            return store_faces.owners(connection, faces)

    def first_faces(self, persons: Iterable[int]) -> dict[int, tuple[PersonRecord, FaceRecord]]:
        """Of persons of any gallery, by their keys, the person and the oldest face; who has none is left out."""
        with self._sessions.read() as connection:
            return store_faces.first_faces(connection, persons)

    def face_keys(self, gallery_key: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The keys of all faces of a gallery, ascending, and of the person of each."""
        with self._sessions.read() as connection:
            return store_faces.keys(connection, gallery_key)

    def add_faces(
        self,
        gallery: str,
        person: str,
        faces: Sequence[NewFace],
        once: Once | None = None,
        answer: Answer | None = None,
    ) -> AddedFaces:
        """Add all of ``faces`` to a person, or none.

        Args:
            once: asked for again with the same key and digest, nothing is added and the first answer comes back.
            answer: makes of the new faces what is to be answered (JSON-serialisable), remembered with ``once``. It
                runs inside the transaction: it must be quick and must not call the store.

        Raises:
            GalleryNotFound, PersonNotFound
            Conflict: a face id is taken or given twice, or the key was used for another request.
            ModelMismatch: an embedding is not of the gallery's dimension.
        """
        with self._sessions.write() as connection:
            place = (gallery, person)
            added = store_faces.add(connection, self.keys.within(connection), place, faces, once, answer)
            if not added.repeated:
                self._added(connection, gallery, lambda pinned: added.templates(faces, pinned))
            return added

    def answered(self, gallery: str, person: str, once: Once) -> Mapping[str, Any] | None:
        """The answer that is remembered under ``once``, so that a repeated request need not be worked out again.

        Raises GalleryNotFound, PersonNotFound, Conflict (the key was used for another request).
        """
        with self._sessions.read() as connection:
            return store_faces.answered(connection, gallery, person, once)

    def faces(self, gallery: str, person: str, cursor: str | None = None, limit: int = 100) -> Page[FaceRecord]:
        """Up to ``limit`` (1 to 1000) faces of a person in the order of their ids.

        Raises GalleryNotFound, PersonNotFound.
        """
        with self._sessions.read() as connection:
            return store_faces.page(connection, gallery, person, cursor, limit)

    def embeddings(self, gallery: str, person: str) -> NDArray[np.float32]:
        """The templates of a person, float32 (n, d), in the order of the face keys.

        Raises GalleryNotFound, PersonNotFound.
        """
        with self._sessions.read() as connection:
            return store_faces.embeddings(connection, self.keys.within(connection), gallery, person)

    def crops(self, gallery: str, person: str) -> dict[str, NDArray[np.uint8]]:
        """The crops that were kept of a person, uint8 (112, 112, 3) RGB by face id.

        Raises GalleryNotFound, PersonNotFound.
        """
        with self._sessions.read() as connection:
            return store_crops.of_person(connection, self.keys.within(connection), gallery, person)

    def delete_face(self, gallery: str, person: str, face_id: str) -> int:
        """Delete a face of a person; its key. Raises GalleryNotFound, PersonNotFound, FaceIdNotFound."""
        gone = self._sessions.delete(
            lambda connection: self._told(connection, gallery, store_faces.remove(connection, gallery, person, face_id))
        )
        self.erase()
        return gone.faces[0]

    def export_page(
        self, gallery: str, cursor: str | None, limit: int, most_faces: int
    ) -> tuple[GalleryRecord, Page[BulkPerson]]:
        """The gallery, and up to ``limit`` (1 to 1000) of its persons with their faces, in the order of their ids.

        A page ends before the person with whom it would have more than ``most_faces`` faces; the first person of a
        page comes whole. All of a page is of one moment. Raises GalleryNotFound.
        """
        with self._sessions.read() as connection:
            return store_bulk.export_page(connection, self.keys.within(connection), gallery, cursor, limit, most_faces)

    def import_persons(self, gallery: str, persons: Sequence[BulkPerson], contract: str | None = None) -> Imported:
        """Make or change all of ``persons`` and add those of their faces that are not there, or do nothing.

        Args:
            contract: of the templates; None for the gallery's pinned one. A face that is there, but in the other
                space of a gallery with two, gets its template in this one.

        Raises:
            GalleryNotFound
            Conflict: an id is given twice, or a face id is taken by another template or another person.
            ModelMismatch: an embedding is not of the gallery's dimension, or of none of its contracts.
        """
        with self._sessions.write() as connection:
            imported = store_bulk.import_persons(connection, self.keys.within(connection), gallery, persons, contract)
            self._added(connection, gallery, lambda _: imported.added)
            return imported

    def templates(self, gallery_key: int, after: int = 0, block: int = 8192) -> Iterator[Templates]:
        """All templates of a gallery with face keys above ``after``, ascending, in blocks of at most ``block`` rows.

        Each block is a transaction of its own, so that no writer waits: faces added meanwhile come at the end, and a
        face deleted meanwhile may have come before. Much larger blocks are slower, their memory being new each time.

        Raises GalleryNotFound, also when it is deleted meanwhile.
        """
        more: int | None = after
        while more is not None:
            with self._sessions.read() as connection:
                found, more = store_faces.templates_after(
                    connection, self.keys.within(connection), gallery_key, more, block
                )
            if found.faces.size:
                yield found

    def _added(self, connection: Connection, gallery: str, under: Callable[[str], Templates]) -> None:
        """``under``: the new templates under the contract that the gallery is pinned to."""
        if self.backend.projection is not None:
            owner = store_galleries.get(connection, gallery)
            self.backend.projection.added(connection, owner, under(owner.embedding_contract))

    def _told(self, connection: Connection, gallery: str, gone: Removed) -> Removed:
        """``gone``, of which the projection knows."""
        projection = self.backend.projection
        if projection is not None and gone.faces:
            projection.removed(connection, store_galleries.get(connection, gallery), gone.key, gone.faces)
        return gone

    def _condemn(self, connection: Connection, gallery: str) -> int:
        key = store_galleries.condemn(connection, gallery)
        if self.backend.projection is not None:
            self.backend.projection.condemned(connection, key)
        return key

    def _remove_if_due(self, connection: Connection, gallery: str, person: str, at: datetime) -> Removed | None:
        gone = store_retention.remove_if_due(connection, self.keys.within(connection), gallery, person, at)
        return None if gone is None else self._told(connection, gallery, gone)

    def _remove_again(self, persons: Sequence[int], connection: Connection) -> None:
        for gallery, gone in store_keys.remove(connection, self.keys.within(connection), persons):
            if self.backend.projection is not None and gone.faces:
                owner = store_galleries.with_key(connection, gallery)
                self.backend.projection.removed(connection, owner, gone.key, gone.faces)

    def _delete_condemned(self, key: int) -> None:
        more = True
        while more:
            persons, more = self._sessions.delete(
                lambda connection: store_galleries.delete_some(connection, self.keys.within(connection), key)
            )
            self._destroy(persons)

    def _destroy(self, persons: Sequence[int]) -> None:
        self._doomed.update(persons)
        with storage_errors(self.keys.where):
            doomed = sorted(self._doomed)
            self.keys.destroy(doomed)
            self._doomed.difference_update(doomed)

    def _settle(self, backend: Backend) -> None:
        """See ``store_keys``."""
        with self._sessions.read() as connection:
            found = backend.differences(connection)
        if found.erased:
            log.warning(
                "%d persons of this database were erased after it was backed up; erasing them again.", len(found.erased)
            )
        for batch in batches(found.erased):
            self._sessions.delete(partial(self._remove_again, batch))
        self._destroy(found.orphans)
