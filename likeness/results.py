"""What calls about photos answer with. All of it is frozen; coordinates are pixels of the upright image."""

from dataclasses import dataclass

from likeness.parsing import Vector

Interval = tuple[float, float]
"""A 95 % interval."""


@dataclass(frozen=True)
class Box:
    """Where a face is; may reach outside the image where the face does."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Quality:
    """Measures of a face, as docs/quality.md explains them."""

    inter_eye_distance: float
    roll_degrees: float
    yaw_degrees: float
    pitch_degrees: float
    brightness: float
    contrast: float
    clipped: float
    sharpness: float
    detection_score: float
    feature_norm: float | None = None


@dataclass(frozen=True)
class Face:
    """A face that was found. ``landmarks``: left eye, right eye, nose tip, left and right mouth corner, as seen by
    the viewer."""

    box: Box
    landmarks: tuple[tuple[float, float], ...]
    detection_score: float
    quality: Quality


@dataclass(frozen=True)
class EmbeddedFace(Face):
    """``embedding`` has unit length; ``feature_norm`` is low for poor images."""

    embedding: Vector
    feature_norm: float


@dataclass(frozen=True)
class ImageSize:
    width: int
    height: int


@dataclass(frozen=True)
class Detection:
    """All faces of a photo, largest first."""

    image: ImageSize
    faces: tuple[Face, ...]


@dataclass(frozen=True)
class Embedded:
    """Embeddings can be compared only under the same ``embedding_contract``."""

    embedding_contract: str
    faces: tuple[EmbeddedFace, ...]


@dataclass(frozen=True)
class OperatingPoint:
    """A match is ``similarity >= threshold``. A rate is None where the calibration cannot say."""

    threshold: float
    fmr: float | None = None
    fnmr: float | None = None
    calibration_id: str | None = None
    fmr_interval: Interval | None = None
    fnmr_interval: Interval | None = None
    extrapolated: bool = False


@dataclass(frozen=True)
class Comparison:
    """``similarity`` is the cosine, -1 to 1."""

    match: bool
    similarity: float
    operating_point: OperatingPoint


@dataclass(frozen=True)
class PersonComparison(Comparison):
    """``embedding_contract``: under which the person was compared."""

    embedding_contract: str | None = None


@dataclass(frozen=True)
class Verification(Comparison):
    """``faces_found`` is how many there are in each of the two photos."""

    face_a: Face
    face_b: Face
    faces_found: tuple[int, int]


@dataclass(frozen=True)
class Health:
    status: str


@dataclass(frozen=True)
class Bundle:
    """The networks that answer, and whether their licence permits commercial use."""

    name: str
    version: str
    licence: str
    commercial_use: bool


@dataclass(frozen=True)
class LoadedBundle(Bundle):
    """A bundle that serves the galleries of its contract."""

    embedding_contract: str
    embedding_dimension: int
    calibration_id: str | None = None


@dataclass(frozen=True)
class Provider:
    """What the networks run on, as ONNX Runtime names it."""

    detector: str
    embedder: str


@dataclass(frozen=True)
class Calibration:
    """What the error rates rest on."""

    calibration_id: str
    dataset: str
    dataset_sha256: str
    persons: int
    photos: int
    genuine: int
    impostor: int
    smallest_fmr: float
    effective_impostor: float | None = None
    smallest_extrapolated_fmr: float | None = None


@dataclass(frozen=True)
class Limits:
    max_body_bytes: int
    max_pixels: int
    min_face_size: float
    media_types: tuple[str, ...]


@dataclass(frozen=True)
class SearchMode:
    """``exact``: a search gives the candidates that comparing the probe with every enrolled face gives; ``indexed``:
    large galleries are searched through an index, which may miss one."""

    mode: str
    device: str


@dataclass(frozen=True)
class Alignment:
    """What the embedder sees of a face: ``size`` pixels square, with the landmarks at ``template``."""

    size: int
    template: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Info:
    """What runs there. ``bundles`` are all that are loaded, the default one first."""

    version: str
    bundle: Bundle
    embedding_contract: str
    embedding_dimension: int
    provider: Provider
    operating_points: tuple[OperatingPoint, ...]
    limits: Limits
    calibration: Calibration | None = None
    gallery_backend: str | None = None
    search: SearchMode | None = None
    alignment: Alignment | None = None
    bundles: tuple[LoadedBundle, ...] = ()
