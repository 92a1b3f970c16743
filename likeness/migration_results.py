"""What calls about moving a gallery to another bundle answer with. All of it is frozen."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal


@dataclass(frozen=True)
class Space:
    """The templates of one contract. ``bundle``: that is loaded with it, if any."""

    embedding_contract: str
    embedding_dimension: int
    bundle: str | None = None


@dataclass(frozen=True)
class Progress:
    """``faces_waiting`` are those whose crop was kept and is being embedded under the new contract."""

    persons: int
    persons_moved: int
    faces: int
    faces_embedded: int
    faces_waiting: int


@dataclass(frozen=True)
class Migration:
    """Where a gallery is on its way to another bundle. ``embedding_contract`` is the one that it is pinned to."""

    gallery: str
    phase: Literal["none", "embedding", "cut_over", "rolled_back"]
    embedding_contract: str
    source: Space | None = None
    target: Space | None = None
    progress: Progress | None = None
    crops_fit: bool | None = None
    started_at: datetime | None = None
    cut_over_at: datetime | None = None


@dataclass(frozen=True)
class PendingPerson:
    """A person who is not in the new space. With ``faces_waiting`` 0 only photos that are enrolled again help."""

    person_id: str
    name: str | None
    faces: int
    faces_embedded: int
    faces_waiting: int
