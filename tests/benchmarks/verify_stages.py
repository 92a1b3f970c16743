"""One /v1/verify of two 250×250 photos: where its time goes, and the whole against the bare networks.

    python -m tests.benchmarks.verify_stages [--data-dir data] [--rounds 60] [--json]

One process: the service on a loopback port, asked by a client over one connection. In each round the whole request,
its stages by themselves, and the networks alone on the very same inputs are timed one after the other, so that a
noisy machine disturbs all of them alike; medians and their ratios are printed. Stages and networks run as the service
runs them: the two photos side by side.
"""

import argparse
import http.client
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import numpy as np
import uvicorn
from numpy.typing import NDArray
from PIL import Image as PillowImage

from service.api.app import create_app
from service.engine import Engine, load_engine
from service.recognition.recognizer import Recognizer
from service.runtime.networks import available_cores
from service.settings import Settings, read_settings
from tests.benchmarks.measured import clock

SIDE = 250
WARM_UP = 5
STAGES = ("decode", "detect", "align", "embed")
Calls = list[tuple[Callable[[NDArray[np.uint8]], Any], NDArray[np.uint8]]]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data-dir", type=Path)
    arguments.add_argument("--rounds", type=int, default=60)
    arguments.add_argument("--json", action="store_true")
    args = arguments.parse_args()
    settings = read_settings(data_dir=args.data_dir)
    engine = load_engine(settings)
    rounds = measure(engine, settings, args.rounds + WARM_UP)[WARM_UP:]
    medians = {name: 1000 * float(np.median([r[name] for r in rounds])) for name in rounds[0]}
    medians["rest"] = medians["whole"] - sum(medians[stage] for stage in STAGES)
    ratios = {name: float(np.median([r["whole"] / r[name] for r in rounds])) for name in ("bare", "bare_in_turn")}
    if args.json:
        print(json.dumps({"ratios": ratios, "milliseconds": medians, "rounds": args.rounds}))
        return
    print(f"One /v1/verify of two {SIDE}×{SIDE} photos, median of {args.rounds} rounds, {available_cores()} cores\n")
    print(f"{'':<46}{'ms':>8}{'share':>9}")
    labels = {
        "rest": "rest (HTTP, JSON, quality)",
        "bare": "networks alone, photos side by side",
        "bare_in_turn": "networks alone, one photo after the other",
    }
    for name in (*STAGES, "rest", "whole", "bare", "bare_in_turn"):
        print(f"{labels.get(name, name):<46}{medians[name]:8.2f}{100 * medians[name] / medians['whole']:7.1f} %")
    print(f"\n{'whole / networks alone, photos side by side':<46}{ratios['bare']:8.3f}")
    print(f"{'whole / networks alone, one after the other':<46}{ratios['bare_in_turn']:8.3f}")


def measure(engine: Engine, settings: Settings, rounds: int) -> list[dict[str, float]]:
    """Seconds of the whole, each stage and the bare networks, for each round."""
    photos = portraits(engine)
    recorded = [record(engine, photo) for photo in photos]
    recognizer = engine.recognizer
    cores = ThreadPoolExecutor(available_cores())

    def one_round() -> dict[str, float]:
        seconds = {"whole": clock(ask)[0]}
        seconds["bare"] = clock(lambda: list(cores.map(replay, recorded)))[0]
        seconds["bare_in_turn"] = clock(lambda: [replay(calls) for calls in recorded])[0]
        # The answer waits for the slower photo.
        slower = max(cores.map(stages, photos), key=lambda taken: sum(taken.values()))
        return seconds | slower

    def stages(photo: bytes) -> dict[str, float]:
        seconds: dict[str, float] = {}
        seconds["decode"], image = clock(lambda: recognizer.decode(photo))
        seconds["detect"], faces = clock(lambda: recognizer.detect(image))
        seconds["align"], crop = clock(lambda: recognizer.crop(image, faces[0]))
        seconds["embed"] = clock(lambda: recognizer.embed_crops([crop]))[0]
        return seconds

    with serving(create_app(engine, settings)) as url, cores:
        ask = verify_over_http(url, photos)
        return [one_round() for _ in range(rounds)]


def portraits(engine: Engine, number: int = 2) -> list[bytes]:
    """JPEGs framed like LFW, cut from the group photo that comes with insightface."""
    content = resources.files("insightface").joinpath("data/images/t1.jpg").read_bytes()
    image = engine.recognizer.decode(content)
    photos = []
    for face in engine.recognizer.detect(image)[:number]:
        x, y = (face.box[:2] + face.box[2:]) / 2
        half = 1.1 * float(face.box[3] - face.box[1])
        cut = PillowImage.fromarray(image.pixels).crop((int(x - half), int(y - half), int(x + half), int(y + half)))
        encoded = io.BytesIO()
        cut.resize((SIDE, SIDE), PillowImage.Resampling.LANCZOS).save(encoded, "JPEG", quality=92)
        photos.append(encoded.getvalue())
    return photos


def record(engine: Engine, photo: bytes) -> Calls:
    """The calls of networks, with their inputs, that one photo of a verification needs."""
    calls: Calls = []

    def recording(network: Callable[[NDArray[np.uint8]], Any]) -> Callable[[NDArray[np.uint8]], Any]:
        def call(images: NDArray[np.uint8]) -> Any:
            calls.append((network, images.copy()))
            return network(images)

        return call

    served = engine.recognizer
    alignment = engine.card.contract.alignment
    networks = recording(served.detector), recording(served.embedder)
    recorder = Recognizer(*networks, alignment.template, alignment.size, served.options)
    Engine(engine.card, recorder, engine.providers).subject(photo, "largest", "photo")
    return calls


def replay(calls: Calls) -> None:
    for network, images in calls:
        network(images)


def verify_over_http(url: str, photos: list[bytes]) -> Callable[[], None]:
    """A function that posts the two photos, over one kept connection and with the body made beforehand."""
    files = {name: (f"{name}.jpg", photo) for name, photo in zip(("image_a", "image_b"), photos, strict=True)}
    prepared = httpx2.Request("POST", url, files=files, data={"threshold": "0.3", "faces": "largest"})
    body, headers = prepared.read(), {"content-type": prepared.headers["content-type"]}
    connection = http.client.HTTPConnection(urlsplit(url).netloc)

    def ask() -> None:
        connection.request("POST", "/v1/verify", body, headers)
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise SystemExit(f"verify answered {answer.status}: {content.decode()}")

    return ask


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """The application on a free loopback port, in a thread of this process."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


if __name__ == "__main__":
    main()
