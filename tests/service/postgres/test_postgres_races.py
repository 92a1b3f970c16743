"""Two processes at once on the same galleries, persons and idempotency keys."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from service.errors import GalleryNotFound, LikenessError, PersonNotFound
from service.gallery.records import NewFace
from service.gallery.store import Once, Store
from service.postgres.store import open_store
from service.security.master_key import GivenPlace, MasterKey

ROUNDS = 12
DIMENSION = 16


def vector(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(DIMENSION).astype(np.float32)


def work(url: str, master: str, process: int) -> list[str]:
    """Do what the other process does, at the same time; what was told."""
    store = open_store(url, GivenPlace(master))
    told: list[str] = []

    def attempt(what: str, call: Callable[[], bool]) -> None:
        try:
            told.append(f"{what} {call()}")
        except (GalleryNotFound, PersonNotFound) as error:
            told.append(f"{what} {type(error).__name__}")
        except LikenessError as error:
            told.append(f"{what} failed: {type(error).__name__} {error}")

    def once(gallery: str, key: str) -> bool:
        face = NewFace(vector(process))
        added = store.add_faces(gallery, "shared", [face], Once(key, "a" * 64), lambda faces: {"id": faces[0].id})
        told.append(f"answer {gallery} {key} {added.answer['id']}")
        return not added.repeated

    def rounds(thread: int) -> None:
        for n in range(thread, ROUNDS, 2):
            gallery = f"g{n}"
            attempt(
                f"gallery {gallery}",
                lambda gallery=gallery, n=n: store.put_gallery(gallery, None, None, "c", DIMENSION + n)[1],
            )
            attempt("gallery main", lambda: store.put_gallery("main", None, None, "c", DIMENSION)[1])
            attempt(f"person shared{n}", lambda n=n: store.put_person("main", f"shared{n}")[1])
            attempt("person shared", lambda: store.put_person("main", "shared")[1])
            attempt(f"once k{n}", lambda n=n: once("main", f"k{n}"))
            attempt(f"own {process}-{n}", lambda n=n: own(store, f"own{process}-{n}", n))
            attempt(f"deleted {n}", lambda n=n: store.delete_person("main", f"shared{n}") == [])
            attempt(f"gone {gallery}", lambda gallery=gallery: store.delete_gallery(gallery) > 0)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(rounds, range(2)))
    store.close()
    return told


def own(store: Store, person: str, n: int) -> bool:
    store.put_person("main", person)
    faces = [NewFace(vector(1000 + n + m)) for m in range(3)]
    gone = store.add_faces("main", person, faces).faces[0].id
    store.delete_face("main", person, gone)
    return len(store.embeddings("main", person)) == 2


def test_two_processes_do_the_same_at_once(postgres_url: str) -> None:
    master = MasterKey.new().text()
    command = [sys.executable, __file__, postgres_url, master]
    running = [subprocess.Popen([*command, str(n)], stdout=subprocess.PIPE, text=True) for n in range(2)]
    told = [line for process in running for line in json.loads(process.communicate()[0])]
    assert [line for line in told if "failed" in line] == []
    counts = Counter(told)
    assert counts["gallery main True"] == 1
    assert counts["person shared True"] == 1
    for n in range(ROUNDS):
        # Whoever comes after a deletion makes it anew.
        assert counts[f"gallery g{n} True"] == counts[f"gone g{n} True"] in (1, 2)
        assert counts[f"person shared{n} True"] == counts[f"deleted {n} True"] in (1, 2)
        assert (counts[f"once k{n} True"], counts[f"once k{n} False"]) == (1, 1)
        assert len({line for line in told if line.startswith(f"answer main k{n} ")}) == 1
        assert all(counts[f"own {process}-{n} True"] == 1 for process in range(2))
    store = open_store(postgres_url, GivenPlace(master))
    main = store.gallery("main")
    assert [gallery.id for gallery in store.galleries().items] == ["main"]
    assert (main.persons, main.faces) == (1 + 2 * ROUNDS, ROUNDS + 4 * ROUNDS)
    found = {person.id: person.faces for person in store.persons("main").items}
    assert (len(found), sum(found.values())) == (main.persons, main.faces)
    assert sum(len(block.faces) for block in store.templates(main.key)) == main.faces
    # Each change counts once: persons put, whether they were made or not, faces, deletions.
    puts = sum(count for what, count in counts.items() if what.startswith("person ") and not what.endswith("Found"))
    deletions = sum(counts[f"deleted {n} True"] for n in range(ROUNDS))
    assert main.revision == puts + deletions + ROUNDS + 2 * ROUNDS * 3
    store.close()


if __name__ == "__main__":
    print(json.dumps(work(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
