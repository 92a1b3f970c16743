"""Training data: faces by row with their identities, from a folder of photos or from RecordIO."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.config import Config, Data
from models.crops import cached_crops, photos_of
from models.recordio import RecordFile
from service.engine import load_engine
from service.evaluation.photos import persons_of
from service.runtime.card import Alignment
from service.settings import read_settings

# Where InsightFace's aligned sets have the landmarks, (x, y) in 112×112 (arcface_torch; SFace's crops are the same).
INSIGHTFACE = Alignment.model_validate(
    {
        "size": 112,
        "template": [
            [38.2946, 51.6963],
            [73.5318, 51.5014],
            [56.0252, 71.7366],
            [41.5493, 92.3655],
            [70.7299, 92.2041],
        ],
    }
)


@dataclass(frozen=True, eq=False)
class Faces:
    """Aligned crops by row.

    Attributes:
        labels: (n,) int64, the identity of each, 0 to ``len(identities)`` − 1.
        identities: their names.
        read: from a row to uint8 (s, s, 3) RGB; called from several threads.
        alignment: how the crops were cut.
        digest: of where they come from, hexadecimal.
    """

    labels: NDArray[np.int64]
    identities: tuple[str, ...]
    read: Callable[[int], NDArray[np.uint8]]
    alignment: Alignment
    digest: str

    def __len__(self) -> int:
        return len(self.labels)

    def of(self, chosen: Sequence[str]) -> "Faces":
        """Only these identities, numbered in this order.

        Raises:
            ValueError: one is not there, or is named twice.
        """
        number = {name: k for k, name in enumerate(chosen)}
        if unknown := sorted(number.keys() - set(self.identities)):
            raise ValueError(f"{len(unknown)} identities have no usable face here, the first being {unknown[0]!r}")
        if len(number) < len(chosen):
            raise ValueError("an identity is named twice")
        new = np.array([number.get(name, -1) for name in self.identities])[self.labels]
        rows = np.flatnonzero(new >= 0)
        return Faces(new[rows], tuple(chosen), lambda row: self.read(int(rows[row])), self.alignment, self.digest)


def load_data(config: Config) -> tuple[Faces, Faces | None]:
    """The faces to train on, and those of the identities that are held out, if any.

    Photos without a usable face are listed on stderr.

    Raises:
        ValueError: there are none, or not in this format; or an identity that is asked for is not there.
    """
    data, validation = config.data, config.validation
    if data.format == "records":
        faces = record_faces(data.path)
    else:
        faces = folder_faces(data, data.cache or config.training.out / "crops")
    names = faces.identities if data.identities is None else _read_names(data.identities)
    if validation.identities is not None:
        held_out = _read_names(validation.identities)
    else:
        chance = np.random.default_rng(validation.seed).permutation(len(names))
        held_out = [names[k] for k in sorted(chance[: round(validation.share * len(names))])]
    excluded = set(held_out)
    return faces.of([name for name in names if name not in excluded]), faces.of(held_out) if held_out else None


def record_faces(folder: Path) -> Faces:
    """Faces of an InsightFace RecordIO folder; identities are named by their numbers.

    Raises:
        ValueError: not such a folder, or crops of another size than 112×112.
    """
    file = RecordFile(folder)
    if file.size != (INSIGHTFACE.size, INSIGHTFACE.size):
        raise ValueError(f"{folder} has crops of {file.size}, of which the alignment is not known; 112×112 is")
    identities = tuple(str(k) for k in range(file.identities))
    return Faces(file.labels, identities, file.read, INSIGHTFACE, file.digest)


def folder_faces(data: Data, cache: Path) -> Faces:
    """Faces of a folder of photos, one sub-folder a person; see ``models.crops``."""
    engine = load_engine(read_settings(bundle=data.bundle, data_dir=data.data_dir))
    names = photos_of(data.path, data.min_photos)
    crops = cached_crops(data.path, names, cache, engine, data.size, data.workers)
    for name in crops.without_face:
        print(f"no usable face: {data.path / name}", file=sys.stderr)
    identities, labels = persons_of(crops.names)
    return Faces(labels, identities, lambda row: crops.pixels[row], crops.alignment, crops.digest)


def _read_names(path: Path) -> list[str]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError as error:
        raise ValueError(f"the list of identities {path} cannot be read: {error}") from error
    return [line for line in lines if line.strip()]
