"""Operating points measured beforehand, one file a catalogue bundle, as ``likeness evaluate lfw`` writes them."""

from importlib import resources

from service.errors import BundleError
from service.runtime.card import Calibration


def shipped(bundle: str, embedding_contract: str, detector: str) -> Calibration | None:
    """The calibration of a catalogue bundle, if there is one and it was measured on these very networks.

    Args:
        bundle: name in the catalogue.
        embedding_contract: digest of the contract that the bundle's embedder keeps.
        detector: sha256 of the published detector.

    Raises:
        BundleError: the file that came with this program is damaged.
    """
    source = resources.files(__name__) / f"{bundle}.json"
    if not source.is_file():
        return None
    try:
        calibration = Calibration.model_validate_json(source.read_bytes())
    except ValueError as error:
        raise BundleError(f"The calibration that comes with {bundle} is damaged: {error}") from error
    measured_on = (calibration.embedding_contract, calibration.detector)
    return calibration if measured_on == (embedding_contract, detector) else None
