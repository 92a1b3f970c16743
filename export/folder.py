"""Bundles that are in no catalogue, each in a folder of the user's choice."""

import errno
import hashlib
import os
import re
from dataclasses import replace
from pathlib import Path

from export.accuracy import Lfw
from export.adopt import Draft, making_bundle
from export.catalog import CatalogFile
from export.published import Features
from service.errors import InvalidRequest
from service.runtime.bundle import open_bundle
from service.runtime.card import BUNDLE_NAME, Calibration, Card, Licence


def check_folder(out: Path, name: str) -> None:
    """Before anything is done: can ``out`` be made, and is ``name`` one that a bundle can have?

    Raises:
        InvalidRequest: it is there already, or the name cannot be.
        NotADirectoryError: a file is in its way.
    """
    if not re.fullmatch(BUNDLE_NAME, name):
        raise InvalidRequest(f"{name!r} is no name for a bundle: up to 64 small letters, digits, and . _ - inside.")
    if out.exists():
        raise InvalidRequest(f"{out} exists already; give a folder that is not there.")
    above = next(folder for folder in out.parents if folder.exists())
    if not above.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(above))


def own_embedder(path: Path, licence: Licence) -> CatalogFile:
    """A user's embedder, described as the catalogue describes a published one."""
    content = path.read_bytes()
    return CatalogFile(
        name=path.name,
        role="embedder",
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        licence=licence,
        official="",
        mirrors=(),
    )


def make_folder(
    draft: Draft, published: tuple[Path, Features], out: Path, calibration: Path | None, lfw: Lfw | None = None
) -> Card:
    """Make the bundle in ``out``, all or nothing.

    Args:
        published: what it is measured against, as ``making_bundle`` takes it.
        out: a folder that is not there yet.
        calibration: ``calibration.json`` of an evaluation of this very bundle.
        lfw: labelled pairs to compare accuracies on.

    Raises:
        InvalidRequest: the calibration is of another bundle.
        BundleError: parity past its limit, or a bundle that contradicts itself.
    """
    if calibration is not None:
        draft = replace(draft, calibration=_calibration(calibration, draft))
    out.parent.mkdir(parents=True, exist_ok=True)
    with making_bundle(draft, published, out.parent, lfw) as folder:
        folder.rename(out)
    return open_bundle(out).card


def _calibration(path: Path, draft: Draft) -> Calibration:
    try:
        calibration = Calibration.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"{path} cannot be read as a calibration: {error}") from error
    contract, detector = draft.contract.digest(), draft.recipe.detector.sha256
    if (calibration.embedding_contract, calibration.detector) != (contract, detector):
        raise InvalidRequest(
            f"{path} was measured under contract {calibration.embedding_contract[:16]}… with detector "
            f"{calibration.detector[:16]}…; this bundle has {contract[:16]}… and {detector[:16]}…. Measure it anew."
        )
    return calibration
