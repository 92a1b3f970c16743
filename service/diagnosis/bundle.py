"""The bundle that is to be served."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from service.diagnosis.finding import Finding
from service.errors import BundleError

if TYPE_CHECKING:
    from service.settings import Settings


def bundle(settings: "Settings") -> Iterator[Finding]:
    """There, what its card says, the card as it was made, and what may be done with it."""
    from service.runtime.bundle import bundles_dir, card_digest, locate, open_bundle

    try:
        opened = open_bundle(locate(settings.bundle, settings.data_dir))
    except BundleError as error:
        yield Finding("bundle", "fail", error.message, f"likeness pull {settings.bundle} --force makes it anew.")
        return
    card = opened.card
    known = opened.path.parent == bundles_dir(settings.data_dir).resolve()
    if known and not opened.path.name.endswith(f"-{card_digest(opened.path)}"):
        yield Finding(
            "bundle",
            "fail",
            f"{opened.path / 'card.json'} was changed after the bundle was made",
            f"likeness pull {card.name} --force makes it anew.",
        )
    else:
        size = (len(opened.detector) + len(opened.embedder)) / 1e6
        found = f"{card.name} {card.version} in {opened.path}, {size:.0f} MB, every digest is right"
        yield Finding("bundle", "ok", found)
    if card.licence.commercial_use:
        yield Finding("licence", "ok", f"{card.licence.spdx}, commercial use permitted")
    else:
        yield Finding(
            "licence",
            "warn",
            f"{card.licence.spdx}: NOT for commercial use ({card.licence.url})",
            "For commercial use serve another bundle: likeness pull open.",
        )
    if card.calibration is None:
        yield Finding(
            "calibration",
            "warn",
            "none: error rates (fmr, fpir) cannot be asked for, only thresholds",
            "docs/thresholds.md: likeness calibrate.",
        )
    else:
        yield Finding("calibration", "ok", f"on {card.calibration.dataset}")
