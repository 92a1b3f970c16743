"""Mixed load with faults thrown in: is anything lost, is any answer wrong, does memory grow?

    python -m tests.soak --data-dir DIR [--minutes 60] [--seed N]

Clients enrol, delete, search and verify, and know the right answers. Meanwhile one fault after the other: SIGKILL and a
new start, a full disk, damaged photos, 200 clients who send a byte a second, a clock that is set a year ahead and back.
At the end all that was answered is compared with what is there, and the audit log is verified. The exit code is 1 if a
write is lost or an answer is wrong.
"""

import argparse
import io
import random
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx2
from PIL import Image, ImageOps

from service.runtime.bundle import open_bundle
from tests.fuzz.photos import corpus
from tests.fuzz.samples import sample_group, sample_portrait
from tests.soak.load import Site, Tally, Writer, corrupt, verify
from tests.soak.service import Clock, Disk, Service, disk

WRITERS, SLOW = 3, 200
CALM_S, FAULT_S = 6.0, 5.0
YEAR_S = 365 * 86400


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data-dir", type=Path, required=True)
    arguments.add_argument("--minutes", type=float, default=60)
    arguments.add_argument("--seed", type=int, default=int(time.time()))
    args = arguments.parse_args()
    bundle = (args.data_dir / "bundles" / "open").resolve()
    rng, tally, over = random.Random(args.seed), Tally(), threading.Event()
    print(f"seed {args.seed}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "data").mkdir()
        with disk(folder / "data") as on:
            clock = Clock(folder)
            service = Service(on, clock, bundle, folder)
            service.start()
            portrait = sample_portrait()
            photos = [portrait, mirrored(portrait)]
            contract = open_bundle(bundle).card.embedding_contract
            site = Site(service.url, service.key, contract, photos, strangers(service, sample_group()), tally, over)
            with site.http() as http:
                assert http.put("/galleries/g").status_code == 201
            writers = [Writer(site, f"w{n}") for n in range(WRITERS)]
            threads = [threading.Thread(target=work) for work in (*(w.work for w in writers), lambda: verify(site))]
            for thread in threads:
                thread.start()
            time.sleep(min(10.0, 6 * args.minutes))
            began = service.resident_mib()
            faults = storm(args.minutes * 60, service, on, clock, site, corpus(portrait), rng)
            over.set()
            for thread in threads:
                thread.join()
            ended = service.resident_mib()
            lost = check(site, writers)
            lines = service.verify_audit()
            service.kill()
    report(tally, faults, lost, (began, ended), lines)
    if lost or tally.wrong:
        raise SystemExit(1)


def storm(
    seconds: float, service: Service, on: Disk, clock: Clock, site: Site, seeds: list[bytes], rng: random.Random
) -> Counter[str]:
    """Faults, one after the other, with calm in between; how many of each."""

    def killed() -> None:
        service.kill()
        service.start()

    def full() -> None:
        on.fill()
        site.over.wait(FAULT_S)
        if rng.random() < 0.5:
            killed()
        on.empty()

    def clock_set() -> None:
        clock.set(YEAR_S)
        site.over.wait(FAULT_S)
        clock.set(0)

    faults: dict[str, Callable[[], None]] = {
        "kill -9": killed,
        "corrupt uploads": lambda: corrupt(site, FAULT_S, seeds, rng),
        "slow clients": lambda: slow(site, FAULT_S),
    }
    if on.bounded:
        faults["full disk"] = full
    if clock.environment:
        faults["clock jump"] = clock_set
    counts: Counter[str] = Counter()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for name in rng.sample(list(faults), len(faults)):
            if time.monotonic() < until:
                faults[name]()
                counts[name] += 1
                site.over.wait(CALM_S)
    return counts


def slow(site: Site, seconds: float) -> None:
    """Connections that send a byte of their head a second."""
    host, port = site.url.removeprefix("http://").split(":")
    head = b"POST /v1/detect HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n"
    connections = [socket.create_connection((host, int(port)), timeout=10) for _ in range(SLOW)]
    for at in range(int(seconds)):
        for connection in connections:
            try:
                connection.send(head[at : at + 1])
            except OSError:
                continue
        time.sleep(1)
    for connection in connections:
        connection.close()


def check(site: Site, writers: list[Writer]) -> list[str]:
    """What was answered and is not so."""
    listed: dict[str, int] = {}
    cursor: str | None = ""
    with site.http() as http:
        while cursor is not None:
            page = http.get("/galleries/g/persons", params={"limit": 1000, **({"cursor": cursor} if cursor else {})})
            listed |= {person["id"]: person["faces"] for person in page.json()["persons"]}
            cursor = page.json()["cursor"]
        faces = http.get("/galleries/g").json()["faces"]
    known = {person: counts for writer in writers for person, counts in writer.faces.items()}
    lost = [f"{p}: {listed.get(p)} faces, may be {c}" for p, c in known.items() if listed.get(p) not in c]
    lost += [f"{person} was never enrolled" for person in set(listed) - set(known)]
    if faces != sum(listed.values()):
        lost.append(f"{faces} faces counted, {sum(listed.values())} listed")
    return lost


def report(tally: Tally, faults: Counter[str], lost: list[str], memory: tuple[float, float], lines: int) -> None:
    print(f"\n{'call':<10}{'requests':>10}  answers by code (0: the connection broke)")
    for call in sorted({call for call, _ in tally.answers}):
        codes = {status: count for (name, status), count in sorted(tally.answers.items()) if name == call}
        print(f"{call:<10}{sum(codes.values()):>10}  {', '.join(f'{code}: {n}' for code, n in codes.items())}")
    print(f"\nfaults: {', '.join(f'{name} {count}' for name, count in sorted(faults.items()))}")
    print(f"answered writes {tally.writes}, lost {len(lost)}, wrong answers {len(tally.wrong)}, audit lines {lines}")
    print(f"memory {memory[0]:.0f} MiB at the start, {memory[1]:.0f} MiB at the end")
    for words in (*lost[:20], *tally.wrong[:20]):
        print(f"  {words}")


def strangers(service: Service, group: bytes) -> list[bytes]:
    """The people of a group photo, one photo each."""
    headers = {"authorization": f"Bearer {service.key}"}
    answer = httpx2.post(f"{service.url}/v1/detect", files={"image": group}, headers=headers, timeout=60)
    image = Image.open(io.BytesIO(group)).convert("RGB")
    cuts = []
    for face in answer.json()["faces"][:4]:
        box = face["box"]
        x, y, half = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, 0.75 * box["height"]
        cuts.append(_jpeg(image.crop((int(x - half), int(y - half), int(x + half), int(y + half)))))
    return cuts


def mirrored(photo: bytes) -> bytes:
    return _jpeg(ImageOps.mirror(Image.open(io.BytesIO(photo)).convert("RGB")).resize((300, 300)))


def _jpeg(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=90)
    return out.getvalue()


if __name__ == "__main__":
    main()
