"""The keys of the persons in PostgreSQL: wrapped by the master key, in a schema of their own.

A key is made and deleted in the transaction of its person, by any replica. The master key is never in the database;
its name is, so that a replica with another one is told so.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Connection,
    Engine,
    Row,
    bindparam,
    func,
    insert,
    select,
    text,
    update,
)

from service.gallery.backend import Differences
from service.gallery.store_values import plain_rows
from service.gallery.tables import key_file, persons
from service.postgres.database import MAKING_KEYS, hold
from service.postgres.sessions import PostgresSessions
from service.postgres.tables import erased, person_keys, service
from service.security.envelope import KEY_BYTES, derive
from service.security.key_file import KeyFileError, new_name
from service.security.master_key import MasterKey, MasterKeyError, MasterPlace, chosen

WHERE = "the schema likeness_keys of the gallery database"
BLOCK = 8192
_SECRET = 0  # in place of a person's key

_WANTED = select(person_keys.c.person_key, person_keys.c.name, person_keys.c.wrapped).where(
    person_keys.c.person_key == func.any(bindparam("wanted", type_=ARRAY(BigInteger)))
)


class PostgresKeys:
    """The key of each person, and the service's secret. Thread-safe; any number of replicas."""

    where = WHERE

    def __init__(self, id: bytes, master: MasterKey, secret: bytes) -> None:
        """See ``open``."""
        self.id = id
        self.secret = secret
        self.master = master.name
        self._wrapping = master.wrapping()

    @classmethod
    def open(cls, engine: Engine, place: MasterPlace) -> "PostgresKeys":
        """The keys in the database of ``engine`` (from ``open_postgres``); its first replica makes the secret.

        Raises:
            MasterKeyError: there is no master key, or it is another one.
            KeyFileError: the keys are not there, damaged, or not those of this database.
        """
        with PostgresSessions(engine).write() as connection:
            hold(connection, MAKING_KEYS)
            row = connection.execute(select(service)).one_or_none()
            masters = place.read(may_make=row is None)
            belongs = connection.scalar(select(key_file.c.id))
            if row is None and belongs is not None:
                raise KeyFileError(f"The keys of this database are not in {WHERE}. Put their newest copy back.")
            if row is None:
                row = _make(connection, masters[0])
            if belongs is None:
                connection.execute(insert(key_file).values(id=row.id))
            elif belongs != row.id:
                raise KeyFileError(
                    f"The keys in {WHERE} are not those of this database, so that none of its templates could be read. "
                    f"Put back those with the id {belongs.hex()}; these are {row.id.hex()}."
                )
            _pass_known_numbers(connection)
        master = chosen(row.master, masters, place, f"The keys in {WHERE}")
        if len(masters) > 1:
            place.keep(master)
        secret = _unwrapped(master.wrapping(), row.id, _SECRET, row.name, row.wrapped)
        if secret is None:
            raise KeyFileError(f"The service's secret in {WHERE} is damaged. Put the newest copy back.")
        return cls(row.id, master, secret)

    def close(self) -> None:
        """Nothing: the connections are the store's."""

    def derived(self, purpose: str) -> bytes:
        """A key of 32 bytes for something else than persons; it outlives a rotation of the master key."""
        return derive(self.secret, purpose)

    def within(self, connection: Connection) -> "_Within":
        """The keys in an open transaction of the store."""
        return _Within(connection, self)

    def destroy(self, persons: Iterable[int]) -> None:
        """Nothing: they went with the rows of their persons."""

    def differences(self, connection: Connection) -> Differences:
        """Persons whom a restored backup has brought back. Raises KeyFileError: keys are missing, of nobody erased."""
        lacking = connection.scalar(_LACKING)
        if lacking:
            raise KeyFileError(
                f"The keys of {lacking} persons are not in {WHERE}: it is older than the database. Put its newest copy "
                "back; without it these persons cannot be read."
            )
        again = select(persons.c.key).join(erased, erased.c.person_key == persons.c.key).order_by(persons.c.key)
        return Differences([*connection.execute(again).scalars()], [])

    def wrap(self, person: int, name: bytes, key: bytes) -> bytes:
        """The key of a person (32 bytes) under the master key."""
        return self._wrapping.encrypt(name, key, _context(self.id, person))

    def unwrap(self, connection: Connection, person: int, name: bytes, wrapped: bytes) -> bytes:
        """The other way. Raises KeyFileError (damaged), MasterKeyError (the master key was rotated meanwhile)."""
        key = _unwrapped(self._wrapping, self.id, person, name, wrapped)
        if key is None:
            self.check_master(connection)
            raise KeyFileError(f"The key of the person {person} in {WHERE} is damaged. Put the newest copy back.")
        return key

    def check_master(self, connection: Connection) -> None:
        """Raises MasterKeyError if the master key was rotated since this object was opened."""
        now = connection.scalar(select(service.c.master))
        if now != self.master:
            raise MasterKeyError(
                f"The keys are wrapped under the master key {now} by now; this replica has {self.master}. Start it "
                "again with the new one."
            )

    def rotate(self, engine: Engine, place: MasterPlace, master: MasterKey) -> int:
        """Wrap all keys under another master key; how many persons have one.

        All or nothing; ``place`` has both master keys until it is settled which. Replicas that have the old one answer
        503 from then on, until they are started with the new one.
        """
        wrapping, count, after = master.wrapping(), 0, -1
        place.keep(master, *place.read(may_make=False))
        with PostgresSessions(engine).write() as connection:
            connection.execute(text("SET LOCAL lock_timeout = '60s'"))
            # No replica adds a key meanwhile; all can read.
            connection.execute(text("LOCK TABLE likeness_keys.person_keys IN EXCLUSIVE MODE"))
            self.check_master(connection)
            some = select(person_keys).order_by(person_keys.c.person_key).limit(BLOCK)
            while rows := plain_rows(connection.execute(some.where(person_keys.c.person_key > after))):
                rewrapped = [
                    wrapping.encrypt(name, self.unwrap(connection, person, name, wrapped), _context(self.id, person))
                    for person, name, wrapped in rows
                ]
                connection.execute(_REWRAP, {"those": [row[0] for row in rows], "wraps": rewrapped})
                after, count = rows[-1][0], count + len(rows)
            # The nonce stays: with another key it is a fresh one.
            name = connection.scalar(select(service.c.name))
            assert name is not None
            secret = wrapping.encrypt(name, self.secret, _context(self.id, _SECRET))
            connection.execute(update(service).values(master=master.name, wrapped=secret))
        place.keep(master)
        return count


