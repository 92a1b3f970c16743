"""The bundle's card: one schema that ``export`` writes and the service reads.

``card.json`` lies beside the networks and says all there is to know about them. Its content is trusted only after
``service.runtime.bundle`` has compared the digests; its *meaning* is fixed here.
"""

import hashlib
import json
import math
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.errors import BundleError

SCHEMA_VERSION: Literal[1] = 1

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Point = tuple[float, float]
Template = tuple[Point, Point, Point, Point, Point]
Fusion = Literal["none", "sum", "concat"]
Precision = Literal["float32", "float16", "int8", "int8-weights"]
BUNDLE_NAME = r"^[a-z0-9][a-z0-9._-]{0,63}$"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Licence(_Part):
    """Terms of the weights. ``spdx`` is an SPDX expression; ``commercial_use`` is what users ask first."""

    spdx: str
    url: str
    commercial_use: bool


class Source(_Part):
    """The published file a network was made from."""

    file: str
    sha256: Sha256
    url: str
    licence: Licence


class Network(_Part):
    """One ONNX file of the bundle. ``input`` describes its only input, e.g. ``uint8 [n, h, w, 3] RGB``."""

    file: FileName
    sha256: Sha256
    size: int = Field(gt=0)
    input: str
    source: Source


class Alignment(_Part):
    """Where the five landmarks come to lie in the crop: pixels of a ``size`` × ``size`` image, (x, y).

    Order: left eye, right eye, nose tip, left and right mouth corner, as seen by the viewer.
    """

    size: int = Field(ge=16, le=1024)
    template: Template


class Preprocessing(_Part):
    """``(pixel − mean) / scale`` with pixels in 0..255, in this channel order; inside the graph already."""

    channels: Literal["RGB", "BGR"]
    mean: float
    scale: float = Field(gt=0)


