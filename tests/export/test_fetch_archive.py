"""Files out of ZIP archives at an address, through a real server on loopback."""

import functools
import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from export import fetch as fetching
from export.catalog import CatalogFile, Licence, ZipMirror
from export.fetch import cached_path, fetch, fetch_all
from service.errors import DownloadError

BODY = bytes(range(256)) * 1024
LICENCE = Licence(spdx="MIT", url="https://authors.example/LICENSE", commercial_use=True)


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        super().do_GET()


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
        self.folder = folder
        self.asked: list[str] = []

    def mirror(self, name: str, content: bytes, path: str = "net.onnx") -> ZipMirror:
        (self.folder / name).write_bytes(content)
        return ZipMirror(f"http://127.0.0.1:{self.server_port}/{name}", path)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "served").mkdir()
    with Server(tmp_path / "served") as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def zipped(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def encrypted(archive: bytes) -> bytes:
    """The flag that says so set, in the member's own header and in the directory."""
    content = bytearray(archive)
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


def symlinked(target: str) -> bytes:
    """The member is a symbolic link, as unpackers that keep file types would make it."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        entry = zipfile.ZipInfo("net.onnx")
        entry.create_system, entry.external_attr = 3, 0o120777 << 16
        archive.writestr(entry, target)
    return out.getvalue()


def with_a_lie_about_size(archive: bytes, size: int) -> bytes:
    """Both headers of the first member claim this size; what unpacks is larger."""
    content = bytearray(archive)
    content[22:26] = size.to_bytes(4, "little")
    directory = content.index(b"PK\x01\x02")
    content[directory + 24 : directory + 28] = size.to_bytes(4, "little")
    return bytes(content)


def listed(*mirrors: ZipMirror, name: str = "net.onnx", body: bytes = BODY) -> CatalogFile:
    digest = hashlib.sha256(body).hexdigest()
    return CatalogFile(name, "detector", len(body), digest, LICENCE, "", mirrors, page="https://authors.example/")


def files_in(folder: Path) -> list[Path]:
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def test_one_archive_serves_several_files_and_is_asked_once(server: Server, tmp_path: Path) -> None:
    content = zipped({"pack/net.onnx": BODY, "pack/other.onnx": BODY[:-1]})
    files = [
        listed(server.mirror("pack.zip", content, "pack/net.onnx")),
        listed(server.mirror("pack.zip", content, "pack/other.onnx"), name="other.onnx", body=BODY[:-1]),
    ]
    got = fetch_all(files, tmp_path / "cache")
    assert [path.read_bytes() for path in got] == [BODY, BODY[:-1]]
    assert server.asked == ["/pack.zip"]
    assert len(files_in(tmp_path / "cache")) == 2


def test_of_two_packs_the_one_that_is_here_is_looked_into_first(server: Server, tmp_path: Path) -> None:
    """As buffalo_l and buffalo_m hold one embedder."""
    shared = server.mirror("large.zip", zipped({"net.onnx": BODY}))
    pack = zipped({"small/det.onnx": BODY[1:], "small/net.onnx": BODY})
    files = [
        listed(server.mirror("small.zip", pack, "small/det.onnx"), name="det.onnx", body=BODY[1:]),
        listed(
            shared, server.mirror("small.zip", pack, "net.onnx"), server.mirror("small.zip", pack, "small/net.onnx")
        ),
    ]
    got = fetch_all(files, tmp_path / "cache")
    assert [path.read_bytes() for path in got] == [BODY[1:], BODY]
    assert server.asked == ["/small.zip"]
    # Alone, the order of the catalogue counts.
    fetch(files[1], tmp_path / "other")
    assert server.asked == ["/small.zip", "/large.zip"]


def test_what_else_an_archive_holds_is_never_written(server: Server, tmp_path: Path) -> None:
    hostile = zipped({"../../evil": b"x", "/tmp/evil": b"x", "net.onnx/../../evil": b"x", "net.onnx": BODY})
    file = listed(server.mirror("hostile.zip", hostile))
    before = files_in(tmp_path)
    path = fetch(file, tmp_path / "a" / "b")
    assert path == cached_path(file, tmp_path / "a" / "b")
    assert files_in(tmp_path) == sorted([*before, path.relative_to(tmp_path)])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (zipped({"other.onnx": BODY}), r"holds no file net\.onnx"),
        (zipped({"net.onnx": BODY * 64}), r"net\.onnx in http.* has 16777216 bytes instead of 262144"),
        (zipped({"net.onnx": BODY[::-1]}), r"262144 bytes came with the sha256 [0-9a-f]{64}"),
        (zipped({"net.onnx": BODY})[:-30], r"the archive is damaged: File is not a zip file"),
        (encrypted(zipped({"net.onnx": BODY})), r"the archive is damaged: .*is encrypted"),
        (
            with_a_lie_about_size(zipped({"net.onnx": bytes(50_000_000)}), len(BODY)),
            r"the archive is damaged: Bad CRC-32",
        ),
        (symlinked("/etc/passwd"), r"net\.onnx in http.* has 11 bytes instead of 262144"),
        (b"<html>", r"the archive is damaged: File is not a zip file"),
    ],
    ids=[
        "no such file",
        "bomb",
        "other bytes",
        "cut off",
        "encrypted",
        "a bomb that says it is none",
        "a link",
        "a page",
    ],
)
def test_a_bad_archive_is_named_and_the_next_one_serves(
    server: Server, tmp_path: Path, content: bytes, reason: str
) -> None:
    bad = server.mirror("bad.zip", content)
    with pytest.raises(DownloadError, match=reason) as caught:
        fetch(listed(bad), tmp_path / "cache")
    assert f"{bad.zip}, net.onnx: " in caught.value.message
    assert files_in(tmp_path / "cache") == []
    assert fetch(listed(bad, server.mirror("good.zip", zipped({"net.onnx": BODY}))), tmp_path / "cache").is_file()


def test_an_archive_that_is_not_there_is_named(server: Server, tmp_path: Path) -> None:
    mirror = ZipMirror(f"http://127.0.0.1:{server.server_port}/none.zip", "net.onnx")
    with pytest.raises(DownloadError, match=r"none\.zip, net\.onnx: answered with HTTP 404"):
        fetch(listed(mirror), tmp_path / "cache")


def test_an_archive_without_end_is_cut_off(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "MAX_ARCHIVE", 100_000)
    with pytest.raises(DownloadError, match="more than 100000 bytes came"):
        fetch(listed(server.mirror("large.zip", bytes(1_000_000))), tmp_path / "cache")
    assert files_in(tmp_path / "cache") == []
