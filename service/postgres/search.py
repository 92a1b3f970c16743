"""Searches in the database: candidates by rounded vectors there, the answer by the templates themselves here.

The database names the persons whose rounded vectors are nearest. Their sealed templates come along, are opened, and are
compared as those of a segment are, so that similarities are the same to the last bit. How far rounding can move a score
is bounded (``rotation.score_errors``): an exact search is done when the last person wanted is further above the last
candidate than that, and asks for four times as many otherwise. Through an HNSW index the candidates are those that the
index finds; see docs/scale.md for what it may miss.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Connection, Float, Select, and_, bindparam, cast, func, literal_column, select
from sqlalchemy.exc import DBAPIError

from service.errors import GalleryNotFound
from service.gallery import store_faces
from service.gallery.candidates import candidates_of
from service.gallery.records import GalleryRecord, Metadata
from service.gallery.searcher import Question, SearchResult
from service.gallery.segment import FEWEST_ROWS, OVERFETCH, WIDER, Hit, Segment
from service.gallery.store_filters import matches
from service.gallery.tables import persons
from service.metrics import SEARCHES
from service.postgres.hnsw import Hnsw
from service.postgres.rotation import Halves, score_errors
from service.postgres.vector_tables import Halfvec, person_sizes, vectors_table
from service.postgres.vectors import PersonVectors

# Of a filter that matches so few persons, all are compared.
FEW_MATCHES = 10_000
UNDEFINED_TABLE = "42P01"


@dataclass(frozen=True, eq=False)
class _Among:
    """Whom a search is among.

    Attributes:
        keys: a query for the persons' keys; None for all of the gallery.
        persons: how many, and ``sizes``: how many of them have so many faces.
    """

    keys: Select[Any] | None
    persons: int
    sizes: dict[int, int]

    @property
    def found(self) -> int:
        """How many of them have a face, and so can be found."""
        return sum(self.sizes.values())


class DatabaseSearch:
    """Searches all galleries of a store in PostgreSQL. Thread-safe."""

    def __init__(self, sessions: Any, vectors: PersonVectors, hnsw: Hnsw) -> None:
        self._sessions, self._vectors, self._hnsw = sessions, vectors, hnsw

    def search(self, gallery: GalleryRecord, question: Question) -> SearchResult:
        """See ``Searcher.search``. All of it is of one moment, which is not before ``gallery`` was read."""
        try:
            with self._sessions.read() as connection:
                return _Search(connection, self._vectors, gallery, question).run(self._hnsw)
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) == UNDEFINED_TABLE:
                raise GalleryNotFound(f"There is no gallery {gallery.id!r}.", {"gallery": gallery.id}) from error
            raise


class _Search:
    """One search, in a transaction of its own."""

    def __init__(
        self, connection: Connection, vectors: PersonVectors, gallery: GalleryRecord, question: Question
    ) -> None:
        self._connection, self._vectors, self._gallery, self._question = connection, vectors, gallery, question
        self._probes = np.ascontiguousarray(question.probes, np.float32)
        if self._probes.shape[1:] != (gallery.dimension,) or not np.isfinite(self._probes).all():
            raise ValueError(f"Probes of shape {self._probes.shape} are not finite vectors of {gallery.dimension}.")
        self._table = vectors_table(gallery.dimension, gallery.key)
        self._turned = vectors.rotation(gallery.dimension).turn(self._probes)
        self._errors = score_errors(self._turned)
        self._hits: list[list[Hit]] = [[] for _ in self._probes]

    def run(self, hnsw: Hnsw) -> SearchResult:
        among = self._among(self._question.where)
        indexed = not self._question.exact and hnsw.serves(self._connection, self._gallery) and not _few(among)
        SEARCHES.labels("database", "hnsw" if indexed else "exact").inc(len(self._probes))
        if among.found and len(self._probes):
            unsure = list(range(len(self._probes)))
            if indexed:
                hnsw.prepare(self._connection)
                unsure = self._by_index(unsure, among)
            self._by_all(unsure, among)
        known = store_faces.owners(self._connection, sorted({hit.face for hits in self._hits for hit in hits}))
        candidates = tuple(tuple(candidates_of(hits, known, {})) for hits in self._hits)
        return SearchResult(among.persons, self._gallery.faces, among.sizes, candidates)

    def _among(self, where: Metadata | None) -> _Among:
        own = self._gallery
        if where is None:
            here = (person_sizes.c.gallery_key == own.key, person_sizes.c.persons > 0)
            rows = self._connection.execute(select(person_sizes.c.faces, person_sizes.c.persons).where(*here))
            return _Among(None, own.persons, {row[0]: row[1] for row in rows})
        matching = (persons.c.gallery_key == own.key, matches(self._connection, where))
        faces = func.coalesce(self._table.c.faces, 0)
        same = and_(self._table.c.gallery_key == own.key, self._table.c.person_key == persons.c.key)
        joined = persons.outerjoin(self._table, same)
        rows = self._connection.execute(
            select(faces, func.count()).select_from(joined).where(*matching).group_by(faces)
        )
        counted = {int(row[0]): int(row[1]) for row in rows}
        sizes = {faces: count for faces, count in sorted(counted.items()) if faces}
        return _Among(select(persons.c.key).where(*matching), sum(counted.values()), sizes)

    def _by_index(self, numbers: list[int], among: _Among) -> list[int]:
        """Answer the probes of these numbers through the index; returns those that it gave too few persons for."""
        limit = max(OVERFETCH * self._question.top_k, FEWEST_ROWS)
        self._answer(numbers, [self._near(number, among, limit, exact=False)[0] for number in numbers])
        wanted = min(self._question.top_k, among.found)
        return [number for number in numbers if len(self._hits[number]) < wanted]

    def _by_all(self, numbers: list[int], among: _Among) -> None:
        """Answer the probes of these numbers exactly."""
        limit = max(OVERFETCH * self._question.top_k, FEWEST_ROWS)
        while numbers:
            near = [self._near(number, among, limit, exact=True) for number in numbers]
            self._answer(numbers, [keys for keys, _ in near])
            # Fewer than were asked for: these are all.
            numbers = [
                number
                for number, (keys, missed) in zip(numbers, near, strict=True)
                if len(keys) == limit and not self._sure(number, missed)
            ]
            limit *= WIDER

    def _sure(self, number: int, missed: float) -> bool:
        hits = self._hits[number]
        return len(hits) == self._question.top_k and hits[-1].similarity > missed

    def _near(self, number: int, among: _Among, limit: int, exact: bool) -> tuple[list[int], float]:
        """The persons nearest to a probe by their rounded vectors, and what no other person's similarity is above."""
        # A query of its own is run once; a cast in place of it would read the text for every row.
        probe = select(cast(bindparam("probe"), Halfvec)).scalar_subquery()
        score = self._table.c.vector.op("<#>", return_type=Float())(probe)
        # Another expression than the index is made on: all rows are compared.
        told = (score + literal_column("0") if exact else score).label("score")
        query = select(self._table.c.person_key, told).order_by(told).limit(literal_column(str(limit)))
        if among.keys is not None:
            query = query.where(self._table.c.person_key.in_(among.keys))
        rows = self._connection.execute(query, {"probe": as_text(self._turned.halves[number])}).all()
        missed = float(-rows[-1][1] + self._errors[number]) if rows else -np.inf
        return [row[0] for row in rows], missed

    def _answer(self, numbers: list[int], near: list[list[int]]) -> None:
        """Compare the probes of these numbers with all that were found for any of them, as a segment does."""
        found = sorted({person for keys in near for person in keys})
        templates = self._vectors.templates_of(self._connection, self._gallery, found)
        segment = Segment(self._gallery.dimension)
        segment.add(templates)
        hits = segment.search(self._probes[numbers], self._question.top_k)
        for number, own in zip(numbers, hits, strict=True):
            self._hits[number] = own


def _few(among: _Among) -> bool:
    """Whether a filter matches so few that comparing all of them costs less than an index walked past the others."""
    return among.keys is not None and among.found <= FEW_MATCHES


def as_text(halves: Halves) -> str:
    """A vector as pgvector reads it; five digits tell float16 apart."""
    return "[" + ("%.5g," * len(halves) % tuple(halves.tolist()))[:-1] + "]"