class EmbeddingContract(_Part):
    """Everything that changes an embedding. Two embeddings are comparable only when these are all equal.

    Attributes:
        weights: sha256 of the published embedder.
        fusion: how the features of a crop and its mirror image are joined.
        precision: of the weights and of the arithmetic; ``int8-weights`` calculates in float32.
        quantised: digest of the quantised network; None for float32 and float16.
        projection: digest of the PCA that follows the fusion; None without one.
    """

    weights: Sha256
    preprocessing: Preprocessing
    alignment: Alignment
    fusion: Fusion
    dimension: int = Field(ge=2, le=8192)
    precision: Precision
    # Of int8 networks, whose numbers depend on more than the published weights.
    quantised: Sha256 | None = Field(default=None, exclude_if=lambda digest: digest is None)
    # Left out where there is none: embeddings from before there were projections keep their contract.
    projection: Sha256 | None = Field(default=None, exclude_if=lambda digest: digest is None)

    def digest(self) -> str:
        """sha256 of the canonical JSON form; the ``embedding_contract`` that travels with every embedding."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


class GraphForm(_Part):
    """How the embedder's graph was rewritten, without changing its function, for the machine the bundle was made on.

    Attributes:
        rewrites: what was kept.
        speedup: time for one crop without them, divided by that with them.
        provider: the execution provider this was measured on.
    """

    rewrites: Annotated[tuple[str, ...], Field(min_length=1)]
    speedup: float = Field(gt=0)
    provider: str


class Accuracy(_Part):
    """Labeled pairs through the networks before and after, on the same crops.

    Attributes:
        dataset, dataset_sha256: name and digest of the pairs file.
        pairs: how many were compared.
        before, after: mean accuracy over the folds, each at the threshold that is best on the others.
        min_cosine: smallest cosine, over all photos, between a crop's embedding before and after.
    """

    dataset: str
    dataset_sha256: Sha256
    pairs: int = Field(ge=1)
    before: float = Field(ge=0, le=1)
    after: float = Field(ge=0, le=1)
    min_cosine: float


class ProviderParity(_Part):
    """The same comparison of the embedder on a further execution provider; see ``Parity``."""

    provider: str
    min_cosine: float
    max_abs_deviation: float
    max_batch_deviation: float


class Parity(_Part):
    """The adopted networks against the published ones, on the same real crops.

    Attributes:
        crops: how many aligned faces were compared.
        min_cosine: smallest cosine between the embedding here and the published file's, one crop at a time.
        max_abs_deviation: largest difference of one embedding component.
        max_batch_deviation: largest difference between a batch of N and N batches of 1.
        detector_max_px: largest difference of a box side or landmark, in pixels.
        detector_max_score: largest difference of a detection score.
        gpu: the embedder on the GPU, where there was one.
        accuracy: on labelled pairs, where there were any.
    """

    crops: int = Field(ge=1)
    min_cosine: float
    max_abs_deviation: float
    max_batch_deviation: float
    detector_max_px: float
    detector_max_score: float
    # Left out where there is none: cards from before these were measured stay what they are.
    gpu: ProviderParity | None = Field(default=None, exclude_if=lambda parity: parity is None)
    accuracy: Accuracy | None = Field(default=None, exclude_if=lambda accuracy: accuracy is None)


def _optional(**limits: Any) -> Any:
    """A field that came later: left out where it is None, so that calibrations from before keep their digest."""
    return Field(default=None, exclude_if=lambda value: value is None, **limits)


class OperatingPoint(_Part):
    """``similarity >= threshold`` was measured to have these error rates; ``low`` and ``high`` are the ends of their
    95 % intervals."""

    fmr: float = Field(ge=0, le=1)
    threshold: float = Field(ge=-1, le=1)
    fnmr: float = Field(ge=0, le=1)
    fmr_low: float | None = _optional(ge=0, le=1)
    fmr_high: float | None = _optional(ge=0, le=1)
    fnmr_low: float | None = _optional(ge=0, le=1)
    fnmr_high: float | None = _optional(ge=0, le=1)


class Tail(_Part):
    """What a generalised Pareto distribution, fitted to the highest impostor scores, says beyond the data.

    Attributes:
        start_fmr, start_threshold: where it begins: P(score ≥ s) = start_fmr (1 + shape (s − start_threshold) /
            scale)^(−1/shape).
        exceedances: impostor scores that it was fitted to.
        points: as those of the calibration, at rates below them.
    """

    start_fmr: float = Field(gt=0, le=1)
    start_threshold: float = Field(ge=-1, le=1)
    shape: float
    scale: float = Field(gt=0)
    exceedances: int = Field(ge=1)
    points: Annotated[tuple[OperatingPoint, ...], Field(min_length=1)]


class BestOf(_Part):
    """What it does to the error rates that the most similar of a person's k photos counts.

    Of calibrations from before the mean of the photos counted. It stays on the safe side of that.

    FMR(k) = 1 − (1 − FMR)^(k^fmr_exponent); FNMR(k) = FNMR k^(−fnmr_exponent). An exponent of 1 for FMR would mean
    that photos of one person are as good as of k persons, 0 that they are all alike.
    """

    fmr_exponent: float = Field(ge=0, le=1)
    fnmr_exponent: float = Field(ge=0)


class OfMean(_Part):
    """What it does to the error rates that the mean of a person's k photos counts.

    A stranger's similarity to the mean is like that to a single photo, times s with
    s² = (1 + (k − 1) stranger_likeness) / (1 + (k − 1) photo_likeness): FMR(k) at a threshold t is FMR at t / s.
    FNMR(k) is the k-th of ``fnmr_shares``, or the last one, times FNMR at the same threshold.

    Attributes:
        photo_likeness: mean cosine of two photos of one person.
        stranger_likeness: how far the photos of one person agree in how similar a stranger is to them.
    """

    photo_likeness: float = Field(ge=0, le=1)
    stranger_likeness: float = Field(ge=0, le=1)
    fnmr_shares: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(min_length=1)]


class Calibration(_Part):
    """Measured thresholds of this bundle: highest false match rate first, thresholds rising.

    Attributes:
        calibration_id: digest of all the other fields.
        embedding_contract: the embedder that was measured.
        detector: sha256 of the published detector whose landmarks were used.
        dataset, dataset_sha256: name and digest of the pairs file or of the photos.
        genuine, impostor: how many comparisons of one person, and of two persons, were counted.
        effective_impostor: how many independent ones would determine the last point as well.
        feature_norm: median over the photos.
    """

    calibration_id: Sha256
    embedding_contract: Sha256
    detector: Sha256
    dataset: str
    dataset_sha256: Sha256
    persons: int = Field(ge=2)
    photos: int = Field(ge=2)
    genuine: int = Field(ge=1)
    impostor: int = Field(ge=1)
    effective_impostor: float | None = _optional(gt=0)
    points: Annotated[tuple[OperatingPoint, ...], Field(min_length=2)]
    best_of: BestOf | None = _optional()
    of_mean: OfMean | None = _optional()
    tail: Tail | None = _optional()
    feature_norm: float | None = _optional(gt=0)

    @model_validator(mode="after")
    def _ordered_and_intact(self) -> "Calibration":
        points = (*self.points, *(self.tail.points if self.tail else ()))
        for lax, strict in pairwise(points):
            if not (lax.fmr > strict.fmr and lax.threshold <= strict.threshold and lax.fnmr <= strict.fnmr):
                raise ValueError(f"operating points out of order at FMR {strict.fmr:g}")
        comparisons = self.effective_impostor or self.impostor
        # A point's threshold keeps its rate, so the rate it was measured at, and its worth, may be a little lower.
        if self.points[-1].fmr < 3 / comparisons:
            raise ValueError(f"FMR {self.points[-1].fmr:g} is below 3/{comparisons:g} comparisons (rule of 3)")
        if self.calibration_id != self.digest():
            raise ValueError(f"calibration_id {self.calibration_id[:12]}… is not the digest of the figures")
        return self

    def digest(self) -> str:
        """sha256 over everything but the id itself."""
        fields = self.model_dump(mode="json", exclude={"calibration_id"})
        return hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class Card(_Part):
    """All that the service needs to know about a pair of networks."""

    schema_version: Literal[1] = SCHEMA_VERSION
    name: Annotated[str, Field(pattern=BUNDLE_NAME)]
    version: str
    description: str
    licence: Licence
    detector: Network
    embedder: Network
    contract: EmbeddingContract
    embedding_contract: Sha256
    parity: Parity
    graph: GraphForm | None = Field(default=None, exclude_if=lambda form: form is None)
    calibration: Calibration | None = None
    # Whether the detector draws landmarks of tilted heads towards upright ones, so that they are taken again from an
    # upright view. Left out where they are: cards from before there was the question keep their digest.
    straighten: bool = Field(default=True, exclude_if=lambda needed: needed)

    @model_validator(mode="after")
    def _consistent(self) -> "Card":
        if self.embedding_contract != self.contract.digest():
            raise ValueError(f"embedding_contract {self.embedding_contract[:12]}… is not the contract's digest")
        if self.contract.weights != self.embedder.source.sha256:
            raise ValueError("the contract names other weights than the embedder's source")
        if self.calibration and self.calibration.embedding_contract != self.embedding_contract:
            raise ValueError("the calibration was measured under another embedding contract")
        if self.calibration and self.calibration.detector != self.detector.source.sha256:
            raise ValueError("the calibration was measured with another detector")
        if self.contract.precision.startswith("int8") != (self.contract.quantised is not None):
            raise ValueError(
                f"precision {self.contract.precision} and quantised {self.contract.quantised} do not go together"
            )
        if not math.isfinite(self.parity.min_cosine):
            raise ValueError("parity.min_cosine is not a number")
        return self

    def to_json(self) -> str:
        """The text of ``card.json``."""
        return json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"


def read_card(text: str | bytes, where: str) -> Card:
    """Parse and validate ``card.json``.

    Raises:
        BundleError: not JSON, another schema version, or fields that contradict each other.
    """
    try:
        found = json.loads(text)
        version = found.get("schema_version") if isinstance(found, dict) else None
        if isinstance(version, bool) or version != SCHEMA_VERSION:
            raise BundleError(f"{where}: card schema {version!r} is not {SCHEMA_VERSION}, which this version reads.")
        return Card.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(p) for p in first["loc"]) or "card"
        raise BundleError(f"{where}: {place}: {first['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{where}: not JSON: {error}") from error
