"""A folder of photos, one sub-folder a person, as an argument of commands."""

from pathlib import Path

from likeness.folders import PersonFolder
from likeness.folders import persons_of as found
from service.errors import InvalidRequest


def persons_of(folder: Path) -> list[PersonFolder]:
    """The sub-folders with photos in them, see ``likeness.folders``.

    Raises:
        InvalidRequest: it cannot be read, or there is no photo.
    """
    try:
        return found(folder)
    except OSError as error:
        raise InvalidRequest(f"{error.filename} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InvalidRequest(str(error)) from error