class _Within:
    """See ``service.security.person_keys.OpenKeys``."""

    def __init__(self, connection: Connection, keys: PostgresKeys) -> None:
        self._connection = connection
        self._keys = keys

    def add(self, names: Mapping[int, bytes]) -> None:
        """Raises MasterKeyError: the master key was rotated meanwhile, so that nobody could unwrap these."""
        if not names:
            return
        wrapped = [self._keys.wrap(person, name, os.urandom(KEY_BYTES)) for person, name in names.items()]
        values = {"those": [*names], "names": [*names.values()], "wraps": wrapped}
        self._connection.execute(_ADD, values)
        # After the insertion, which waits for a rotation that is under way and holds the next one off.
        self._keys.check_master(self._connection)

    def remove(self, persons: Sequence[int]) -> None:
        if persons:
            self._connection.execute(_REMOVE, {"those": [int(person) for person in persons]})

    def cipher(self, person: int) -> AESGCM | None:
        return self.ciphers([person]).get(person)

    def ciphers(self, persons: Sequence[int] | NDArray[np.int64]) -> dict[int, AESGCM]:
        wanted = np.unique(np.asarray(persons, np.int64)).tolist()
        rows = plain_rows(self._connection.execute(_WANTED, {"wanted": wanted}))
        return {
            person: AESGCM(self._keys.unwrap(self._connection, person, name, wrapped)) for person, name, wrapped in rows
        }


_LACKING = (
    select(func.count())
    .select_from(
        persons.outerjoin(person_keys, person_keys.c.person_key == persons.c.key).outerjoin(
            erased, erased.c.person_key == persons.c.key
        )
    )
    .where(person_keys.c.person_key.is_(None), erased.c.person_key.is_(None))
)
_ADD = text(
    "INSERT INTO likeness_keys.person_keys (person_key, name, wrapped) "
    "SELECT * FROM unnest(CAST(:those AS bigint[]), CAST(:names AS bytea[]), CAST(:wraps AS bytea[]))"
)
_REMOVE = text(
    "WITH gone AS (DELETE FROM likeness_keys.person_keys WHERE person_key = ANY(CAST(:those AS bigint[]))) "
    "INSERT INTO likeness_keys.erased (person_key) SELECT unnest(CAST(:those AS bigint[])) ON CONFLICT DO NOTHING"
)
_REWRAP = text(
    "UPDATE likeness_keys.person_keys k SET wrapped = n.wrapped "
    "FROM unnest(CAST(:those AS bigint[]), CAST(:wraps AS bytea[])) AS n (person_key, wrapped) "
    "WHERE k.person_key = n.person_key"
)


def _make(connection: Connection, master: MasterKey) -> Row[Any]:
    id, name = os.urandom(16), new_name()
    secret = master.wrapping().encrypt(name, os.urandom(KEY_BYTES), _context(id, _SECRET))
    row = insert(service).values(one=1, id=id, master=master.name, name=name, wrapped=secret)
    return connection.execute(row.returning(service)).one()


def _pass_known_numbers(connection: Connection) -> None:
    """No new person gets the number of one whose key was made, or destroyed, after this database was backed up."""
    connection.execute(
        text(
            "SELECT setval(sequence, known) FROM (SELECT pg_get_serial_sequence('persons', 'key') AS sequence, "
            "greatest((SELECT max(person_key) FROM likeness_keys.person_keys), "
            "(SELECT max(person_key) FROM likeness_keys.erased)) AS known) AS numbers "
            "WHERE known > coalesce(pg_sequence_last_value(CAST(sequence AS regclass)), 0)"
        )
    )


def _context(id: bytes, person: int) -> bytes:
    return id + person.to_bytes(8, "big")


def _unwrapped(wrapping: AESGCM, id: bytes, person: int, name: bytes, wrapped: bytes) -> bytes | None:
    try:
        return wrapping.decrypt(name, wrapped, _context(id, person))
    except InvalidTag:
        return None
