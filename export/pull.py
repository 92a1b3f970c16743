"""Obtain a catalogue bundle: fetch the published files, adopt them. What ``likeness pull`` does."""

import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from export.calibration import shipped
from export.catalog import BundleRecipe, CatalogFile, load_catalog
from service.errors import BundleError, InvalidRequest
from service.runtime.bundle import bundles_dir, card_digest, open_bundle
from service.runtime.card import Card

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pulled:
    """A bundle that is ready to be served. ``fresh``: it was made just now."""

    path: Path
    card: Card
    fresh: bool


def pull(name: str, data_dir: Path, force: bool = False, accepted: Collection[str] = ()) -> Pulled:
    """Make the catalogue bundle ``name`` available in ``data_dir``.

    A sound bundle made from the catalogue's present recipe is left as it is, without any network; its licence was
    accepted when it was made.

    Args:
        force: fetch what is missing and adopt again.
        accepted: names (SPDX) of the licences without commercial use that the user accepts.

    Raises:
        InvalidRequest: a licence that does not permit commercial use was not accepted; nothing was fetched.
        BundleError: no such bundle, what adopting it needs is not installed, or adoption failed.
        DownloadError: a file could not be had.
    """
    recipe = load_catalog().bundle(name)
    present = bundles_dir(data_dir) / name
    if present.is_dir() and not force:
        try:
            card = open_bundle(present).card
        except BundleError as error:
            log.warning("%s Making it again.", error)
        else:
            # An edited card can be consistent in itself; its folder's name gives it away.
            edited = present.resolve().name != f"{name}-{card_digest(present)}"
            if not edited and _is_current(card, recipe):
                return Pulled(present.resolve(), card, fresh=False)
    require_accepted(f"The weights of bundle {name} are", recipe.files, accepted)
    # onnx and insightface take a second to load, and are not needed where the bundle is there.
    from export.adopt import adopt
    from export.embedder_file import require_means
    from export.fetch import fetch_all

    require_means(recipe.embedder)
    detector, embedder = fetch_all(recipe.files, data_dir / "downloads")
    path = adopt(recipe, detector, embedder, data_dir)
    return Pulled(path, open_bundle(path).card, fresh=True)


def require_accepted(what: str, files: Iterable[CatalogFile], accepted: Collection[str]) -> None:
    """Raises InvalidRequest unless each licence that does not permit commercial use is accepted by its name."""
    needed = {f.licence.spdx: f for f in files if not f.licence.commercial_use}
    missing = [spdx for spdx in needed if spdx not in accepted]
    if missing:
        terms = "; ".join(f"{spdx} permits {needed[spdx].permits} ({needed[spdx].licence.url})" for spdx in missing)
        flags = " ".join(f"--accept-license {spdx}" for spdx in missing)
        raise InvalidRequest(
            f"{what} not free for commercial use: {terms}. Nothing was fetched. If you accept that, add {flags}",
            {"licences": missing},
        )


def _is_current(card: Card, recipe: BundleRecipe) -> bool:
    """Whether adopting now would give the same bundle."""
    made_from = (card.version, card.detector.source.sha256, card.embedder.source.sha256, card.contract.fusion)
    if made_from != (recipe.version, recipe.detector.sha256, recipe.embedder.sha256, recipe.fusion):
        return False
    if card.straighten != recipe.detector.needs_straightening:
        return False
    return card.calibration == shipped(recipe.name, card.embedding_contract, card.detector.source.sha256)
