"""All bundles at work in one service: the default one, and those that galleries need beside it.

Each holds its networks in memory for as long as the service runs; photos are decoded by the same processes for all.
"""

import contextlib
import logging
import threading
from collections.abc import Iterable
from pathlib import Path

from service.engine import Engine, load_engine
from service.errors import BundleError, LikenessError, ModelMismatch
from service.runtime.bundle import CARD_FILE, bundles_dir, locate
from service.runtime.card import read_card
from service.settings import Settings

log = logging.getLogger(__name__)


class Engines:
    """Engines by the contract of their embeddings. Thread-safe."""

    def __init__(self, default: Engine, settings: Settings) -> None:
        """
        Args:
            default: serves all calls that name no gallery, and galleries that are made.
            settings: how the others are opened.
        """
        self.default = default
        self._settings = settings
        self._by_contract = {default.contract: default}
        self._loading = threading.Lock()

    def loaded(self) -> list[Engine]:
        """All of them, the default one first."""
        return list(self._by_contract.values())

    def has(self, contract: str) -> bool:
        """Whether a bundle with this contract is loaded."""
        return contract in self._by_contract

    def of(self, contract: str) -> Engine:
        """Raises ModelMismatch if no bundle with this contract is loaded."""
        engine = self._by_contract.get(contract)
        if engine is None:
            raise ModelMismatch(
                f"No bundle of contract {contract[:16]!r}… is loaded here; those that are have "
                f"{', '.join(repr(known[:16]) + '…' for known in self._by_contract)}. Embed the photos again, or start "
                "the service with --also BUNDLE.",
                {"embedding_contract": self.default.contract, "embedding_contracts": list(self._by_contract)},
            )
        return engine

    def load(self, bundle: str) -> Engine:
        """The engine of a bundle, by name or folder; opened and warmed up if it is not there yet.

        Another bundle of a contract that is loaded already is not opened a second time: the embeddings are the same.

        Raises:
            BundleError, DeviceError: see ``service.runtime``.
        """
        with self._loading:
            known = self._known(bundle)
            if known is not None:
                return known
            engine = load_engine(self._settings, bundle=bundle, beside=self.default)
            engine.warm_up()
            card = engine.card
            log.info("bundle %s %s beside it, weights under %s", card.name, card.version, card.licence.spdx)
            if not card.licence.commercial_use:
                log.warning("The weights of bundle %s are not licensed for commercial use.", card.name)
            self._by_contract[engine.contract] = engine
            return engine

    def load_for(self, contracts: Iterable[str]) -> None:
        """Load what is needed of the bundles in the data folder. One that is not there, or cannot be opened, is told
        in the log: galleries of its contract are not served."""
        missing = [contract for contract in dict.fromkeys(contracts) if contract not in self._by_contract]
        folders = _folders_by_contract(self._settings) if missing else {}
        for contract in missing:
            if contract not in folders:
                log.warning("There are galleries of contract %s…, and no bundle that has it.", contract[:16])
                continue
            try:
                self.load(folders[contract])
            except LikenessError as error:
                log.error("The bundle %s cannot be loaded: %s", folders[contract], error.message)

    def _known(self, bundle: str) -> Engine | None:
        """By its contract; by its name only where the folder that it was loaded from is not in the data folder."""
        try:
            contract = _contract_of(locate(bundle, self._settings.data_dir))
        except BundleError:
            named = [engine for engine in self.loaded() if engine.card.name == bundle]
            if not named:
                raise
            return named[0]
        return self._by_contract.get(contract)


def _contract_of(folder: Path) -> str:
    """Raises BundleError."""
    file = folder / CARD_FILE
    try:
        return read_card(file.read_bytes(), str(file)).embedding_contract
    except OSError as error:
        raise BundleError(f"{file} cannot be read: {error.strerror}") from error


def _folders_by_contract(settings: Settings) -> dict[str, str]:
    """The bundles in the data folder; of several with one contract the one that its name links to."""
    found: dict[str, str] = {}
    root = bundles_dir(settings.data_dir)
    folders = sorted(root.iterdir(), key=lambda folder: (not folder.is_symlink(), folder.name)) if root.is_dir() else []
    for folder in folders:
        with contextlib.suppress(BundleError):
            found.setdefault(_contract_of(folder), str(folder))
    return found
