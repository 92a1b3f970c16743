"""A segment against a plain dict and float64 numpy, by itself and with threads that search, add, remove and compact."""

import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from service.gallery import flat_index, person_rows
from service.gallery import segment as segment_module
from service.gallery.person_rows import PersonRows
from service.gallery.records import Templates
from service.gallery.segment import Hit, Segment


def clustered(rng, persons, faces_each, dimension, spread=0.6):
    """float32 unit vectors around a centre for each person, and the person of each."""
    owners = np.repeat(np.arange(persons), faces_each)
    centres = rng.standard_normal((persons, dimension)) / np.sqrt(dimension)
    vectors = centres[owners] + spread * rng.standard_normal((len(owners), dimension)) / np.sqrt(dimension)
    return unit(vectors), owners.astype(np.int64)


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


class Oracle:
    """What a segment must answer, from a dict of faces."""

    def __init__(self):
        self.faces = {}

    def add(self, templates):
        rows = zip(templates.faces.tolist(), templates.persons.tolist(), templates.embeddings, strict=True)
        self.faces.update({face: (person, vector) for face, person, vector in rows})

    def remove(self, faces):
        for face in faces.tolist():
            self.faces.pop(face, None)

    def search(self, probes, top_k, persons=None):
        allowed = None if persons is None else set(persons.tolist())
        faces = {}
        for face, (person, vector) in sorted(self.faces.items()):
            if allowed is None or person in allowed:
                faces.setdefault(person, {})[face] = vector.astype(np.float64)
        if not faces:
            return [[] for _ in probes]
        templates = np.array([template(list(own.values())) for own in faces.values()], np.float64)
        return [self._best(faces, (templates * probe).sum(axis=1), probe, top_k) for probe in probes]

    def _best(self, faces, similarities, probe, top_k):
        ranked = sorted(zip((-similarities).tolist(), faces, strict=True))[:top_k]
        return [Hit(person, nearest(faces[person], probe), -similarity) for similarity, person in ranked]


def template(faces):
    """Of float64 vectors: the mean, as float32 of unit length, of their components as multiples of 2⁻⁴⁰."""
    if len(faces) == 1:
        return faces[0].astype(np.float32)
    total = np.array([sum(round(x * 2**40) for x in column) for column in zip(*faces, strict=True)]) / 2**40
    return (total / np.sqrt((total * total).sum())).astype(np.float32)


def nearest(faces, probe):
    products = (np.array(list(faces.values())) * probe).sum(axis=1)
    return min(zip((-products).tolist(), faces, strict=True))[1]


def both(dimension, templates):
    segment, oracle = Segment(dimension), Oracle()
    for holder in (segment, oracle):
        holder.add(templates)
    return segment, oracle


