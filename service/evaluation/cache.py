"""Embeddings of a folder's photos kept in a file, so that several measurements on one data set embed it once."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from service.errors import InvalidRequest
from service.evaluation.photos import PhotoSet


def cached(embed: Callable[[], PhotoSet], names: Sequence[str], key: str, path: Path | None) -> PhotoSet:
    """What ``embed`` gives, from the file where it was kept the last time.

    Args:
        names: of the photos that are wanted, in this order.
        key: what the embeddings depend on besides the photos, such as the contract. A file of another key or of other
            photos is refused rather than replaced. That a photo of the same name is the same is not checked.
        path: an .npz file; None to keep nothing.
    """
    if path is None:
        return embed()
    if not path.is_file():
        photos = embed()
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            np.savez(
                file,
                names=np.array(photos.names),
                detected=photos.detected,
                embeddings=photos.embeddings,
                seconds=photos.seconds,
                feature_norms=np.full(len(photos.names), np.nan)
                if photos.feature_norms is None
                else photos.feature_norms,
                key=key,
            )
        return photos
    with np.load(path, allow_pickle=False) as kept:
        row_of = {name: row for row, name in enumerate(kept["names"].tolist())}
        if str(kept["key"]) != key or not all(name in row_of for name in names):
            raise InvalidRequest(f"{path} keeps embeddings of other photos or of another bundle; give another file.")
        rows = [row_of[name] for name in names]
        return PhotoSet(
            tuple(names),
            kept["detected"][rows],
            kept["embeddings"][rows],
            float(kept["seconds"]),
            kept["feature_norms"][rows],
        )
