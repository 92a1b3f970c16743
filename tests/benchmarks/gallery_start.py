"""How fast faces are enrolled, and how soon a service that has them is ready.

    python -m tests.benchmarks.gallery_start --data-dir DIR [--faces 1000000] [--dimensions 128 512]

Enrolment is durable and searchable when it counts: one face a call as a camera would, and 1,000 a call as an import
does. Then the store is opened in a new process: ``loaded`` is from the start of that process until all galleries can be
searched; ``ready`` from the start of ``likeness serve`` until ``/v1/health/ready`` says so, for the dimension of the
bundle. ``backup`` is ``likeness backup`` of it from its start to its end, ``again`` a second one right after it.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

from service.gallery.gallery import Galleries
from service.gallery.records import NewFace
from service.gallery.store import Store
from service.gallery.store_bulk import BulkFace, BulkPerson
from service.runtime.bundle import locate, open_bundle
from service.security.key_file import KeyFile
from service.security.master_key import FilePlace

SINGLE_FACES, FACES_A_CALL = 500, 1000
LOADING = """
import sys
from pathlib import Path
from service.gallery.gallery import Galleries
from service.gallery.store import Store
from service.security.key_file import KeyFile
from service.security.master_key import FilePlace
keys = Path(sys.argv[1]).parent.parent / "keys"
store = Store.open(Path(sys.argv[1]), keys=KeyFile.open(keys, FilePlace(keys / "master.key")))
print(Galleries(store, sys.argv[2], int(sys.argv[3])).load())
"""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data-dir", type=Path, required=True)
    arguments.add_argument("--bundle", default="open")
    arguments.add_argument("--faces", type=int, default=1_000_000)
    arguments.add_argument("--dimensions", type=int, nargs="+", default=[128, 512])
    args = arguments.parse_args()
    bundle = locate(args.bundle, args.data_dir)
    card = open_bundle(bundle).card
    heads = ["faces", "d", "one/s", "import/s", "loaded s", "ready s", "backup s", "again s", "B/face disk"]
    print("".join(f"{head:>13}" for head in heads), flush=True)
    for dimension in args.dimensions:
        served = dimension == card.contract.dimension
        with tempfile.TemporaryDirectory(dir=args.data_dir) as folder:
            database = Path(folder) / "gallery" / "gallery.db"
            contract = card.embedding_contract if served else "0" * 64
            one, many = fill(database, contract, dimension, args.faces)
            loaded = time_to_load(database, contract, dimension)
            ready = time_to_ready(bundle, Path(folder)) if served else float("nan")
            first, again = (time_to_back_up(Path(folder)) for _ in range(2))
            disk = database.stat().st_size / args.faces
        figures = [args.faces, dimension, one, many, loaded, ready, first, again, disk]
        print(
            "".join(f"{f'{figure:,.0f}' if figure >= 100 else f'{figure:.3g}':>13}" for figure in figures), flush=True
        )


def fill(database: Path, contract: str, dimension: int, faces: int) -> tuple[float, float]:
    """Faces a second, one a call and many a call."""
    keys = database.parent.parent / "keys"
    store = Store.open(database, keys=KeyFile.open(keys, FilePlace(keys / "master.key")))
    galleries = Galleries(store, contract, dimension)
    galleries.put("g", None, None)
    rng = np.random.default_rng(dimension)
    store.put_person("g", "camera")
    vectors = unit(rng, SINGLE_FACES, dimension)
    start = time.perf_counter()
    for vector in vectors:
        galleries.enrol("g", "camera", [NewFace(vector)], None, lambda _: {})
    one = SINGLE_FACES / (time.perf_counter() - start)
    seconds, number = 0.0, SINGLE_FACES
    while number < faces:
        vectors = unit(rng, min(FACES_A_CALL, faces - number), dimension)
        persons = [BulkPerson(f"p{number + i}", faces=(BulkFace(f"f{number + i}", v),)) for i, v in enumerate(vectors)]
        start = time.perf_counter()
        galleries.import_persons("g", persons)
        seconds += time.perf_counter() - start
        number += len(vectors)
    store.close()
    return one, (faces - SINGLE_FACES) / seconds


def time_to_load(database: Path, contract: str, dimension: int) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", LOADING, database, contract, str(dimension)], check=True, capture_output=True)
    return time.perf_counter() - start


def time_to_ready(bundle: Path, folder: Path) -> float:
    command = [sys.executable, "-m", "service.cli.main", "serve", "--bundle", bundle, "--data-dir", folder]
    clean: dict[str, Any] = {name: value for name, value in os.environ.items() if not name.startswith("LIKENESS_")}
    with tempfile.TemporaryFile() as log:
        start = time.perf_counter()
        process = subprocess.Popen([*command, "--port", "0"], stdout=subprocess.DEVNULL, stderr=log, env=clean)
        try:
            while True:
                time.sleep(0.05)
                if process.poll() is not None:
                    raise SystemExit(os.pread(log.fileno(), 1 << 20, 0).decode())
                found = re.search(rb"http://127[.]0[.]0[.]1:[0-9]+", os.pread(log.fileno(), 1 << 20, 0))
                if found and httpx2.get(found[0].decode() + "/v1/health/ready").status_code == 200:
                    return time.perf_counter() - start
        finally:
            process.terminate()
            process.wait()


def time_to_back_up(folder: Path) -> float:
    places = [folder / "backups", "--keys", folder / "safe", "--data-dir", folder]
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "service.cli.main", "backup", *places], check=True, capture_output=True)
    return time.perf_counter() - start


def unit(rng: np.random.Generator, n: int, dimension: int) -> Any:
    vectors = rng.standard_normal((n, dimension), np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


if __name__ == "__main__":
    main()
