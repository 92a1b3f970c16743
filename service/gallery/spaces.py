"""A gallery's embedding spaces: one, or two while it moves from one model to another. See docs/migration.md."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

Phase = Literal["embedding", "cut_over", "rolled_back", "discarding"]


@dataclass(frozen=True)
class Space:
    """Templates of one contract; ``slot`` says in which of the two tables of their dimension they are."""

    contract: str
    dimension: int
    slot: int


@dataclass(frozen=True)
class Migration:
    """A gallery's two spaces.

    Attributes:
        source, target: the space from before, and the new one.
        since_face: who has a face with a key above it was enrolled again since the migration began.
        crops_fit: whether crops that were kept can be embedded into the target.
        cut_over_at: when the target became the pinned space, the last time.
    """

    gallery_key: int
    phase: Phase
    source: Space
    target: Space
    since_face: int
    crops_fit: bool
    started_at: datetime
    cut_over_at: datetime | None

    @property
    def pinned(self) -> Space:
        """That of the gallery's contract."""
        return self.target if self.phase == "cut_over" else self.source

    @property
    def spaces(self) -> tuple[Space, Space]:
        """The pinned one first."""
        other = self.source if self.phase == "cut_over" else self.target
        return self.pinned, other

    @property
    def preferred(self) -> tuple[Space, Space]:
        """Where persons are searched who can be, and where the others are."""
        return (self.source, self.target) if self.phase == "rolled_back" else (self.target, self.source)


@dataclass(frozen=True)
class Progress:
    """How far a migration is.

    Attributes:
        faces, persons: of the gallery; of persons those who have a face.
        faces_embedded: that are in the target.
        faces_waiting: that are not, and whose crop was kept and can be embedded.
        persons_moved: who are searched in the target, or will be as soon as it is preferred.
    """

    faces: int
    persons: int
    faces_embedded: int
    faces_waiting: int
    persons_moved: int


@dataclass(frozen=True)
class Pending:
    """A person who is not in the target yet.

    Attributes:
        faces, faces_embedded, faces_waiting: of the person, as in ``Progress``.
    """

    id: str
    name: str | None
    faces: int
    faces_embedded: int
    faces_waiting: int
