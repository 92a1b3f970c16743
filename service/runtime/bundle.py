"""Finding and opening bundles: digests are compared before anything is loaded.

``<data dir>/bundles/<name>-<digest>/`` holds ``card.json`` and the networks; ``<data dir>/bundles/<name>`` is a link
to the one in use, replaced in one step by ``likeness pull``.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from service.errors import BundleError
from service.runtime.card import Card, Network, read_card

CARD_FILE = "card.json"
MAX_CARD_BYTES = 1_000_000


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files are what its card says. The bytes that were checked are the bytes that get loaded."""

    path: Path
    card: Card
    detector: bytes
    embedder: bytes


def bundles_dir(data_dir: Path) -> Path:
    """Where bundles live."""
    return data_dir / "bundles"


def locate(name: str, data_dir: Path) -> Path:
    """The folder of a bundle given by name or by path.

    Raises:
        BundleError: there is none; the message says how to obtain it.
    """
    by_name = bundles_dir(data_dir) / name
    for candidate in (by_name, Path(name)):
        if (candidate / CARD_FILE).is_file():
            return candidate
    raise BundleError(
        f"There is no bundle {name!r} in {bundles_dir(data_dir)}. Obtain it with `likeness pull {name}`, "
        "or give the path of a bundle's folder.",
        {"bundle": name},
    )


def card_digest(path: Path) -> str:
    """First 12 digits of the sha256 of a bundle's card, the end of its folder's name."""
    return hashlib.sha256((path / CARD_FILE).read_bytes()).hexdigest()[:12]


def open_bundle(path: Path) -> Bundle:
    """Read a bundle's card and networks into memory and compare every digest.

    Raises:
        BundleError: the card is not valid, or a file is missing or differs from it.
    """
    # Resolved once: a link that is replaced meanwhile must not mix two bundles.
    path = path.resolve()
    card_file = path / CARD_FILE
    try:
        if card_file.stat().st_size > MAX_CARD_BYTES:
            raise BundleError(f"{card_file} has {card_file.stat().st_size} bytes; a card has less than 1 MB.")
        text = card_file.read_bytes()
    except OSError as error:
        raise BundleError(f"{card_file} cannot be read: {error.strerror}") from error
    card = read_card(text, str(card_file))
    return Bundle(path, card, _read_network(path, card.detector), _read_network(path, card.embedder))


def _read_network(folder: Path, network: Network) -> bytes:
    file = folder / network.file
    try:
        found_size = file.stat().st_size
        if found_size != network.size:
            raise BundleError(f"{file} has {found_size} bytes, its card says {network.size}. Pull the bundle again.")
        content = file.read_bytes()
    except OSError as error:
        raise BundleError(f"{file} cannot be read: {error.strerror}. Pull the bundle again.") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != network.sha256:
        raise BundleError(
            f"{file} is not what its card says: sha256 {digest[:16]}…, expected {network.sha256[:16]}…. "
            "Pull the bundle again."
        )
    return content
