"""What a store stands on: one of two engines, which differ in their transactions and in where the keys are."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, TypeVar

from sqlalchemy import Connection, Engine

from service.gallery.projection import Projection
from service.security.person_keys import PersonKeys

T = TypeVar("T")


class Transactions(Protocol):
    """Transactions on one database. Thread-safe."""

    engine: Engine

    def read(self) -> AbstractContextManager[Connection]:
        """A consistent view of the whole database. Keep it short."""

    def write(self) -> AbstractContextManager[Connection]:
        """A transaction that is durable when it ends, and undone by an exception."""

    def delete(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` in a durable transaction, on a full disk too where that can be; perhaps twice."""

    def erase(self) -> bool:
        """See that nothing deleted is left lying about; whether it is so."""

    def close(self) -> None:
        """Close all connections."""


@dataclass(frozen=True)
class Differences:
    """Keys of persons whose rows are to go, and of those whose keys are to be destroyed."""

    erased: list[int]
    orphans: list[int]


@dataclass(frozen=True)
class Backend:
    """An engine.

    Attributes:
        differences: between persons and keys, which a crash or a restored backup has left.
        check: raises Unavailable while the database does not answer, cheap enough for a health check; None where it is
            in this process.
        projection: told of every change of faces in its transaction, where searches need more than the store.
    """

    sessions: Transactions
    keys: PersonKeys
    differences: Callable[[Connection], Differences]
    check: Callable[[], None] | None = None
    projection: Projection | None = None
