"""Reading a TOML file whose every value is checked, and whose mistakes are named by their place."""

import re
from typing import TypeVar
from urllib.parse import urlsplit

from service.errors import BundleError

T = TypeVar("T")

# A table's name becomes a path or an argument of another program: it must be plain.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Table:
    """One table of the catalogue. Gives out checked values; ``where`` names it in every complaint."""

    def __init__(self, where: str, content: object) -> None:
        self.where = where
        if not isinstance(content, dict):
            raise self.wrong(f"{content!r} is not a table")
        self._left = dict(content)

    def wrong(self, what: str) -> BundleError:
        return BundleError(f"{self.where}: {what}; correct the catalogue")

    def take(self, key: str, kind: type[T]) -> T:
        if key not in self._left:
            raise self.wrong(f"{key} is missing")
        value = self._left.pop(key)
        # Not isinstance: True is an int there.
        if type(value) is not kind:
            raise self.wrong(f"{key} is {value!r}, but must be of type {kind.__name__}")
        return value

    def text(self, key: str, pattern: re.Pattern[str] = re.compile(r"\S.*"), want: str = "text") -> str:
        value = self.take(key, str)
        if not pattern.fullmatch(value):
            raise self.wrong(f"{key} is {value!r}, but must be {want}")
        return value

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        return self.text(key, re.compile("|".join(choices)), f"one of {', '.join(choices)}")

    def url(self, key: str) -> str:
        value = self.text(key, re.compile(r"[!-~]+"), "an address in plain ASCII")
        try:
            parts = urlsplit(value)
        except ValueError as error:
            raise self.wrong(f"{key} is {value!r}: {error}") from error
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise self.wrong(f"{key} is {value!r}, but must begin with https:// and name a host")
        return value

    def has(self, key: str) -> bool:
        return key in self._left

    def table(self, key: str) -> "Table":
        return Table(f"{self.where}: {key}", self.take(key, dict))

    def tables(self, key: str) -> "dict[str, Table]":
        inner = self.take(key, dict)
        for name in inner:
            if not NAME.fullmatch(name):
                raise self.wrong(f"{key}.{name!r} is not a plain name")
        return {name: Table(f"{self.where}: {key}.{name}", content) for name, content in inner.items()}

    def nothing_else(self) -> None:
        """A misspelt optional key would otherwise pass in silence."""
        if self._left:
            raise self.wrong(f"unknown: {', '.join(sorted(self._left))}")
