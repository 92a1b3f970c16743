"""The client of the commands against real servers: the application busy, restarted or gone, and strangers."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest

from service.cli.client import Client, path_of
from service.cli.main import main
from service.engine import Engine
from service.errors import FaceNotFound, GalleryNotFound, InvalidRequest, Overloaded, Unavailable
from service.settings import Settings
from tests.served import listening


@pytest.fixture(scope="module")
def url(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with listening(engine, tmp_path_factory.mktemp("store"), Settings(max_waiting=1)) as url:
        yield url


class Stranger(SimpleHTTPRequestHandler):
    """Some other web server, which notes what it was sent."""

    seen: list[str | None]

    def do_GET(self) -> None:
        self.seen.append(self.headers.get("Authorization"))
        if self.path.endswith("/moved"):
            self.send_response(302)
            self.send_header("Location", "/elsewhere")
            self.end_headers()
        else:
            super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def stranger() -> Iterator[tuple[str, list[str | None]]]:
    seen: list[str | None] = []
    handler = type("Stranger", (Stranger,), {"seen": seen})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", seen
        server.shutdown()
        thread.join()


def test_a_busy_service_is_asked_again(url: str, group_photo: bytes) -> None:
    def bare(_: int) -> int:
        return httpx2.post(f"{url}/v1/detect", files={"image": group_photo}, timeout=60).status_code

    with ThreadPoolExecutor(12) as pool, Client(url, connections=12) as client:
        # It is busy indeed: without the client some are refused.
        assert set(pool.map(bare, range(12))) == {200, 429}
        calls = [pool.submit(client.call, "POST", "/detect", files={"image": group_photo}) for _ in range(12)]
        assert [len(call.result()["faces"]) for call in calls] == [6] * 12


def test_whoever_waits_gives_up_when_the_client_is_closed(url: str, group_photo: bytes) -> None:
    with ThreadPoolExecutor(24) as pool:
        client = Client(url, connections=24)
        calls = [pool.submit(client.call, "POST", "/detect", files={"image": group_photo}) for _ in range(24)]
        wait(calls, return_when=FIRST_COMPLETED)
        client.close()
        outcomes = {type(call.exception()) for call in calls}
    assert outcomes <= {type(None), Overloaded}
    assert Overloaded in outcomes


def test_errors_are_those_of_the_service(url: str, skimage_data: Path) -> None:
    with Client(url + "/") as client:
        with pytest.raises(GalleryNotFound, match="There is no gallery 'none'") as missing:
            client.call("GET", path_of("galleries", "none"))
        assert missing.value.details == {"gallery": "none"}
        with pytest.raises(InvalidRequest, match=r"'a b%\?' is not a gallery id"):
            client.call("GET", path_of("galleries", "a b%?"))
        with pytest.raises(FaceNotFound):
            client.call("POST", "/embed", files={"image": (skimage_data / "brick.png").read_bytes()})
        assert client.call("PUT", path_of("galleries", "g"), json={"name": "G"})["name"] == "G"
        assert client.call("DELETE", path_of("galleries", "g")) is None
        assert [page["galleries"] for page in client.pages("/galleries", 5)] == [[]]


def test_pages_are_all_of_a_list(url: str) -> None:
    with Client(url) as client:
        client.call("PUT", "/galleries/paged")
        for number in range(5):
            client.call("PUT", f"/galleries/paged/persons/{number}")
        found = [[one["id"] for one in page["persons"]] for page in client.pages("/galleries/paged/persons", 2)]
    assert found == [["0", "1"], ["2", "3"], ["4"]]


def test_a_server_that_is_gone_is_asked_again_only_where_it_does_no_harm(
    served: Callable[..., Any], data_dir: Path, tmp_path: Path
) -> None:
    with served(data_dir, tmp_path) as server:
        port = server.url.rpartition(":")[2]
        client = Client(server.url)
        assert client.call("PUT", "/galleries/g")["id"] == "g"
    with pytest.raises(Unavailable, match="No service answers at"):
        client.call("POST", "/galleries/g/persons/ann/faces", json={})
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(client.call, "GET", "/galleries/g")
        sending = pool.submit(client.call, "POST", "/galleries/g/search", repeatable=True, json={})
        with served(data_dir, tmp_path, "--port", port):
            assert waiting.result()["id"] == "g"
            with pytest.raises(InvalidRequest, match="give image or embedding"):
                sending.result()
    client.close()


def test_the_key_is_sent_and_a_stranger_is_known(
    stranger: tuple[str, list[str | None]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url, seen = stranger
    # A password for this host must not take the key's place.
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password secret\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1" / "page").write_text("<html>")
    with Client(url, "k-1") as client:
        for path in ("/nothing", "/page", "/moved"):
            with pytest.raises(Unavailable, match=r"What answers at .* is not this service \(status (404|200|302)"):
                client.call("GET", path)
    assert seen == ["Bearer k-1"] * 3
    with pytest.raises(InvalidRequest, match="characters") as refused:
        Client(url, "secret\nkey")
    assert "secret" not in refused.value.message


@pytest.mark.parametrize(
    ("address", "code", "says"),
    [
        ("http://127.0.0.1:1", 4, "Start one with `likeness serve`"),
        ("http://no-such-host.invalid", 4, "No service answers at http://no-such-host.invalid"),
        ("localhost:8000", 2, "localhost:8000 cannot be called"),
        ("nonsense", 2, "nonsense cannot be called"),
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
