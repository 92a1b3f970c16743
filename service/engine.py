"""What the service can do with photos, independent of how it is asked; the HTTP routes and the command line call it."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from service.decision.quality_policy import QualityPolicy, require_quality
from service.decision.thresholds import OperatingPoint, Thresholds
from service.errors import InvalidRequest, ModelMismatch
from service.metrics import VERIFY_SIMILARITY, stage
from service.recognition.decode import decode
from service.recognition.quality import Quality, measure
from service.recognition.recognizer import RecognitionOptions, Recognizer
from service.recognition.select import FacePolicy, OneFacePolicy, select_faces
from service.recognition.tilt import TiltOptions
from service.recognition.types import EmbeddedFace, Face, Image
from service.runtime.batching import NetworkBatches
from service.runtime.bundle import locate, open_bundle
from service.runtime.card import Card
from service.runtime.decoders import Decoders
from service.runtime.fleet import devices_for, shared
from service.runtime.networks import RuntimeOptions, available_cores, open_networks
from service.runtime.tuning import plan_for
from service.settings import Settings

# Embeddings that come from outside are checked to be of unit length within this.
UNIT_TOLERANCE = 1e-3

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FoundFace:
    """A face with its measures."""

    face: Face
    quality: Quality


@dataclass(frozen=True)
class Subject:
    """The one person that a photo is about, and how many faces the photo shows in all.

    Attributes:
        others: embeddings of the same face by other bundles, (d,) of unit length, by their contracts.
    """

    found: FoundFace
    embedded: EmbeddedFace
    faces_found: int
    others: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """Two embeddings against an operating point. ``similarity`` is the cosine, -1 to 1."""

    similarity: float
    point: OperatingPoint

    @property
    def match(self) -> bool:
        return self.similarity >= self.point.threshold


class Engine:
    """One bundle at work. Thread-safe."""

    def __init__(
        self,
        card: Card,
        recognizer: Recognizer,
        providers: tuple[str, str],
        photo_threads: int | None = None,
        decoders: Decoders | None = None,
    ) -> None:
        """
        Args:
            providers: what the detector and the embedder really run on.
            photo_threads: how many photos are best worked on at once; None for one a core.
            decoders: the processes that the recognizer decodes in, if it does.
        """
        self.card = card
        self.recognizer = recognizer
        self.thresholds = Thresholds(card.calibration)
        self.providers = providers
        self.photo_threads = photo_threads or available_cores()
        self.decoders = decoders

    @property
    def contract(self) -> str:
        """The digest of everything that changes an embedding."""
        return self.card.embedding_contract

    def warm_up(self) -> None:
        """Run both networks once, so that the first request does not pay for their allocations; wait for decoders."""
        size = self.card.contract.alignment.size
        self.recognizer.detect(Image(np.zeros((256, 256, 3), np.uint8)))
        self.recognizer.embed_crops([np.zeros((size, size, 3), np.uint8)] * 2)
        if self.decoders is not None:
            self.decoders.warm_up()

    def detect(self, content: bytes) -> tuple[Image, list[FoundFace]]:
        """All faces of an encoded photo, largest first."""
        image, faces = self._found(content)
        with stage("align"):
            return image, [FoundFace(face, self.recognizer.quality(image, face)) for face in faces]

    def embed(self, content: bytes, policy: FacePolicy) -> tuple[Image, list[tuple[FoundFace, EmbeddedFace]]]:
        """Embeddings of the faces that ``policy`` chooses."""
        image, faces, _ = self._faces(content, policy, "image")
        embedded = self._embedded(image, faces)
        return image, [(_measured(e), e) for e in embedded]

    def embed_again(self, image: Image, embedded: Sequence[EmbeddedFace], finder: "Engine") -> NDArray[np.float32]:
        """Faces that the bundle ``finder`` has found, under this bundle's contract: (k, d), in their order.

        Where both align alike, the crop that is there is embedded; else it is cut out anew from the same landmarks.
        """
        if not embedded:
            return np.zeros((0, self.card.contract.dimension), np.float32)
        alike = self.card.contract.alignment == finder.card.contract.alignment
        with stage("align"):
            crops = [face.crop if alike else self.recognizer.crop(image, face.face) for face in embedded]
        with stage("embed"):
            return self.recognizer.embed_crops(crops)[0]

    def subject(
        self,
        content: bytes,
        policy: OneFacePolicy,
        name: str,
        quality: QualityPolicy = "off",
        others: Sequence["Engine"] = (),
    ) -> Subject:
        """The one person that an encoded photo is about; ``name`` stands for the photo in error messages.

        Args:
            others: bundles under whose contracts the face is embedded, too.

        Raises:
            UnusableInput: no face, several, or one below the limits of the ``quality`` policy.
        """
        image, [face], faces_found = self._faces(content, policy, name)
        [embedded] = self._embedded(image, [face])
        found = _measured(embedded)
        require_quality(found.quality, quality, self.card.calibration, name)
        again = {other.contract: other.embed_again(image, [embedded], self)[0] for other in others}
        return Subject(found, embedded, faces_found, again)

    def compare(self, a: Sequence[float], b: Sequence[float], contract: str, point: OperatingPoint) -> Comparison:
        """Two embeddings made earlier.

        Raises:
            ModelMismatch: they were made under another contract than this bundle's.
            InvalidRequest: wrong dimension, or not of unit length.
        """
        self.require_contract(contract)
        return compared(self.template("a", a), self.template("b", b), point)

    def require_contract(self, contract: str) -> None:
        """Raises ModelMismatch if embeddings were made under another contract than this bundle's."""
        if contract != self.card.embedding_contract:
            raise ModelMismatch(
                f"The embeddings were made under contract {contract[:16]!r}…, this service runs "
                f"{self.card.embedding_contract[:16]!r}…; embed the photos again.",
                {"embedding_contract": self.card.embedding_contract},
            )

    def template(self, name: str, values: Sequence[float]) -> NDArray[np.float32]:
        """An embedding from outside, (d,); ``name`` stands for it in error messages.

        Raises:
            InvalidRequest: wrong dimension, or not of unit length.
        """
        vector = np.asarray(values, np.float64)
        if vector.shape != (self.card.contract.dimension,):
            raise InvalidRequest(
                f"{name} has {vector.size} components; embeddings of this bundle have {self.card.contract.dimension}.",
                {"field": name, "dimension": self.card.contract.dimension},
            )
        length = float(np.linalg.norm(vector))
        if not abs(length - 1) <= UNIT_TOLERANCE:
            raise InvalidRequest(f"{name} has length {length:.6g}; embeddings have unit length.", {"field": name})
        return (vector / length).astype(np.float32)

    def _found(self, content: bytes) -> tuple[Image, list[Face]]:
        with stage("decode"):
            image = self.recognizer.decode(content)
        with stage("detect"):
            return image, self.recognizer.detect(image)

    def _embedded(self, image: Image, faces: Sequence[Face]) -> list[EmbeddedFace]:
        with stage("align"):
            crops = [self.recognizer.crop(image, face) for face in faces]
        with stage("embed"):
            return self.recognizer.embed_aligned(faces, crops)

    def _faces(self, content: bytes, policy: FacePolicy, what: str) -> tuple[Image, list[Face], int]:
        image, faces = self._found(content)
        return image, select_faces(faces, policy, self.recognizer.options.min_face_size, what), len(faces)


