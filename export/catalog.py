"""The catalogue of third-party networks: where each file can be had, its digest and licence; the bundles.

Owns ``catalog.toml`` and what may be written in it. Getting the files is ``export.fetch``'s work.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Literal, cast, get_args
from urllib.parse import urlsplit

from pydantic import ValidationError

from export.toml_table import Table
from service.errors import BundleError
from service.runtime.card import Fusion, Licence, Preprocessing

Role = Literal["detector", "embedder"]
Architecture = Literal["yunet", "scrfd", "centerface"]
Backbone = Literal["facex-zoo-mobilefacenet"]

# A package becomes an argument of pip.
PINNED_PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.!+_-]*")
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class UrlMirror:
    url: str

    @property
    def place(self) -> str:
        """In short, for one line of a log."""
        return urlsplit(self.url).netloc

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True)
class ZipMirror:
    """A file inside a ZIP archive at an address."""

    zip: str
    path: str  # member of the archive

    @property
    def place(self) -> str:
        return urlsplit(self.zip).netloc

    def __str__(self) -> str:
        return f"{self.zip}, {self.path}"


@dataclass(frozen=True)
class PackageMirror:
    """A file inside the wheel of a package on the Python registry."""

    package: str  # name==version
    path: str  # member of the wheel

    @property
    def place(self) -> str:
        return f"package {self.package}"

    def __str__(self) -> str:
        return f"{self.place}, {self.path}"


Mirror = UrlMirror | ZipMirror | PackageMirror


@dataclass(frozen=True)
class CatalogFile:
    """One published network.

    Attributes:
        size: bytes.
        official: the address its authors give out for these very bytes; empty where there is none.
        mirrors: further places that hold the same bytes.
        page: where its authors offer it, for a file without an official address.
        permits: what a licence that does not permit commercial use does permit; empty for the others.
        architecture: of a detector, how its outputs are decoded.
        preprocessing: of an embedder, what it wants to be given.
        backbone: of an embedder whose file is a checkpoint, weights without their network: which network they are for;
            None for one in ONNX.
    """

    name: str
    role: Role
    size: int
    sha256: str
    licence: Licence
    official: str
    mirrors: tuple[Mirror, ...]
    page: str = ""
    permits: str = ""
    architecture: Architecture | None = None
    preprocessing: Preprocessing | None = None
    backbone: Backbone | None = None

    @property
    def needs_straightening(self) -> bool:
        """Of a detector: whether a tilted head has to be turned upright for its landmarks to be true.

        Turned by 20°, a head is reported to be tilted by 21° by SCRFD and by 6° by YuNet
        (``tests/benchmarks/tilted_heads``).
        """
        return self.architecture != "scrfd"

    @property
    def sources(self) -> tuple[Mirror, ...]:
        """Where to try, in order."""
        return (*([UrlMirror(self.official)] if self.official else []), *self.mirrors)


@dataclass(frozen=True)
class BundleRecipe:
    name: str
    version: str
    description: str
    detector: CatalogFile
    embedder: CatalogFile
    fusion: Fusion

    @property
    def files(self) -> tuple[CatalogFile, CatalogFile]:
        return (self.detector, self.embedder)


@dataclass(frozen=True)
class Catalog:
    files: Mapping[str, CatalogFile]
    bundles: Mapping[str, BundleRecipe]

    def bundle(self, name: str) -> BundleRecipe:
        """Raises BundleError for a name that is not in the catalogue."""
        if name not in self.bundles:
            known = ", ".join(sorted(self.bundles)) or "none"
            raise BundleError(
                f"bundle {name!r} is not in the catalogue; known: {known}", {"known": sorted(self.bundles)}
            )
        return self.bundles[name]


def load_catalog(path: Path | None = None) -> Catalog:
    """The catalogue at ``path``, or the one that comes with this program.

    Raises:
        BundleError: it can't be read, or an entry is not as it must be; the message names the entry.
    """
    source = resources.files("export").joinpath("catalog.toml") if path is None else path
    try:
        content = tomllib.loads(source.read_text(encoding="utf-8"))
    except OSError as error:
        raise BundleError(f"the catalogue {source} cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError
        raise BundleError(f"the catalogue {source} is not valid TOML: {error}") from error
    root = Table(str(source), content)
    files = {name: _file(name, table) for name, table in root.tables("files").items()}
    bundles = {name: _bundle(name, table, files) for name, table in root.tables("bundles").items()}
    root.nothing_else()
    return Catalog(MappingProxyType(files), MappingProxyType(bundles))


def _file(name: str, table: Table) -> CatalogFile:
    size = table.take("size", int)
    if size < 1:
        raise table.wrong(f"size is {size}, but must be at least 1 byte")
    mirrors = [Table(f"{table.where}: mirror {i}", m) for i, m in enumerate(table.take("mirrors", list), 1)]
    role = cast(Role, table.choice("role", get_args(Role)))
    licence, permits = _licence(table.table("licence"))
    page = table.has("page")
    file = CatalogFile(
        name=name,
        role=role,
        size=size,
        sha256=table.text("sha256", SHA256, "64 lowercase hexadecimal digits"),
        licence=licence,
        official="" if page else table.url("official"),
        mirrors=tuple(map(_mirror, mirrors)),
        page=table.url("page") if page else "",
        permits=permits,
        architecture=cast(Architecture, table.choice("architecture", get_args(Architecture)))
        if role == "detector"
        else None,
        preprocessing=_preprocessing(table.table("preprocessing")) if role == "embedder" else None,
        backbone=cast(Backbone, table.choice("backbone", get_args(Backbone)))
        if role == "embedder" and table.has("backbone")
        else None,
    )
    table.nothing_else()
    return file


def _licence(table: Table) -> tuple[Licence, str]:
    """The licence, and what it permits where that is less than commercial use."""
    licence = Licence(spdx=table.text("spdx"), url=table.url("url"), commercial_use=table.take("commercial_use", bool))
    permits = "" if licence.commercial_use else table.text("permits")
    table.nothing_else()
    return licence, permits


def _preprocessing(table: Table) -> Preprocessing:
    try:
        preprocessing = Preprocessing(
            channels=cast(Literal["RGB", "BGR"], table.choice("channels", ("RGB", "BGR"))),
            mean=table.take("mean", float),
            scale=table.take("scale", float),
        )
    except ValidationError as error:
        raise table.wrong(f"{error.errors()[0]['loc'][0]}: {error.errors()[0]['msg']}") from error
    table.nothing_else()
    return preprocessing


def _mirror(table: Table) -> Mirror:
    mirror: Mirror
    if table.has("url"):
        mirror = UrlMirror(table.url("url"))
    elif table.has("zip"):
        mirror = ZipMirror(table.url("zip"), table.text("path"))
    else:
        mirror = PackageMirror(table.text("package", PINNED_PACKAGE, "name==version"), table.text("path"))
    table.nothing_else()
    return mirror


def _bundle(name: str, table: Table, files: Mapping[str, CatalogFile]) -> BundleRecipe:
    def file_for(role: Role) -> CatalogFile:
        suitable = {file.name: file for file in files.values() if file.role == role}
        wanted = table.text(role)
        if wanted not in suitable:
            raise table.wrong(f"{role} is {wanted!r}, which is no {role} among the files")
        return suitable[wanted]

    recipe = BundleRecipe(
        name=name,
        version=table.text("version"),
        description=table.text("description"),
        detector=file_for("detector"),
        embedder=file_for("embedder"),
        fusion=cast(Fusion, table.choice("fusion", get_args(Fusion))),
    )
    table.nothing_else()
    return recipe
