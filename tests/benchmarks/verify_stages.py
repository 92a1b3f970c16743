"""One /v1/verify of two 250×250 photos: where its time goes, and the whole against the bare networks.

    python -m tests.benchmarks.verify_stages [--data-dir data] [--rounds 60] [--json]

One process: the service on a loopback port, asked by a client over one connection. In each round the whole request,
its stages by themselves, and the two networks alone on the very same inputs are timed one after the other, so that a
noisy machine disturbs all of them alike; medians and their ratio are printed.
"""

import argparse
import http.client
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import uvicorn
from numpy.typing import NDArray
from PIL import Image as PillowImage

from service.api.app import create_app
from service.engine import Engine, load_engine
from service.recognition.recognizer import Recognizer
from service.recognition.types import Face, Image
from service.settings import read_settings

SIDE = 250
STAGES = ("decode", "detect", "align", "embed")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data-dir", type=Path)
    arguments.add_argument("--rounds", type=int, default=60)
    arguments.add_argument("--json", action="store_true")
    args = arguments.parse_args()
    settings = read_settings(data_dir=args.data_dir)
    engine = load_engine(settings)
    engine.warm_up()
    photos = portraits(engine)
    bare = bare_networks(engine, photos)
    with serving(create_app(engine, settings)) as url:
        ask = verify_over_http(url, photos)
        rounds = [one_round(engine, photos, ask, bare) for _ in range(args.rounds + 5)][5:]
    medians = {name: 1000 * float(np.median([r[name] for r in rounds])) for name in rounds[0]}
    medians["rest"] = medians["whole"] - sum(medians[stage] for stage in STAGES)
    ratio = float(np.median([r["whole"] / r["bare"] for r in rounds]))
    if args.json:
        print(json.dumps({"ratio": ratio, "milliseconds": medians, "rounds": args.rounds}))
        return
    print(f"one /v1/verify of two {SIDE}×{SIDE} photos, median of {args.rounds} rounds, ms")
    for name in (*STAGES, "rest", "whole", "bare"):
        label = {"bare": "networks alone", "rest": "rest (HTTP, JSON, quality)"}.get(name, name)
        print(f"  {label:<28}{medians[name]:8.2f}   {100 * medians[name] / medians['whole']:5.1f} %")
    print(f"  whole / networks alone      {ratio:8.3f}")


def portraits(engine: Engine) -> tuple[bytes, bytes]:
    """Two JPEGs framed like LFW, cut from the group photo that comes with insightface."""
    content = resources.files("insightface").joinpath("data/images/t1.jpg").read_bytes()
    image = engine.recognizer.decode(content)
    photos: list[bytes] = []
    for face in engine.recognizer.detect(image)[:2]:
        x, y = (face.box[:2] + face.box[2:]) / 2
        half = 1.1 * float(face.box[3] - face.box[1])
        cut = PillowImage.fromarray(image.pixels).crop((int(x - half), int(y - half), int(x + half), int(y + half)))
        encoded = io.BytesIO()
        cut.resize((SIDE, SIDE), PillowImage.Resampling.LANCZOS).save(encoded, "JPEG", quality=92)
        photos.append(encoded.getvalue())
    return photos[0], photos[1]


def bare_networks(engine: Engine, photos: tuple[bytes, bytes]) -> Callable[[], None]:
    """A function that runs both networks on exactly the inputs that verifying ``photos`` gives them."""
    calls: list[tuple[Callable[[NDArray[np.uint8]], Any], NDArray[np.uint8]]] = []

    def recording(network: Callable[[NDArray[np.uint8]], Any]) -> Callable[[NDArray[np.uint8]], Any]:
        def call(images: NDArray[np.uint8]) -> Any:
            calls.append((network, images.copy()))
            return network(images)

        return call

    served = engine.recognizer
    contract = engine.card.contract
    recorder = Recognizer(
        recording(served.detector),
        recording(served.embedder),
        contract.alignment.template,
        contract.alignment.size,
        served.options,
    )
    Engine(engine.card, recorder, engine.providers).verify(photos, "largest", engine.thresholds.choose(threshold=0.3))

    def run() -> None:
        for network, images in calls:
            network(images)

    return run


def one_round(
    engine: Engine, photos: tuple[bytes, bytes], ask: Callable[[], None], bare: Callable[[], None]
) -> dict[str, float]:
    """Seconds of the whole request, of each stage, and of the bare networks."""
    recognizer = engine.recognizer
    seconds = {"whole": clock(ask)[0], "bare": clock(bare)[0]}
    images: list[Image]
    faces: list[Face]
    seconds["decode"], images = clock(lambda: [recognizer.decode(photo) for photo in photos])
    seconds["detect"], faces = clock(lambda: [recognizer.detect(image)[0] for image in images])
    seconds["align"], crops = clock(lambda: [recognizer.crop(i, f) for i, f in zip(images, faces, strict=True)])
    seconds["embed"], _ = clock(lambda: recognizer.embed_crops(crops))
    return seconds


def clock(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def verify_over_http(url: str, photos: tuple[bytes, bytes]) -> Callable[[], None]:
    """A function that posts the two photos, over one kept connection and with the body made beforehand."""
    files = {name: (f"{name}.jpg", photo) for name, photo in zip(("image_a", "image_b"), photos, strict=True)}
    prepared = httpx.Request("POST", url, files=files, data={"threshold": "0.3", "faces": "largest"})
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
