"""The values that galleries are made of, as the store gives them out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Metadata = Mapping[str, str | int | float | bool]
T = TypeVar("T")


@dataclass(frozen=True)
class GalleryRecord:
    """A gallery. ``key`` is the store's own stable number for it, ``id`` the caller's.

    Attributes:
        embedding_contract, dimension: pinned when the gallery was made.
        revision: grows with every change of its faces.
        persons, faces: how many there are.
        retention_days: persons are erased so long after they were made; None: never.
        template_slot: which table has the templates of ``embedding_contract``.
    """

    key: int
    id: str
    name: str | None
    description: str | None
    embedding_contract: str
    dimension: int
    revision: int
    persons: int
    faces: int
    created_at: datetime
    retention_days: int | None = None
    template_slot: int = 0


@dataclass(frozen=True)
class PersonRecord:
    """A person of a gallery. ``key`` is unique over all galleries and never used again."""

    key: int
    id: str
    name: str | None
    metadata: Metadata
    expires_at: datetime | None
    faces: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True)
class FaceRecord:
    """An enrolled face, without its embedding. ``key`` is unique over all galleries and never used again.

    Attributes:
        facts: what was known of the photo it came from (box, quality); empty for a template enrolled by vector.
    """

    key: int
    id: str
    facts: Mapping[str, object]
    created_at: datetime


@dataclass(frozen=True, eq=False)
class NewFace:
    """A face to enrol: ``id`` the caller's or None to have one made; ``embedding`` float32 (d,) of unit length.

    Attributes:
        crop: the aligned face, uint8 (112, 112, 3), where crops are to be kept.
        contract: under which ``embedding`` was made; None for the gallery's pinned one.
        others: embeddings of the same face under further contracts, by these.
    """

    embedding: NDArray[np.float32]
    id: str | None = None
    facts: Mapping[str, object] = field(default_factory=dict)
    crop: NDArray[np.uint8] | None = None
    contract: str | None = None
    others: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)

    def embeddings(self, pinned: str) -> Mapping[str, NDArray[np.float32]]:
        """All of them by contract, in a gallery that is pinned to ``pinned``."""
        return {**self.others, self.contract or pinned: self.embedding}


@dataclass(frozen=True)
class Page(Generic[T]):
    """Some items in the order of their ids, and the cursor that continues after them; None at the end."""

    items: tuple[T, ...]
    cursor: str | None


@dataclass(frozen=True, eq=False)
class Templates:
    """Enrolled embeddings for an index.

    Attributes:
        faces, persons: int64 (n,), the keys of each row's face and person.
        embeddings: float32 (n, d), unit length.
    """

    faces: NDArray[np.int64]
    persons: NDArray[np.int64]
    embeddings: NDArray[np.float32]
