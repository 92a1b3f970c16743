"""OpenVINO against ONNX Runtime on a CPU: the same network, the same input, as many threads, in turn.

    python -m pip install --no-deps --target OPENVINO openvino==2026.4.1
    PYTHONPATH=OPENVINO python -m tests.benchmarks.openvino_speed [--data-dir data] [--rounds 40] [--network FILE ...]

OpenVINO is not among the project's packages. Both compute in float32. Times are medians over rounds in which both run
one after the other, the ratio is the median of the rounds' ratios: below 1, OpenVINO is faster. ``difference`` is the
largest between their outputs. ``cosine`` is the lowest between the first outputs, an embedder's embeddings, when
OpenVINO chooses its precision itself, which is bfloat16 on processors that have it.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import openvino as ov
from numpy.typing import NDArray

WARM_UP = 4
Run = Callable[[], list[NDArray[Any]]]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data-dir", type=Path, default=Path("data"))
    arguments.add_argument("--rounds", type=int, default=40)
    arguments.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    arguments.add_argument("--network", type=Path, nargs="*", default=[], help="further embedders, ours or published")
    args = arguments.parse_args()
    bundle = args.data_dir / "bundles" / "open"
    cases = [(bundle / "detector.onnx", (1, side, side, 3)) for side in (320, 640)]
    for path in (bundle / "embedder.onnx", *args.network):
        cases += [(path, shape) for shape in shapes(path)]
    print(f"median of {args.rounds} rounds, ONNX Runtime {ort.__version__}, OpenVINO {ov.__version__}\n")
    heads = {"network": "<42", "input": "<18", "threads": ">7", "ORT ms": ">9", "OV ms": ">9", "ratio": ">8"}
    print("".join(f"{head:{place}}" for head, place in (heads | {"difference": ">13", "cosine": ">11"}).items()))
    for path, shape in cases:
        for threads in args.threads:
            report(path, shape, threads, args.rounds)


def shapes(path: Path) -> list[tuple[int, ...]]:
    """One image, and eight where the network takes them."""
    declared = quiet_session(path, 1).get_inputs()[0].shape
    one = (1, *declared[1:])
    return [one] if declared[0] == 1 else [one, (8, *declared[1:])]


def report(path: Path, shape: tuple[int, ...], threads: int, rounds: int) -> None:
    with_ort, dtype = onnx_runtime(path, threads)
    image = np.random.default_rng(1).integers(0, 256, shape).astype(dtype)
    runs: list[Run] = [lambda: with_ort(image), lambda: with_ov(image)]
    with_ov = openvino(path, threads, "f32")
    seconds = np.array([[clock(run) for run in runs] for _ in range(rounds + WARM_UP)])[WARM_UP:]
    ours, theirs = runs[0](), runs[1]()
    difference = max(float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True))
    as_they_come = openvino(path, threads, None)(image)
    milliseconds = 1000 * np.median(seconds, axis=0)
    ratio = float(np.median(seconds[:, 1] / seconds[:, 0]))
    name = "/".join(path.parts[-2:])[-40:]
    print(
        f"{name:<42}{'×'.join(map(str, shape)):<18}{threads:>7}{milliseconds[0]:>9.2f}{milliseconds[1]:>9.2f}"
        f"{ratio:>8.3f}{difference:>13.2e}{lowest_cosine(ours[0], as_they_come[0]):>11.6f}",
        flush=True,
    )


def onnx_runtime(path: Path, threads: int) -> tuple[Callable[[NDArray[Any]], list[NDArray[Any]]], type]:
    session = quiet_session(path, threads)
    [image] = session.get_inputs()
    return lambda x: session.run(None, {image.name: x}), np.uint8 if "uint8" in image.type else np.float32


def quiet_session(path: Path, threads: int) -> ort.InferenceSession:
    """A published file makes ONNX Runtime warn of every weight."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def openvino(path: Path, threads: int, precision: str | None) -> Callable[[NDArray[Any]], list[NDArray[Any]]]:
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
        **({"INFERENCE_PRECISION_HINT": precision} if precision else {}),
    }
    request = ov.Core().compile_model(path, "CPU", settings).create_infer_request()
    return lambda x: [np.array(output) for output in request.infer([x]).values()]


def clock(run: Run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def lowest_cosine(a: NDArray[Any], b: NDArray[Any]) -> float:
    a, b = (x.reshape(-1, x.shape[-1]).astype(np.float64) for x in (a, b))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / lengths).min())


if __name__ == "__main__":
    main()
