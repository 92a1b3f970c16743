"""What the store asks of the keys of the persons, wherever they are: in a file, or in the database itself."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray
from sqlalchemy import Connection


class OpenKeys(Protocol):
    """The keys as an open transaction of the store sees them."""

    def add(self, names: Mapping[int, bytes]) -> None:
        """Make a key for each person, by the store's key of the person, under a name that is never used twice."""

    def remove(self, persons: Sequence[int]) -> None:
        """Destroy the keys of these persons with the transaction, where the keys are a part of it."""

    def cipher(self, person: int) -> AESGCM | None:
        """What seals and opens what is kept of a person; None if the key was destroyed."""

    def ciphers(self, persons: Sequence[int] | NDArray[np.int64]) -> dict[int, AESGCM]:
        """By person; those whose key was destroyed are left out."""


class PersonKeys(Protocol):
    """The key of each person, and the service's secret. Thread-safe."""

    @property
    def id(self) -> bytes:
        """Of all these keys together; the database that belongs to them knows it."""

    @property
    def where(self) -> str:
        """In words, for messages."""

    def within(self, connection: Connection) -> OpenKeys:
        """The keys in an open transaction of the store."""

    def destroy(self, persons: Iterable[int]) -> None:
        """Destroy, durably, what ``OpenKeys.remove`` has left; the rows of these persons are gone for good."""

    def derived(self, purpose: str) -> bytes:
        """A key of 32 bytes for something else than persons; it outlives a rotation of the master key."""

    def close(self) -> None:
        """Let go of them."""
