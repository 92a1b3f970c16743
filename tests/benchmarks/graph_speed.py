"""Embedders as published against as adopted, and what each rewrite of their graphs is worth.

    python -m tests.benchmarks.graph_speed [--data-dir data] [--threads 1 2] [--rounds 40] [--json]

One crop through: the file as published; the graph as adopted, without fusion and as ``likeness pull`` chooses it here;
each rewrite alone on the adopted graph; and that graph with Relu for PRelu, which is another function but the floor.
Interleaved rounds, medians, ratios to the published file. On one thread the time on the core is counted, so that other
load hardly shows. What is not in DATA_DIR/downloads is left out; FaceX-Zoo's pickle is exported by torch as it is,
batch norms and PReLU in place.
"""

import argparse
import json
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from insightface.data import get_image
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto

from export.catalog import load_catalog
from export.embedder import CROP_SIZE, adopt_embedder
from export.fetch import cached_path
from export.foreign import PRESETS
from export.graph import load_network
from export.machine import STEPS, fit_to_machine, rewritten
from export.parity import GROUP_PHOTO
from export.stopwatch import clock_for, race
from service.engine import load_engine
from service.recognition.types import Image
from service.runtime.card import Preprocessing
from service.settings import read_settings

PROVIDER = "CPUExecutionProvider"
Pixels = NDArray[np.uint8]
Networks = Iterator[tuple[str, Path, Preprocessing]]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data-dir", type=Path)
    arguments.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    arguments.add_argument("--rounds", type=int, default=40)
    arguments.add_argument("--json", action="store_true")
    args = arguments.parse_args()
    found, crop = [], real_crop(args.data_dir)
    with tempfile.TemporaryDirectory() as folder:
        for name, file, preprocessing in networks(read_settings(data_dir=args.data_dir).data_dir, Path(folder)):
            forms, chosen = forms_of(file, preprocessing)
            for threads in args.threads:
                given = planes(crop, preprocessing)
                ratios = measure((file, given), (forms, crop), threads, args.rounds)
                found.append({"network": name, "threads": threads, "chosen": chosen, "ratios": ratios})
                if not args.json:
                    show(found[-1])
    if args.json:
        print(json.dumps(found))


def networks(data_dir: Path, folder: Path) -> Networks:
    """The embedders at hand: their names, their files as published, and how pixels are given to them."""
    catalog = load_catalog()
    for bundle in ("open", "buffalo_s"):
        file = catalog.bundle(bundle).embedder
        if (path := cached_path(file, data_dir / "downloads")).is_file():
            yield file.name, path, file.preprocessing or PRESETS["raw"]
    for path in (data_dir / "downloads").glob("*/face_recognition_mv.pkl"):
        yield path.name, facex_zoo(path, folder), PRESETS["facex-zoo"]


def facex_zoo(weights: Path, folder: Path) -> Path:
    """FaceX-Zoo's MobileFaceNet as torch writes it when it is told to change nothing."""
    import torch

    from models.backbones import make_backbone
    from models.backbones.mobilefacenet import from_facex_zoo
    from models.published import read_tensors

    network = make_backbone("mobilefacenet", dimension=512)
    network.load_state_dict(from_facex_zoo(read_tensors(weights)))
    out = folder / "mobilefacenet.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(),
            (torch.zeros(1, 3, CROP_SIZE, CROP_SIZE),),
            out,
            dynamo=False,
            opset_version=11,
            training=torch.onnx.TrainingMode.PRESERVE,
        )
    return out


def forms_of(file: Path, preprocessing: Preprocessing) -> tuple[dict[str, ModelProto], tuple[str, ...]]:
    """The adopted graph in every form, and which rewrites this machine chooses."""
    adopted = adopt_embedder(load_network(file), preprocessing, "none", {})
    fitted, chosen = fit_to_machine(adopted, CROP_SIZE)
    forms = {"as adopted": fitted, "no rewrite": adopted}
    for step, alternatives in STEPS.items():
        for name, rewrite in alternatives.items():
            if (form := rewritten(adopted, rewrite)) is not None:
                forms[f"only {step} {name}"] = form
    floor = rewritten(fitted_but_prelu(adopted, chosen.rewrites if chosen else ()), plain_relu)
    if floor is not None:
        forms["Relu for PRelu (the floor)"] = floor
    return forms, chosen.rewrites if chosen else ()


def fitted_but_prelu(adopted: ModelProto, chosen: tuple[str, ...]) -> ModelProto:
    for step, alternatives in STEPS.items():
        for name, rewrite in alternatives.items():
            if f"{step} {name}" in chosen and step != "PReLU":
                adopted = rewritten(adopted, rewrite) or adopted
    return adopted


def plain_relu(graph: GraphProto) -> int:
    prelus = [node for node in graph.node if node.op_type == "PRelu"]
    for node in prelus:
        node.op_type = "Relu"
        del node.input[1:]
    return len(prelus)


def real_crop(data_dir: Path | None) -> Pixels:
    """(1, 112, 112, 3) a face of the photo that comes with insightface; how long PRelu takes hangs on the image."""
    recognizer = load_engine(read_settings(data_dir=data_dir)).recognizer
    photo = Image(np.ascontiguousarray(get_image(GROUP_PHOTO)[:, :, ::-1]))
    return recognizer.crop(photo, recognizer.detect(photo)[0])[None]


def planes(crop: Pixels, given: Preprocessing) -> NDArray[np.float32]:
    """What a published file is given: normalised, (1, 3, 112, 112)."""
    ordered = crop if given.channels == "RGB" else crop[..., ::-1]
    return np.ascontiguousarray(((ordered - given.mean) / given.scale).transpose(0, 3, 1, 2), np.float32)


def measure(
    published: tuple[Path, NDArray[np.float32]],
    adopted: tuple[dict[str, ModelProto], Pixels],
    threads: int,
    rounds: int,
) -> dict[str, float]:
    """Time of the published file divided by that of each form; both with what they are given."""
    calls = {"published": call(onnx.load(str(published[0])), published[1], threads)}
    calls |= {name: call(model, adopted[1], threads) for name, model in adopted[0].items()}
    seconds = race(calls, float("inf"), clock_for(PROVIDER, threads), rounds)
    return {name: seconds["published"] / taken for name, taken in seconds.items()}


def call(model: ModelProto, given: NDArray[np.generic], threads: int) -> Callable[[], object]:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=[PROVIDER])
    weights = {tensor.name for tensor in model.graph.initializer}
    [name] = [i.name for i in model.graph.input if i.name not in weights]
    return partial(session.run, None, {name: given})


def show(found: dict[str, Any]) -> None:
    print(f"\n{found['network']}, {found['threads']} thread(s); kept here: {', '.join(found['chosen']) or 'nothing'}")
    for name, ratio in found["ratios"].items():
        print(f"  {name:<40}{ratio:6.2f} ×")


if __name__ == "__main__":
    main()
