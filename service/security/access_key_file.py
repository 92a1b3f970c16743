"""The access keys of one data folder: ``access.json`` beside the keys of the persons.

A running service sees changes of the file at its next request.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from service.errors import Unavailable
from service.files import lock_file, make_private_folder, replace_file
from service.security.access_keys import AccessKey, AccessKeys

FILE_NAME = "access.json"
_FILE = TypeAdapter(list[AccessKey])


class AccessKeyFile(AccessKeys):
    """See ``AccessKeys``."""

    def __init__(self, folder: Path, pepper: bytes) -> None:
        super().__init__(pepper)
        self.path = folder / FILE_NAME
        self._seen: tuple[int, int, int] | None = None
        self._by_id: Mapping[str, AccessKey] = {}

    async def in_step(self) -> None:
        """Nothing to wait for: the file is looked at each time."""

    def close(self) -> None:
        """Nothing to leave: it is not kept open."""

    def _known(self) -> Mapping[str, AccessKey]:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            self._seen, self._by_id = None, {}
            return self._by_id
        seen = (status.st_ino, status.st_mtime_ns, status.st_size)
        if seen != self._seen:
            self._by_id = self._read()
            self._seen = seen
        return self._by_id

    def _read(self) -> dict[str, AccessKey]:
        try:
            return {key.id: key for key in _FILE.validate_json(self.path.read_bytes())}
        except FileNotFoundError:
            return {}
        except (OSError, ValidationError) as error:
            # Its content is not shown: validation errors quote what they found.
            raise Unavailable(f"The access keys {self.path} cannot be read ({type(error).__name__}).") from None

    @contextmanager
    def _changing(self) -> Iterator[dict[str, AccessKey]]:
        """The keys, written back when the block has ended well; one process at a time."""
        make_private_folder(self.path.parent)
        with lock_file(self.path.with_name("access.lock")):
            keys = self._read()
            yield keys
            content = json.dumps(_FILE.dump_python(list(keys.values()), mode="json"), indent=1)
            replace_file(self.path, content.encode())
