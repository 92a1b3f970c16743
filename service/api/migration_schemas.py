"""Requests and answers about moving a gallery to another bundle; see docs/migration.md."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from service.api.bodies import RequestBody
from service.gallery.spaces import Pending
from service.migration.migrations import Status
from service.runtime.card import BUNDLE_NAME


class MigrationStart(RequestBody):
    bundle: Annotated[str, Field(pattern=BUNDLE_NAME, description="name of a bundle in the service's data folder")]


class MigrationEnd(RequestBody):
    leave_behind: Annotated[
        bool, Field(description="also if persons are left without faces, as they are not in the space that stays")
    ] = False


class SpaceRef(BaseModel):
    embedding_contract: str
    embedding_dimension: int
    bundle: Annotated[str | None, Field(description="name of the bundle that is loaded with this contract")]


class ProgressOut(BaseModel):
    persons: Annotated[int, Field(description="who have a face")]
    persons_moved: Annotated[int, Field(description="of these, who are in the target")]
    faces: int
    faces_embedded: Annotated[int, Field(description="that are in the target")]
    faces_waiting: Annotated[int, Field(description="that are not, and whose crop was kept and is being embedded")]


class MigrationOut(BaseModel):
    gallery: str
    phase: Literal["none", "embedding", "cut_over", "rolled_back"]
    embedding_contract: Annotated[str, Field(description="that the gallery is pinned to")]
    source: SpaceRef | None
    target: SpaceRef | None
    progress: ProgressOut | None
    crops_fit: Annotated[bool | None, Field(description="whether crops that were kept can be embedded into the target")]
    started_at: datetime | None
    cut_over_at: datetime | None

    @classmethod
    def of(cls, status: Status) -> "MigrationOut":
        migration = status.migration
        source, target = (None, None) if migration is None else (migration.source, migration.target)
        refs = [
            None
            if space is None
            else SpaceRef(
                embedding_contract=space.contract,
                embedding_dimension=space.dimension,
                bundle=status.bundles.get(space.contract),
            )
            for space in (source, target)
        ]
        return cls(
            gallery=status.gallery,
            phase="none" if migration is None or migration.phase == "discarding" else migration.phase,
            embedding_contract=status.contract,
            source=refs[0],
            target=refs[1],
            progress=None if status.progress is None else ProgressOut(**vars(status.progress)),
            crops_fit=None if migration is None else migration.crops_fit,
            started_at=None if migration is None else migration.started_at,
            cut_over_at=None if migration is None else migration.cut_over_at,
        )


class PendingPerson(BaseModel):
    """A person who is not in the target; ``faces_waiting`` 0: only photos that are enrolled again help."""

    person_id: str
    name: str | None
    faces: int
    faces_embedded: int
    faces_waiting: int

    @classmethod
    def of(cls, found: Pending) -> "PendingPerson":
        return cls(
            person_id=found.id,
            name=found.name,
            faces=found.faces,
            faces_embedded=found.faces_embedded,
            faces_waiting=found.faces_waiting,
        )


class PendingPage(BaseModel):
    persons: list[PendingPerson]
    cursor: str | None
