"""A bundle in another precision, made of a bundle that is there; offered only if that is worth it here.

Worth it: faster on this machine, or half the size, and parity within the limits of ``export.parity``. Its contract
differs, so its embeddings are never compared with those of the bundle it was made of, and the calibration is not
carried over.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from export.accuracy import Lfw, compare_accuracy
from export.adopt import DETECTOR_FILE, EMBEDDER_FILE, gpu_embedder, serialise, written
from export.folder import check_folder
from export.graph import stamp
from export.parity import LIMITS, closeness, face_crops, parity_on_gpu
from export.precision import to_float16, to_int8, to_int8_weights
from export.stopwatch import clock_for, race
from service.errors import BundleError, DeviceError, InvalidImage, InvalidRequest
from service.progress import track
from service.recognition.recognizer import Recognizer
from service.recognition.types import Detector
from service.runtime.bundle import Bundle, open_bundle
from service.runtime.card import Card, EmbeddingContract, Parity, Precision
from service.runtime.networks import (
    METADATA_CONTRACT,
    METADATA_FUSION,
    EmbedderNetwork,
    RuntimeOptions,
    open_networks,
)

CALIBRATION_CROPS = 64
MIN_CALIBRATION_CROPS = 16
# Faster by more than a clock errs; half the size, but for the graph itself, which no precision makes smaller.
MIN_SPEEDUP, MAX_SIZE = 1.05, 0.51
SECONDS = 2.0
PHOTOS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})


@dataclass(frozen=True)
class QuantizeOptions:
    """What is to be made.

    Attributes:
        precision: any but float32.
        photos: folder of photos whose faces int8 is calibrated on; they may lie in sub-folders.
        lfw: labelled pairs to compare the accuracy before and after on.
    """

    precision: Precision
    photos: Path | None = None
    lfw: Lfw | None = None


@dataclass(frozen=True)
class Report:
    """What was measured, and what came of it.

    Attributes:
        speedup: time for one crop in float32, divided by that in the new precision, on ``provider``.
        size: bytes of the new embedder, divided by those of the float32 one.
        refused: why there is no bundle; empty where there is one.
    """

    precision: Precision
    provider: str
    speedup: float
    size: float
    size_bytes: int
    calibration_crops: int
    parity: dict[str, Any]
    refused: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON-serialisable."""
        return asdict(self)


def quantize(source: Path, out: Path, options: QuantizeOptions) -> tuple[Card, Report]:
    """Make the bundle ``out`` of the bundle in the folder ``source``; all or nothing. Its name is that of the folder.

    Raises:
        InvalidRequest: an argument that cannot be used.
        BundleError: no sound bundle, or the form is not worth it or not good enough; ``details`` are the report.
    """
    out = out.resolve()
    check_folder(out, out.name)
    bundle = open_bundle(source)
    if bundle.card.contract.precision != "float32" or options.precision == "float32":
        raise InvalidRequest(
            f"{source} is {bundle.card.contract.precision}, and {options.precision} is asked for; from float32 to "
            "another precision is what can be made."
        )
    detector, before, provider = _as_served(bundle.detector, bundle.embedder, bundle.card.contract)
    alignment = bundle.card.contract.alignment
    recognizer = Recognizer(detector, before, alignment.template, alignment.size)
    calibration = _calibration_crops(recognizer, options)
    model = _convert(onnx.load_model_from_string(bundle.embedder), options.precision, calibration)
    contract = _contract(bundle.card.contract, options.precision, model)
    stamp(model, {METADATA_CONTRACT: contract.digest(), METADATA_FUSION: contract.fusion})
    content = serialise(model)
    after = open_networks(bundle.detector, content, contract, provider)[1]
    crops = face_crops(recognizer)

    seconds = race(
        {"before": partial(before, crops[:1]), "after": partial(after, crops[:1])},
        SECONDS,
        clock_for(before.provider, provider.threads),
    )
    speedup, size = seconds["before"] / seconds["after"], len(content) / len(bundle.embedder)
    parity, failed = _parity(bundle, (content, contract, after), crops, detector, options)
    worth = speedup >= MIN_SPEEDUP or size <= MAX_SIZE
    if not worth:
        failed.append(f"it is neither faster here ({speedup:.2f} ×) nor half the size ({100 * size:.0f} %)")
    report = Report(
        options.precision,
        before.provider,
        round(speedup, 3),
        round(size, 4),
        len(content),
        0 if calibration is None else len(calibration),
        parity.model_dump(mode="json"),
        tuple(failed),
    )
    if failed:
        raise BundleError(f"No bundle was made in {options.precision}: {'; '.join(failed)}.", report.to_json())
    card = _card(bundle.card, out.name, contract, content, parity)
    out.parent.mkdir(parents=True, exist_ok=True)
    with written(card, bundle.detector, content, out.parent) as folder:
        folder.rename(out)
    return open_bundle(out).card, report


