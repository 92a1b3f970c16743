"""A bundle that is not free for commercial use says so wherever it is served."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx2

from service.runtime.bundle import CARD_FILE, Bundle

Serve = Callable[..., AbstractContextManager[Any]]


def test_the_log_and_the_info_say_so(tmp_path: Path, bundle: Bundle, served: Serve) -> None:
    folder = tmp_path / "bundles" / "open"
    folder.mkdir(parents=True)
    for network in (bundle.card.detector, bundle.card.embedder):
        (folder / network.file).symlink_to(bundle.path / network.file)
    card = json.loads(bundle.card.to_json())
    card["licence"] |= {"spdx": "CC-BY-NC-4.0", "commercial_use": False}
    (folder / CARD_FILE).write_text(json.dumps(card), encoding="utf-8")
    with served(tmp_path, tmp_path / "data") as server:
        info = httpx2.get(f"{server.url}/v1/info").json()
        assert info["bundle"]["licence"] == "CC-BY-NC-4.0"
        assert info["bundle"]["commercial_use"] is False
        assert "weights under CC-BY-NC-4.0" in server.log
        assert "WARNING The weights of bundle open are not licensed for commercial use." in server.log


def test_the_default_bundle_does_not_warn(tmp_path: Path, data_dir: Path, served: Serve) -> None:
    with served(data_dir, tmp_path) as server:
        assert httpx2.get(f"{server.url}/v1/info").json()["bundle"]["commercial_use"] is True
        assert "commercial" not in server.log
