"""A gallery of LFW moves from one bundle to another while it is searched: does anybody notice?

The first photo of each person is enrolled, with its crop kept; the second one of everybody who has it is searched,
again and again, by a few clients, against a service in a process of its own. Of each answer: whether it came at all;
whether the first candidate is the person (rank 1); whether the person was identified (else a miss, FNIR); whether
anybody else reached the threshold (FPIR, of a stranger's search among the other persons). While faces are embedded anew
the answers are sorted by how many persons were in the new space, which each of them says.
"""

import argparse
import itertools
import os
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import likeness
from service.cli.calibrate import left_out
from service.evaluation.photos import persons_of
from service.progress import track
from tests.benchmarks.processes import likeness as serving

GALLERY = "lfw"
FPIR = 0.01
PARTS = 4


@dataclass
class Counts:
    """What came of some searches."""

    searches: int = 0
    failed: int = 0
    first: int = 0
    missed: int = 0
    others: int = 0
    persons: Counter[bool] = field(default_factory=Counter)

    def row(self, when: str) -> str:
        answered = max(1, self.searches - self.failed)
        moved = 100 * self.persons[True] / max(1, self.persons.total())
        rates = (f"{100 * n / answered:.2f} %" for n in (self.first, self.missed, self.others))
        return f"| {when} | {moved:.0f} % | {self.searches:,} | {self.failed} | {' | '.join(rates)} |"


HEAD = (
    f"| | persons in the new space | searches | failed | rank 1 | FNIR | FPIR ({FPIR} asked) |",
    "| --- | --- | --- | --- | --- | --- | --- |",
)


class Searching:
    """Searches of one client after the other; thread-safe."""

    def __init__(self, client: likeness.Client, target: str) -> None:
        self._client, self._target = client, target
        self._counting = threading.Lock()

    def search(self, person: str, photo: bytes) -> tuple[float, "likeness.Search | None"]:
        """The share of persons in the new space, and the answer; None: it failed."""
        try:
            answer = self._client.search(GALLERY, photo, faces="largest", fpir=FPIR, top_k=5)
        except likeness.LikenessError as error:
            print(f"{person}: {error}")
            return 0.0, None
        spaces = answer.spaces or ()
        moved = sum(space.persons for space in spaces if space.embedding_contract == self._target)
        return moved / max(1, sum(space.persons for space in spaces)), answer

    def count(self, counts: Counts, person: str, answer: "likeness.Search | None") -> None:
        """Add one answer."""
        with self._counting:
            counts.searches += 1
            if answer is None:
                counts.failed += 1
                return
            for space in answer.spaces or ():
                counts.persons[space.embedding_contract == self._target] += space.persons
            if answer.spaces is None:
                now = {candidate.embedding_contract for candidate in answer.probes[0].candidates}
                counts.persons[self._target in now] += answer.gallery_size.persons
            thresholds = {s.embedding_contract: s.operating_point.threshold for s in answer.spaces or ()}
            [probe] = answer.probes
            reached = [
                candidate.person_id
                for candidate in probe.candidates
                if candidate.similarity
                >= thresholds.get(candidate.embedding_contract or "", answer.operating_point.threshold)
            ]
            counts.first += bool(probe.candidates) and probe.candidates[0].person_id == person
            counts.missed += person not in reached
            counts.others += any(other != person for other in reached)


Probes = Sequence[tuple[str, bytes]]


def once(searching: Searching, probes: Probes, clients: int) -> Counts:
    """Every probe once."""
    counts = Counts()

    def one(probe: tuple[str, bytes]) -> None:
        searching.count(counts, probe[0], searching.search(*probe)[1])

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(one, probes))
    return counts