def _as_served(
    detector: bytes, embedder: bytes, contract: EmbeddingContract
) -> tuple[Detector, EmbedderNetwork, RuntimeOptions]:
    """The networks on the provider that the service takes by default, and which that is."""
    options = RuntimeOptions()
    try:
        return *open_networks(detector, embedder, contract, options), options
    except DeviceError:
        options = RuntimeOptions(provider="cpu")
        return *open_networks(detector, embedder, contract, options), options


def _convert(model: ModelProto, precision: Precision, calibration: NDArray[np.uint8] | None) -> ModelProto:
    if calibration is not None:
        return to_int8(model, calibration)
    return to_float16(model) if precision == "float16" else to_int8_weights(model)


def _calibration_crops(recognizer: Recognizer, options: QuantizeOptions) -> NDArray[np.uint8] | None:
    """Faces of as many photos as are needed, spread over the folder."""
    if options.precision != "int8":
        if options.photos is not None:
            raise InvalidRequest(f"{options.precision} needs no calibration; leave the photos out.")
        return None
    if options.photos is None:
        raise InvalidRequest("int8 is calibrated on faces; give a folder of photos, of those that will be seen.")
    photos = sorted(path for path in options.photos.rglob("*") if path.suffix.lower() in PHOTOS)
    step = max(1, len(photos) // CALIBRATION_CROPS)
    crops = []
    for path in track(
        photos[::step][:CALIBRATION_CROPS], "calibrating", len(photos[::step][:CALIBRATION_CROPS]), "photo"
    ):
        try:
            image = recognizer.decode(path.read_bytes())
        except InvalidImage:
            continue
        crops += [recognizer.crop(image, face) for face in recognizer.detect(image)[:1]]
    if len(crops) < MIN_CALIBRATION_CROPS:
        raise InvalidRequest(
            f"{options.photos} has {len(crops)} photos with a face among {len(photos)}; "
            f"{MIN_CALIBRATION_CROPS} are needed, {CALIBRATION_CROPS} are used."
        )
    return np.stack(crops)


def _contract(contract: EmbeddingContract, precision: Precision, model: ModelProto) -> EmbeddingContract:
    stamp(model, {})
    network = hashlib.sha256(serialise(model)).hexdigest()
    quantised = network if precision.startswith("int8") else None
    return contract.model_copy(update={"precision": precision, "quantised": quantised})


def _parity(
    bundle: Bundle,
    after: tuple[bytes, EmbeddingContract, EmbedderNetwork],
    crops: NDArray[np.uint8],
    detector: Detector,
    options: QuantizeOptions,
) -> tuple[Parity, list[str]]:
    """The figures, and what is past its limit."""
    content, contract, network = after
    limits = LIMITS[options.precision]
    reference = open_networks(bundle.detector, bundle.embedder, bundle.card.contract, RuntimeOptions(provider="cpu"))[1]
    expected = reference(crops)[0]
    on_cpu = open_networks(bundle.detector, content, contract, RuntimeOptions(provider="cpu"))[1]
    found = closeness(expected, on_cpu, crops)
    parity = bundle.card.parity.model_copy(update={**asdict(found), "gpu": None, "accuracy": None})
    failed: list[str] = []

    def gate(check: Any) -> Any:
        try:
            return check()
        except BundleError as error:
            failed.append(error.message.removeprefix("Parity failed: ").removesuffix(". No bundle was made."))
            return None

    gate(lambda: found.require(limits))
    if (gpu := gpu_embedder(bundle.detector, content, contract)) is not None:
        parity = parity.model_copy(update={"gpu": gate(lambda: parity_on_gpu(expected, gpu, crops, limits))})
    if options.lfw is not None and not failed:
        alignment = contract.alignment
        recognizer = Recognizer(detector, network, alignment.template, alignment.size)
        lfw = options.lfw
        accuracy = gate(lambda: compare_accuracy(lfw, recognizer, reference, limits))
        parity = parity.model_copy(update={"accuracy": accuracy})
    return parity, failed


def _card(card: Card, name: str, contract: EmbeddingContract, content: bytes, parity: Parity) -> Card:
    embedder = card.embedder.model_copy(
        update={"file": EMBEDDER_FILE, "sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    )
    changed: Mapping[str, object] = {
        "name": name,
        "description": f"{card.description} In {contract.precision}, made of {card.name} {card.version}.",
        "detector": card.detector.model_copy(update={"file": DETECTOR_FILE}),
        "embedder": embedder,
        "contract": contract,
        "embedding_contract": contract.digest(),
        "parity": parity,
        "graph": None,
        "calibration": None,
    }
    # Validated anew, unlike a copy.
    return Card.model_validate(card.model_copy(update=changed).model_dump(mode="json", by_alias=True))
