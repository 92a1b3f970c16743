"""How commands find their service and what they say when it is not there; the client itself: tests/likeness."""

import argparse
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import pytest

from likeness.gallery_calls import get_gallery, list_persons, put_gallery, put_person
from likeness.photo_calls import embed
from service.cli.client import client_of
from service.cli.main import main
from service.errors import FaceNotFound, GalleryNotFound, Unauthorized
from tests.conftest import Running
from tests.served import answering


def arguments(running: Running, key: str | None = None) -> argparse.Namespace:
    return argparse.Namespace(url=running.url, key=key or running.key)


def test_errors_are_those_of_the_service(running: Running, scenery: bytes) -> None:
    with pytest.raises(GalleryNotFound, match="There is no gallery 'none'") as missing:  # noqa: SIM117
        with client_of(arguments(running)) as client:
            client.answer(get_gallery("none"))
    assert missing.value.details == {"gallery": "none"}
    with pytest.raises(FaceNotFound), client_of(arguments(running)) as client:
        client.answer(embed(scenery))
    with pytest.raises(Unauthorized), client_of(arguments(running, "another")) as client:
        client.answer(get_gallery("none"))


def test_pages_are_as_the_service_has_them(running: Running) -> None:
    with client_of(arguments(running)) as client:
        client.answer(put_gallery("paged"))
        for number in range(5):
            client.answer(put_person("paged", str(number)))
        pages = client.pages(list_persons("paged", limit=2))
        assert [[one["id"] for one in page["persons"]] for page in pages] == [["0", "1"], ["2", "3"], ["4"]]


class Stranger(SimpleHTTPRequestHandler):
    """Some other web server, which notes what it was sent."""

    seen: list[str | None]

    def do_GET(self) -> None:
        self.seen.append(self.headers.get("Authorization"))
        super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def stranger() -> Iterator[tuple[str, list[str | None]]]:
    seen: list[str | None] = []
    handler = type("Stranger", (Stranger,), {"seen": seen})
    with answering(handler) as url:
        yield url, seen


def test_the_key_is_sent_and_a_stranger_is_known(
    stranger: tuple[str, list[str | None]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url, seen = stranger
    # A password for this host must not take the key's place.
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password secret\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIKENESS_KEY", "k-1")
    assert main(["doctor", "staff", "--url", url]) == 4
    assert "is not this service (status 404" in capsys.readouterr().err
    assert main(["doctor", "staff", "--url", url, "--key", "k-2"]) == 4
    assert seen == ["Bearer k-1", "Bearer k-2"]


@pytest.mark.parametrize(
    ("address", "code", "says"),
    [
        ("http://127.0.0.1:1", 4, "Start one with `likeness serve`"),
        ("http://no-such-host.invalid", 4, "No service answers at http://no-such-host.invalid"),
        ("localhost:8000", 2, "'localhost:8000' is no address of a service"),
        ("nonsense", 2, "'nonsense' is no address of a service"),
    ],
)
def test_an_address_at_which_nobody_listens_is_told_at_once(
    address: str,
    code: int,
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = ["export-gallery", "staff", str(tmp_path / "a")]
    assert main([*arguments, "--url", address]) == code
    assert says in capsys.readouterr().err
    monkeypatch.setenv("LIKENESS_URL", address)
    assert main(arguments) == code
    assert says in capsys.readouterr().err
    monkeypatch.setenv("LIKENESS_KEY", "not a key")
    assert main(arguments) == 2
    assert "not a key" not in capsys.readouterr().err
