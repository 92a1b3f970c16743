"""The part of the store that knows of galleries with two spaces; ``Store.spaces``."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from service.gallery import store_faces, store_galleries, store_migrations, store_spaces
from service.gallery.backend import Transactions
from service.gallery.records import Page, Templates
from service.gallery.spaces import Migration, Pending, Phase, Progress, Space
from service.gallery.store_spaces import Decided
from service.security.person_keys import PersonKeys

Crop = tuple[int, int, NDArray[np.uint8]]


class SpaceStore:
    """As ``Store``: a method that changes something returns when it is durable, and what raises has changed nothing."""

    def __init__(self, sessions: Transactions, keys: PersonKeys) -> None:
        self._sessions, self._keys = sessions, keys

    def migration(self, gallery_key: int) -> Migration | None:
        """Of the gallery with this key; None where it has one space."""
        with self._sessions.read() as connection:
            return store_spaces.migration_of(connection, gallery_key)

    def migrations(self) -> list[tuple[str, Migration]]:
        """All of them, with the ids of their galleries."""
        with self._sessions.read() as connection:
            return store_migrations.every(connection)

    def begin(self, gallery: str, contract: str, dimension: int, crops_fit: bool) -> Migration:
        """Give a gallery a second space; the same again goes on, also after a roll back.

        Args:
            crops_fit: whether the crops that were kept can be embedded under ``contract``.

        Raises:
            GalleryNotFound
            Conflict: it is of this contract already, or is moving to another one.
        """
        with self._sessions.write() as connection:
            return store_migrations.begin(connection, gallery, contract, dimension, crops_fit)

    def turn(self, gallery: str, phase: Phase) -> Migration:
        """Pin the gallery to the target (``cut_over``) or to the source again (``rolled_back``).

        Raises GalleryNotFound, Conflict (there is no migration, or nothing to roll back).
        """
        with self._sessions.write() as connection:
            return store_migrations.turn(connection, gallery, phase)

    def begin_discarding(self, gallery: str, finish: bool, leave_behind: bool) -> Migration:
        """Keep only the pinned space: from here on there is no way back. ``discard`` erases the other one.

        Args:
            finish: that is the target; False: the source.
            leave_behind: even if persons are left without faces, or with fewer.

        Raises GalleryNotFound, Conflict.
        """
        with self._sessions.write() as connection:
            return store_migrations.begin_discarding(connection, gallery, finish, leave_behind)

    def discard(self, gallery_key: int) -> None:
        """Erase the space that is not pinned any more, in bounded steps between which others write. One that was cut
        off is finished when the store opens."""
        after: int | None = 0
        while after is not None:
            step = partial(store_migrations.discard_some, gallery_key=gallery_key, after=after)
            after = self._sessions.delete(step)
        self._sessions.erase()

    def finish_discarding(self) -> None:
        """Erase what a crash has left."""
        with self._sessions.read() as connection:
            cut_off = store_migrations.discarding(connection)
        for key in cut_off:
            self.discard(key)

    def progress(self, migration: Migration) -> Progress:
        """How far it is."""
        with self._sessions.read() as connection:
            return store_spaces.progress(connection, migration)

    def pending(self, migration: Migration, cursor: str | None, limit: int) -> Page[Pending]:
        """Up to ``limit`` (1 to 1000) persons who are not in the target, in the order of their ids."""
        with self._sessions.read() as connection:
            return store_spaces.pending(connection, migration, cursor, limit)

    def decided(self, migration: Migration, among: Iterable[int] | None = None) -> Decided:
        """Who of the gallery, or of the persons ``among`` it, is searched where."""
        with self._sessions.read() as connection:
            return store_spaces.decided(connection, migration, among)

    def person_embeddings(self, place: tuple[str, str]) -> tuple[str, NDArray[np.float32]]:
        """The contract under which a person of a gallery is compared, and the templates, float32 (n, d).

        Raises GalleryNotFound, PersonNotFound.
        """
        with self._sessions.read() as connection:
            owner = store_galleries.get(connection, place[0])
            migration = store_spaces.migration_of(connection, owner.key)
            if migration is None:
                return owner.embedding_contract, store_faces.embeddings(
                    connection, self._keys.within(connection), *place
                )
            space, vectors = store_spaces.embeddings(connection, self._keys.within(connection), place, migration)
            return space.contract, vectors

    def crops_to_embed(self, migration: Migration, after: int, limit: int) -> tuple[Sequence[Crop], int | None]:
        """Face, person and crop of up to ``limit`` faces with keys above ``after`` that are not in the target; after
        which to go on, None at the end."""
        with self._sessions.read() as connection:
            return store_migrations.crops_to_embed(connection, self._keys.within(connection), migration, after, limit)

    def reader(self, space: Space) -> "SpaceReader":
        """What fills an index with one space."""
        return SpaceReader(self._sessions, self._keys, space)

    def add_embedded(self, gallery: str, contract: str, embedded: Templates) -> Templates:
        """Keep templates of faces that are there, as far as they are not in the space of ``contract`` yet; which.

        Raises GalleryNotFound, Conflict (the gallery has no such space any more).
        """
        with self._sessions.write() as connection:
            owner = store_galleries.get(connection, gallery)
            migration = store_migrations.require(connection, owner)
            spaces = [space for space in migration.spaces if space.contract == contract]
            if not spaces:
                raise store_migrations.no_space(gallery, contract)
            return store_spaces.add_embedded(connection, self._keys.within(connection), owner.key, spaces[0], embedded)


class SpaceReader:
    """One space of one gallery, read as a ``Store`` is: for ``service.gallery.filling``."""

    def __init__(self, sessions: Transactions, keys: PersonKeys, space: Space) -> None:
        self._sessions, self._keys, self._space = sessions, keys, space

    def face_keys(self, gallery_key: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The keys of the faces in the space, ascending, and of the person of each."""
        with self._sessions.read() as connection:
            return store_spaces.face_keys(connection, gallery_key, self._space)

    def templates(self, gallery_key: int, after: int = 0, block: int = 8192) -> Iterator[Templates]:
        """As ``Store.templates``."""
        more: int | None = after
        while more is not None:
            with self._sessions.read() as connection:
                keys = self._keys.within(connection)
                found, more = store_faces.templates_after(connection, keys, gallery_key, more, block, self._space)
            if found.faces.size:
                yield found

    def templates_of(self, gallery_key: int, faces: Iterable[int]) -> Templates:
        """Those of these faces of the gallery that are in the space."""
        with self._sessions.read() as connection:
            keys = self._keys.within(connection)
            return store_faces.templates_with(connection, keys, gallery_key, faces, self._space)