def while_moving(client: likeness.Client, searching: Searching, probes: Probes, clients: int) -> list[Counts]:
    """The probes again and again until no face waits, by the share of persons in the new space."""
    parts = [Counts() for _ in range(PARTS)]
    ended = threading.Event()
    order: Iterator[tuple[str, bytes]] = itertools.cycle(probes)
    taking = threading.Lock()

    def one() -> None:
        while not ended.is_set():
            with taking:
                probe = next(order)
            moved, answer = searching.search(*probe)
            searching.count(parts[min(PARTS - 1, int(moved * PARTS))], probe[0], answer)

    threads = [threading.Thread(target=one) for _ in range(clients)]
    for thread in threads:
        thread.start()
    began = time.monotonic()
    while (progress := client.migration(GALLERY).progress) is not None and progress.faces_waiting:
        time.sleep(1)
    seconds = time.monotonic() - began
    ended.set()
    for thread in threads:
        thread.join()
    told = sum(part.searches for part in parts)
    print(
        f"{progress.faces_embedded if progress else 0} faces in {seconds:.0f} s, {told / seconds:.1f} searches a second"
    )
    return parts


def enrol(client: likeness.Client, images: Path, firsts: Iterable[tuple[str, str]], clients: int) -> int:
    """One photo of each person; how many could be."""

    def one(entry: tuple[str, str]) -> bool:
        person, name = entry
        client.put_person(GALLERY, person)
        try:
            client.enrol(GALLERY, person, [images / name], faces="largest", quality="off")
        except likeness.UnusablePhoto:
            return False
        return True

    entries = list(firsts)
    with ThreadPoolExecutor(clients) as pool:
        return sum(track(pool.map(one, entries), "enrol", len(entries), "person"))


def chosen(images: Path, persons: int, seed: int, without: frozenset[str]) -> tuple[list[tuple[str, str]], Probes]:
    """Person and first photo of each; and person and content of a second photo of those who have it."""
    names = sorted(path.relative_to(images).as_posix() for path in images.glob("*/*.jpg"))
    names = [name for name in names if name not in without and name.split("/")[0] not in without]
    labels, numbers = persons_of(names)
    wanted = np.random.default_rng(seed).permutation(len(labels))[: persons or None]
    photos = {int(person): [names[row] for row in np.flatnonzero(numbers == person)] for person in sorted(wanted)}
    people = {person: f"p{person}" for person in photos}
    firsts = [(people[person], own[0]) for person, own in photos.items()]
    return firsts, [(people[p], (images / own[1]).read_bytes()) for p, own in photos.items() if len(own) > 1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--images", type=Path, required=True, help="folder of Name/Name_0001.jpg")
    parser.add_argument("--without", help="file of photos and persons to leave out")
    parser.add_argument("--source", default="open")
    parser.add_argument("--target", default="buffalo_s")
    parser.add_argument("--persons", type=int, default=0, help="so many, chosen at random; 0: all")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    firsts, probes = chosen(args.images, args.persons, args.seed, left_out(args.without))
    os.environ["LIKENESS_KEEP_CROPS"] = "true"
    target = str((args.data_dir / "bundles" / args.target).resolve())
    with (
        serving(args.data_dir, args.source, "--also", target, "--max-waiting", "256") as server,
        likeness.Client(server.url, retries=likeness.NO_RETRIES, connections=args.clients + 1) as client,
    ):
        client.put_gallery(GALLERY)
        enrolled = enrol(client, args.images, firsts, args.clients)
        contract = next(b.embedding_contract for b in client.info().bundles if b.name == args.target)
        searching = Searching(client, contract)
        print(f"{args.source} to {args.target}: {enrolled:,} persons, one photo each, {len(probes):,} probes")
        rows = [once(searching, probes, args.clients).row("before")]
        client.start_migration(GALLERY, args.target)
        for number, part in enumerate(while_moving(client, searching, probes, args.clients)):
            rows.append(part.row(f"while {100 * number // PARTS} to {100 * (number + 1) // PARTS} % are moved"))
        rows.append(once(searching, probes, args.clients).row("all moved"))
        client.cut_over(GALLERY)
        rows.append(once(searching, probes, args.clients).row("after the cut-over"))
        client.roll_back(GALLERY)
        rows.append(once(searching, probes, args.clients).row("rolled back"))
        client.cut_over(GALLERY)
        client.finish_migration(GALLERY)
        rows.append(once(searching, probes, args.clients).row("old space erased"))
        print("\n".join((*HEAD, *rows)))
        print(f"{server.resident_bytes() / 2**20:.0f} MiB in memory")


if __name__ == "__main__":
    main()
