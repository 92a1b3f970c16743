"""The master key, which wraps the keys of the persons, and the places it can come from.

A place is all that a KMS has to be: something that gives 32 bytes when the service starts. ``CommandPlace`` asks any
program for them (``vault kv get``, ``aws kms decrypt``, ``gcloud kms decrypt``), so that the key is never on the disk.
"""

import base64
import binascii
import os
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from service.errors import Unavailable
from service.files import make_private_folder, replace_file
from service.security.envelope import KEY_BYTES, derive

NAME_BYTES = 8
FILE_NAME = "master.key"
COMMAND_PATIENCE_S = 30.0


class MasterKeyError(Unavailable):
    """There is no usable master key."""


@dataclass(frozen=True)
class MasterKey:
    """32 secret bytes. ``name`` tells one from another and nothing about them."""

    secret: bytes = field(repr=False)

    @classmethod
    def new(cls) -> "MasterKey":
        return cls(os.urandom(KEY_BYTES))

    @classmethod
    def parse(cls, text: str, place: str) -> "MasterKey":
        """From base64. Raises MasterKeyError, which never shows the text."""
        try:
            secret = base64.b64decode(text.strip(), validate=True)
        except (binascii.Error, ValueError):
            secret = b""
        if len(secret) != KEY_BYTES:
            raise MasterKeyError(
                f"The master key in {place} is not base64 of {KEY_BYTES} bytes. `openssl rand -base64 32` makes one."
            )
        return cls(secret)

    @property
    def name(self) -> str:
        """16 hexadecimal digits."""
        return derive(self.secret, "name of the master key")[:NAME_BYTES].hex()

    def wrapping(self) -> AESGCM:
        """What wraps the keys of persons."""
        return AESGCM(derive(self.secret, "keys of persons"))

    def text(self) -> str:
        """Base64, as ``parse`` reads it."""
        return base64.b64encode(self.secret).decode()


class MasterPlace(Protocol):
    """Where the master key comes from."""

    @property
    def where(self) -> str:
        """In words, for messages."""

    def read(self, may_make: bool) -> Sequence[MasterKey]:
        """The master key; more than one only in the middle of a rotation.

        Args:
            may_make: nothing is wrapped yet, so a place that can make a key may do so.

        Raises:
            MasterKeyError: there is none.
        """

    def keep(self, *keys: MasterKey) -> None:
        """Hold exactly these from now on, durably; places that are not ours to write to leave it to their owner."""


def chosen(name: str, masters: Sequence[MasterKey], place: MasterPlace, wrapped: str) -> MasterKey:
    """The one of ``masters`` with this name. Raises MasterKeyError, which says what is ``wrapped`` under it."""
    for master in masters:
        if master.name == name:
            return master
    raise MasterKeyError(
        f"{wrapped} are wrapped under the master key {name}; {place.where} is {masters[0].name}. "
        "Put the right one back."
    )


@dataclass(frozen=True)
class FilePlace:
    """A file of one key a line, readable by its owner only."""

    path: Path

    @property
    def where(self) -> str:
        return str(self.path)

    def read(self, may_make: bool) -> Sequence[MasterKey]:
        try:
            lines = self.path.read_text().split()
        except FileNotFoundError:
            if not may_make:
                raise MasterKeyError(
                    f"The master key {self.path} is missing, and without it no template can be read. Put it back."
                ) from None
            make_private_folder(self.path.parent)
            key = MasterKey.new()
            self.keep(key)
            return (key,)
        except (OSError, UnicodeDecodeError) as error:
            raise MasterKeyError(f"The master key {self.path} cannot be read: {error}") from error
        if not lines:
            raise MasterKeyError(f"The master key {self.path} is empty. Put it back.")
        return tuple(MasterKey.parse(line, self.where) for line in lines)

    def keep(self, *keys: MasterKey) -> None:
        replace_file(self.path, "".join(f"{key.text()}\n" for key in keys).encode())


@dataclass(frozen=True)
class GivenPlace:
    """The environment: a key that somebody else keeps."""

    text: str = field(repr=False)
    where: str = "LIKENESS_MASTER_KEY"

    def read(self, may_make: bool) -> Sequence[MasterKey]:  # noqa: ARG002
        return (MasterKey.parse(self.text, self.where),)

    def keep(self, *keys: MasterKey) -> None:
        pass


@dataclass(frozen=True)
class CommandPlace:
    """A program that prints the key: the way to a KMS."""

    command: str

    @property
    def where(self) -> str:
        return f"the output of {shlex.split(self.command)[0]!r}"

    def read(self, may_make: bool) -> Sequence[MasterKey]:  # noqa: ARG002
        try:
            done = subprocess.run(
                shlex.split(self.command), capture_output=True, text=True, check=True, timeout=COMMAND_PATIENCE_S
            )
        except (OSError, ValueError, IndexError, subprocess.SubprocessError) as error:
            said = (getattr(error, "stderr", None) or str(error)).strip()
            raise MasterKeyError(f"The command for the master key failed: {said:.500}") from error
        return (MasterKey.parse(done.stdout, self.where),)

    def keep(self, *keys: MasterKey) -> None:
        pass


def place_of(folder: Path, given: str | None, command: str | None) -> MasterPlace:
    """The place that the settings name: a key in the environment, a command, or a file in ``folder``.

    Raises MasterKeyError: both are named.
    """
    if given is not None and command is not None:
        raise MasterKeyError("LIKENESS_MASTER_KEY and LIKENESS_MASTER_KEY_COMMAND are both set. Set one of them.")
    if given is not None:
        return GivenPlace(given)
    return CommandPlace(command) if command is not None else FilePlace(folder / FILE_NAME)