@pytest.mark.parametrize(("dimension", "persons", "faces_each"), [(128, 1000, 4), (512, 600, 5), (128, 4000, 1)])
def test_search_equals_float64_brute_force(dimension, persons, faces_each):
    rng = np.random.default_rng(dimension + persons)
    vectors, owners = clustered(rng, persons, faces_each, dimension)
    faces = rng.permutation(len(vectors)).astype(np.int64)
    segment, oracle = both(dimension, Templates(faces, owners, vectors))
    probes = unit(vectors[rng.integers(0, len(vectors), 9)] + 0.02 * rng.standard_normal((9, dimension)))
    for top_k in (1, 10, 200, persons + 5):
        expected = oracle.search(probes, top_k)
        assert segment.search(probes, top_k) == expected
        assert [segment.search(probe[None], top_k)[0] for probe in probes] == expected
        assert len(expected[0]) == min(top_k, persons)
    # The oracle's own sums, by another road.
    means = vectors.astype(np.float64).reshape(persons, faces_each, dimension).sum(axis=1)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    tops = [hits[0].similarity for hits in segment.search(probes, 1)]
    assert np.allclose(tops, (probes @ means.T).max(axis=1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("probes", [1, 5, 6, 40])
def test_faces_that_8_bits_cannot_tell_apart_are_ranked_as_exactly(monkeypatch, probes):
    monkeypatch.setattr(flat_index, "BLOCK_ROWS", 256)
    rng = np.random.default_rng(15)
    centre = rng.standard_normal(32)
    vectors = unit(centre + 1e-4 * rng.standard_normal((1200, 32)))
    segment, oracle = both(32, Templates(np.arange(1200), np.arange(1200) // 2, vectors))
    asked = unit(vectors[:probes] + 1e-4 * rng.standard_normal((probes, 32)))
    assert segment.search(asked, 5) == oracle.search(asked, 5)


def test_persons_with_hundreds_of_photos_do_not_crowd_others_out(monkeypatch):
    monkeypatch.setattr(person_rows, "COMPARED", 70)
    rng = np.random.default_rng(7)
    probe = unit(rng.standard_normal((1, 64)))
    many = unit(probe + 0.02 * rng.standard_normal((900, 64)))
    others, owners = clustered(rng, 3000, 1, 64)
    persons = np.concatenate([np.repeat([1, 2, 3], 300), owners + 100])
    templates = Templates(np.arange(3900), persons, np.concatenate([many, others]))
    segment, oracle = both(64, templates)
    hits = segment.search(probe, 10)[0]
    assert hits == oracle.search(probe, 10)[0]
    assert {hit.person for hit in hits[:3]} == {1, 2, 3}
    assert len(hits) == 10


def test_equal_similarities_are_ordered_by_person_whatever_the_number_of_equals():
    rng = np.random.default_rng(8)
    same = unit(rng.standard_normal((1, 32)))
    rest, owners = clustered(rng, 2000, 1, 32)
    faces = rng.permutation(4000).astype(np.int64)
    persons = np.concatenate([np.arange(2000) // 2, owners + 5000])
    templates = Templates(faces, persons, np.concatenate([np.repeat(same, 2000, axis=0), rest]))
    segment, oracle = both(32, templates)
    for probes in (same, np.repeat(same, 3, axis=0), -same):
        assert segment.search(probes, 12) == oracle.search(probes, 12)
    hits = segment.search(same, 12)[0]
    assert [hit.person for hit in hits] == list(range(12))
    assert len({hit.similarity for hit in hits}) == 1
    firsts = faces[:2000].reshape(1000, 2).min(axis=1)
    assert [hit.face for hit in hits] == firsts[:12].tolist()


@pytest.mark.parametrize("share", [0.0005, 0.02, 0.3, 0.7, 1.0])
def test_a_filter_gives_the_best_of_the_persons_in_it(share):
    rng = np.random.default_rng(9)
    vectors, owners = clustered(rng, 1500, 2, 128)
    segment, oracle = both(128, Templates(np.arange(3000), owners, vectors))
    gone = rng.choice(3000, 250, replace=False)
    for holder in (segment, oracle):
        holder.remove(gone)
    chosen = rng.choice(1500, max(1, int(1500 * share)), replace=False).astype(np.int64)
    persons = np.concatenate([chosen, [10**9]])
    probes = vectors[rng.integers(0, 3000, 5)]
    for top_k in (1, 10, 2000):
        expected = oracle.search(probes, top_k, persons)
        assert segment.search(probes, top_k, persons) == expected
        assert segment.search(probes[:1], top_k, persons) == expected[:1]


def test_an_empty_segment_and_one_emptied_answer_with_nobody():
    segment, probes = Segment(16), np.eye(3, 16, dtype=np.float32)
    assert segment.search(probes, 5) == [[], [], []]
    assert (len(segment), segment.persons) == (0, 0)
    segment.remove(np.array([1, 2]))
    segment.compact()
    segment.add(Templates(np.array([1, 2]), np.array([3, 3]), probes[:2]))
    assert (len(segment), segment.persons) == (2, 1)
    segment.remove(np.array([2, 1, 77]))
    assert segment.search(probes, 5) == [[], [], []]
    assert segment.search(probes, 5, np.array([3])) == [[], [], []]
    assert segment.search(probes[:0], 5) == []
    segment.compact()
    assert (len(segment), segment.persons, segment.dead) == (0, 0, 0)
    assert segment.search(probes, 5) == [[], [], []]


@pytest.mark.parametrize(
    ("probes", "top_k"), [(np.ones((1, 3)), 1), (np.ones(4), 1), (np.full((1, 4), np.inf), 1), (np.ones((1, 4)), 0)]
)
def test_probes_that_make_no_sense_are_refused(probes, top_k):
    with pytest.raises(ValueError, match="robes|top_k"):
        Segment(4).search(probes.astype(np.float32), top_k)


def test_removed_vectors_are_overwritten_at_once_and_gone_after_compaction():
    rng = np.random.default_rng(10)
    vectors, owners = clustered(rng, 50, 2, 32)
    segment = Segment(32)
    segment.add(Templates(np.arange(100), owners, vectors))
    # Of the persons 0 and 40 one face, of the person 45 both.
    segment.remove(np.array([0, 81, 90, 91]))
    rows = segment._rows
    assert not rows.index.vectors(np.array([0, 40, 45])).any()
    assert not rows._shelf.vectors(np.array([0, 1, 80, 81, 90, 91])).any()
    assert rows.index.vectors(np.array([50, 51])).tolist() == vectors[[1, 80]].tolist()
    assert (len(segment), segment.persons, segment.dead) == (96, 49, 9)
    segment.compact()
    assert (len(segment._rows), len(segment._rows._shelf), segment.dead, len(segment)) == (49, 94, 0, 96)
    assert segment.sizes() == {1: 2, 2: 47}


def test_many_removals_start_a_compaction():
    rng = np.random.default_rng(11)
    vectors, owners = clustered(rng, 3000, 2, 16)
    segment, oracle = both(16, Templates(np.arange(6000), owners, vectors))
    # A vector for each of the persons, and their faces.
    for holder in (segment, oracle):
        holder.remove(np.arange(0, 600))
    assert segment.dead == 900
    for holder in (segment, oracle):
        holder.remove(np.arange(600, 700))
    deadline = time.monotonic() + 10
    while segment.dead:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert segment.search(vectors[:3], 10) == oracle.search(vectors[:3], 10)


def test_what_changes_during_a_compaction_is_in_its_result(monkeypatch):
    rng = np.random.default_rng(12)
    vectors, owners = clustered(rng, 300, 2, 32)
    segment, oracle = both(32, Templates(np.arange(600), owners, vectors))
    monkeypatch.setattr(segment_module, "COPIED_VECTORS", 100)
    steps = iter(range(100))
    append = PersonRows.append

    def appended(rows, templates):
        append(rows, templates)
        step = next(steps)
        if rows is segment._rows or step > 4:
            return
        extra, owner = clustered(rng, 1, 3, 32)
        more = Templates(np.arange(3) + 1000 + 10 * step, owner + 900 + step, extra)
        gone = np.array([step, 100 * step + 99, 100 * step + 150, 1000 + 10 * (step - 1)])
        for holder in (segment, oracle):
            holder.add(more)
            holder.remove(gone)

    monkeypatch.setattr(PersonRows, "append", appended)
    segment.compact()
    monkeypatch.undo()
    assert len(segment) == len(oracle.faces)
    assert segment.persons == len({person for person, _ in oracle.faces.values()})
    assert segment.search(vectors[:8], 400) == oracle.search(vectors[:8], 400)
    rows = segment._rows
    assert not rows.index.vectors(np.flatnonzero(rows.dead)).any()
    assert not rows._shelf.vectors(np.flatnonzero(rows._shelved_rows.values < 0)).any()


def test_a_compaction_copies_so_many_vectors_at_a_time_however_many_a_person_has(monkeypatch):
    rng = np.random.default_rng(14)
    vectors, owners = clustered(rng, 60, 10, 16)
    owners[-150:] = owners[-150]  # one person with many
    segment, oracle = both(16, Templates(np.arange(600), owners, vectors))
    for holder in (segment, oracle):
        holder.remove(np.arange(100))
    monkeypatch.setattr(segment_module, "COPIED_VECTORS", 64)
    copied, live_part = [], PersonRows.live_part

    def noted(rows, *asked):
        numbers, part = live_part(rows, *asked)
        copied.append((len(numbers), len(part.faces)))
        return numbers, part

    monkeypatch.setattr(PersonRows, "live_part", noted)
    segment.compact()
    assert sum(faces for _, faces in copied) == 500
    assert sorted(copied)[0] == (1, 150)
    assert max(faces for persons, faces in copied if persons > 1) <= 64
    assert (segment.dead, len(segment._rows)) == (0, segment.persons)
    assert segment.search(vectors[:3], 100) == oracle.search(vectors[:3], 100)


def test_a_failed_compaction_leaves_the_segment_as_it_was(monkeypatch, caplog):
    rng = np.random.default_rng(13)
    vectors, owners = clustered(rng, 30, 2, 16)
    segment, oracle = both(16, Templates(np.arange(60), owners, vectors))

    def fails(*_):
        raise MemoryError("no room")

    monkeypatch.setattr(PersonRows, "append", fails)
    segment._compact_quietly()
    monkeypatch.undo()
    assert "Compaction failed" in caplog.text
    assert segment.search(vectors[:3], 10) == oracle.search(vectors[:3], 10)
    segment.compact()


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_changes_leaves_no_trace(seed, monkeypatch):
    """Whatever faces came and went, in whatever order: in the end every answer is that of a segment made of the faces
    that are there, to the last bit; also where their keys are others."""
    rng = np.random.default_rng(seed)
    monkeypatch.setattr(segment_module, "DEAD_ROWS", 30)
    vectors, owners = clustered(rng, 40, 5, 32)
    faces = rng.permutation(200).astype(np.int64)
    segment, there = Segment(32), np.zeros(200, bool)
    for _ in range(60):
        some = rng.choice(200, int(rng.integers(1, 30)), replace=False)
        new, gone = some[~there[some]], some[there[some]]
        segment.add(Templates(faces[new], owners[new], vectors[new]))
        segment.remove(faces[gone])
        there[some] = ~there[some]
        if rng.random() < 0.1:
            segment.compact()
    fresh = Segment(32)
    fresh.add(Templates(faces[there], owners[there], vectors[there]))
    probes = unit(rng.standard_normal((20, 32)))
    assert segment.search(probes, 50) == fresh.search(probes, 50)
    assert (segment.sizes(), len(segment)) == (fresh.sizes(), len(fresh))
    moved = Segment(32)
    moved.add(Templates(1000 - faces[there], owners[there], vectors[there]))
    for mine, theirs in zip(segment.search(probes, 50), moved.search(probes, 50), strict=True):
        assert [(h.person, 1000 - h.face, h.similarity) for h in mine] == [
            (h.person, h.face, h.similarity) for h in theirs
        ]
    assert set(segment.faces().tolist()) == set(faces[there].tolist())


@pytest.mark.parametrize("seed", range(6))
def test_random_interleavings_agree_with_the_oracle(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    monkeypatch.setattr(flat_index, "BLOCK_ROWS", int(rng.choice([64, 512, 1 << 14])))
    monkeypatch.setattr(segment_module, "DEAD_ROWS", 40)
    dimension = int(rng.choice([8, 128]))
    segment, oracle, next_face = Segment(dimension), Oracle(), 0
    centres = unit(rng.standard_normal((60, dimension)))
    for _ in range(120):
        action = rng.choice(["add", "remove", "search", "compact"], p=[0.35, 0.25, 0.37, 0.03])
        if action == "add":
            n = int(rng.integers(0, 60))
            owners = rng.integers(0, 60, n)
            spread = rng.choice([0.0, 0.3], n)[:, None]
            vectors = unit(centres[owners] + spread * rng.standard_normal((n, dimension)) / np.sqrt(dimension))
            faces = rng.permutation(n) + next_face
            next_face += n
            for holder in (segment, oracle):
                holder.add(Templates(faces, owners, vectors))
        elif action == "remove" and next_face:
            gone = rng.integers(0, next_face, int(rng.integers(1, 60)))
            for holder in (segment, oracle):
                holder.remove(gone)
        elif action == "compact":
            segment.compact()
        else:
            probes = unit(centres[rng.integers(0, 60, 2)] + 0.01 * rng.standard_normal((2, dimension)))
            persons = rng.integers(0, 70, int(rng.integers(0, 40))) if rng.random() < 0.4 else None
            top_k = int(rng.choice([1, 3, 10, 100]))
            expected = oracle.search(probes, top_k, persons)
            assert segment.search(probes, top_k, persons) == expected
            assert segment.search(probes[:1], top_k, persons) == expected[:1]
        assert len(segment) == len(oracle.faces)
        assert segment.persons == len({person for person, _ in oracle.faces.values()})


TORTURE = """
    import sys, threading, time
    import numpy as np
    from service.gallery import segment as module
    from service.gallery.probes import Probe, shared_scans
    from service.gallery.records import Templates
    from service.gallery.segment import Segment

    module.DEAD_ROWS, module.COPIED_VECTORS, D, STABLE = 64, 512, 64, 1500
    rng = np.random.default_rng(5)
    def unit(n, rng):
        v = rng.standard_normal((n, D))
        return (v / np.linalg.norm(v, axis=1, keepdims=True)).astype(np.float32)

    segment = Segment(D)
    stable = unit(STABLE, rng)
    segment.add(Templates(np.arange(STABLE), np.arange(STABLE), stable))
    exact = stable.astype(np.float64)
    searches, end, errors, counts = shared_scans(segment), time.monotonic() + float(sys.argv[1]), [], {}

    def until_the_end(name, work):
        def run():
            local, n = np.random.default_rng(list(name.encode())), 0
            try:
                while time.monotonic() < end:
                    work(local); n += 1
            except BaseException as error:
                errors.append(f"{name}: {error!r}")
            counts[name] = n
        return threading.Thread(target=run)

    def search(local):
        row = int(local.integers(STABLE))
        direct = segment.search(stable[[row, (row + 1) % STABLE]], 5)
        together = searches.ask(Probe(stable[row], 5))
        own = np.array([row])
        only = segment.search(stable[row][None], 5, own)[0]
        assert [hit.person for hit in only] == [row], only
        for hits in (direct[0], together):
            assert hits[0].person == hits[0].face == row and abs(hits[0].similarity - 1) < 1e-6, hits
            assert len({hit.person for hit in hits}) == 5
            marks = [hit.similarity for hit in hits]
            assert marks == sorted(marks, reverse=True)
            # Persons that are always there, in their order; nobody of them left out in favour of a worse one.
            truth = exact @ stable[row].astype(np.float64)
            lasting = [hit.person for hit in hits if hit.person < STABLE]
            ranked = np.argsort(-truth, kind="stable")[: len(lasting)].tolist()
            assert lasting == ranked, (lasting, ranked)
            assert all(abs(hit.similarity - truth[hit.person]) < 1e-12 for hit in hits if hit.person < STABLE)
        assert direct[0][0] == together[0] == only[0]

    def churn(number):
        key = [10**6 * number]
        def work(local):
            n = int(local.integers(1, 60))
            faces = np.arange(key[0], key[0] + n); key[0] += n
            vectors = unit(n, local)
            segment.add(Templates(faces, faces, vectors))
            assert segment.search(vectors[:1], 1)[0][0].face == faces[0], "an added face is not found"
            segment.remove(faces)
            assert segment.search(vectors[:1], 1, faces) == [[]], "a removed face is found"
        return work

    threads = [until_the_end("search" * (i + 1), search) for i in range(8)]
    threads += [until_the_end("churn%d" % i, churn(i)) for i in (1, 2)]
    threads += [until_the_end("compact", lambda local: (segment.compact(), time.sleep(0.02)))]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert not errors, errors[:3]
    assert len(segment) == segment.persons == STABLE, len(segment)
    assert all(counts.values()), counts
    print("survived", sum(counts.values()), "of", counts["compact"], "compactions")
"""


def test_searches_beside_adds_removals_and_compactions_neither_crash_nor_err():
    command = [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(TORTURE), "4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stderr[-4000:]}"
    assert done.stdout.startswith("survived")