def _measured(embedded: EmbeddedFace) -> FoundFace:
    return FoundFace(embedded.face, measure(embedded.face, embedded.crop, embedded.feature_norm))


def compare_subjects(a: Subject, b: Subject, point: OperatingPoint) -> Comparison:
    """Are they one person?"""
    return compared(a.embedded.embedding, b.embedded.embedding, point)


def compared(a: NDArray[np.floating], b: NDArray[np.floating], point: OperatingPoint) -> Comparison:
    """Two embeddings of unit length; counted."""
    comparison = Comparison(cosine(a, b), point)
    VERIFY_SIMILARITY.labels("match" if comparison.match else "no_match").observe(comparison.similarity)
    return comparison


def cosine(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Of two vectors of unit length up to rounding: accumulated in float64, kept within -1 to 1."""
    return float(np.clip(np.dot(a.astype(np.float64), b.astype(np.float64)), -1.0, 1.0))


def load_engine(
    settings: Settings, strangers: bool = False, bundle: str | None = None, beside: Engine | None = None
) -> Engine:
    """Open the bundle that ``settings`` name, on the provider they name.

    Args:
        strangers: photos come from strangers, so that they are decoded in processes of their own.
        bundle: another one in its place, by name or folder.
        beside: an engine that is there already, whose decoders are used.

    Raises:
        BundleError, DeviceError: see ``service.runtime``.
    """
    # Photos are worked on side by side, a thread each; OpenCV's own threads would only get in their way.
    cv2.setNumThreads(1)
    opened = open_bundle(locate(bundle or settings.bundle, settings.data_dir))
    contract = opened.card.contract
    threads = settings.threads if "threads" in settings.model_fields_set else None
    gpus = devices_for(settings.provider, settings.gpus)
    plan = plan_for(settings.data_dir, opened.card, settings.provider, threads, gpus[0])
    log.info("%s", plan)
    pairs = [
        open_networks(opened.detector, opened.embedder, contract, runtime_options(settings, gpu, plan.threads))
        for gpu in gpus
    ]
    detector, embedder = pairs[0]
    options = RecognitionOptions(
        max_pixels=settings.max_pixels,
        min_face_size=settings.min_face_size,
        tilt=TiltOptions() if opened.card.straighten else None,
    )
    photo_threads = len(pairs) * plan.photo_threads
    decoders = beside.decoders if beside is not None else None
    if strangers and decoders is None:
        decoders = Decoders(photo_threads, settings.max_pixels)
    networks = shared(pairs, NetworkBatches(plan.detector, plan.embedder))
    recognizer = Recognizer(
        *networks, contract.alignment.template, contract.alignment.size, options, decoders or decode
    )
    return Engine(opened.card, recognizer, (detector.provider, embedder.provider), photo_threads, decoders)


def runtime_options(settings: Settings, gpu: int, threads: int = 1) -> RuntimeOptions:
    """How networks are run on one of the GPUs that ``settings`` name, or on the CPU with so many threads."""
    return RuntimeOptions(
        settings.provider,
        threads,
        gpu,
        settings.gpu_memory_mib,
        settings.gpu_graphs,
        settings.data_dir / "engines",
    )
