"""A small HTTP client of a running service, for commands."""

import argparse
import os
import random
import re
import threading
import time
from collections.abc import Iterator
from itertools import count
from typing import Any
from urllib.parse import quote

import requests
from requests.adapters import HTTPAdapter

from service.api.errors import STATUS_AND_CODE
from service.errors import GalleryNotFound, InvalidRequest, LikenessError, ModelMismatch, Unavailable, UnusableInput
from service.gallery.store_values import checked_id

DEFAULT_URL = "http://127.0.0.1:8000"
CONNECT_S, ANSWER_S = 10.0, 300.0
# For how long one request is tried again, and the longest pause between two tries.
PATIENCE_S, LONGEST_PAUSE_S = 60.0, 10.0

_ERROR_OF_CODE = {code: kind for kind, (_, code) in STATUS_AND_CODE.items()}


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Where the service is and with which key it is called."""
    command.add_argument("--url", help=f"address of the service (environment: LIKENESS_URL; default: {DEFAULT_URL})")
    command.add_argument("--key", help="access key (better in the environment, as LIKENESS_KEY: others see arguments)")


def client_of(args: argparse.Namespace, connections: int = 1) -> "Client":
    """The client that the arguments and the environment name."""
    url = args.url or os.environ.get("LIKENESS_URL") or DEFAULT_URL
    return Client(url, args.key or os.environ.get("LIKENESS_KEY") or None, connections)


class Client:
    """Calls one service. Thread-safe; a context manager.

    What the service says in an error is raised as the ``LikenessError`` of its code. A request that met a busy
    service (429, 503) is sent again after the pause that it asked for. After a broken connection a request is sent
    again only where that can do no harm, and only once the service has answered before: an address at which nobody
    listens is told at once.
    """

    def __init__(self, url: str, key: str | None = None, connections: int = 1) -> None:
        self.url = url.rstrip("/")
        self._session = requests.Session()
        self._session.mount("http://", HTTPAdapter(pool_maxsize=connections))
        self._session.mount("https://", HTTPAdapter(pool_maxsize=connections))
        if key is not None:
            # Checked here: the library would print it.
            if not re.fullmatch(r"[\x21-\x7e]+", key):
                raise InvalidRequest("The access key has characters other than printable ASCII.")
            self._session.auth = _Bearer(key)
        self._answered = False
        self._closed = threading.Event()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; whoever waits to send again gives up."""
        self._closed.set()
        self._session.close()

    def call(self, method: str, path: str, repeatable: bool | None = None, **request: Any) -> Any:
        """The JSON of an answer; None where it has no body.

        Args:
            path: below ``/v1``, see ``path_of``.
            repeatable: whether it may be sent again when nobody knows what became of it; None: all but POST.
            request: as ``requests`` takes it (``json``, ``data``, ``files``, ``params``, ``headers``).

        Raises:
            Unavailable: nobody answers, or not the service.
            LikenessError: what the service said.
        """
        if repeatable is None:
            repeatable = method != "POST"
        deadline = time.monotonic() + PATIENCE_S
        for attempt in count():
            pause = min(0.2 * 2**attempt, LONGEST_PAUSE_S) * random.uniform(0.5, 1)
            try:
                response = self._session.request(
                    method, f"{self.url}/v1{path}", timeout=(CONNECT_S, ANSWER_S), allow_redirects=False, **request
                )
            except ValueError as error:  # an address or a key that cannot be
                raise InvalidRequest(f"{self.url} cannot be called: {error}") from error
            except requests.RequestException as error:
                failure: LikenessError = self._unreachable(error)
                again = repeatable and self._answered
            else:
                self._answered = True
                if response.ok and not response.is_redirect:
                    return self._json(response) if response.content else None
                failure = self._refused(response)
                again = response.status_code in (429, 503)
                pause = max(pause, _retry_after(response))
            if not again or time.monotonic() + pause > deadline or self._closed.wait(pause):
                raise failure
        raise AssertionError("count() has no end")

    def pages(self, path: str, limit: int) -> Iterator[Any]:
        """All pages of a list."""
        cursor = None
        while True:
            page = self.call("GET", path, params={"limit": limit, **({"cursor": cursor} if cursor else {})})
            yield page
            cursor = page["cursor"]
            if cursor is None:
                return

    def _json(self, response: requests.Response) -> Any:
        try:
            return response.json()
        except ValueError as error:
            raise self._stranger(response) from error

    def _refused(self, response: requests.Response) -> LikenessError:
        try:
            error = response.json()["error"]
            code, message, details = str(error["code"]), str(error["message"]), dict(error["details"])
        except (ValueError, KeyError, TypeError):
            return self._stranger(response)
        if code in _ERROR_OF_CODE:
            return _ERROR_OF_CODE[code](message, details)
        kind = Unavailable if response.status_code >= 500 else UnusableInput
        request_id = response.headers.get("x-request-id")
        return kind(f"{message} ({code}, request {request_id})", {**details, "code": code})

    def _unreachable(self, error: requests.RequestException) -> Unavailable:
        if isinstance(error, requests.ReadTimeout):
            return Unavailable(f"The service at {self.url} did not answer within {ANSWER_S:g} s. Look at its log.")
        return Unavailable(
            f"No service answers at {self.url}. Start one with `likeness serve`, or say where it is with --url or "
            f"LIKENESS_URL. ({_reason(error)})"
        )

    def _stranger(self, response: requests.Response) -> Unavailable:
        return Unavailable(
            f"What answers at {self.url} is not this service (status {response.status_code}, "
            f"{response.headers.get('content-type', 'no content type')}). Check --url."
        )


def path_of(*parts: str) -> str:
    """``/a/b`` of parts that may hold anything."""
    return "".join(f"/{quote(part, safe='')}" for part in parts)


def prepare_gallery(client: Client, gallery: str, contract: str, **shown: str | None) -> None:
    """See to it that the gallery is there, made with the fields ``shown``, and takes templates of ``contract``.

    Raises:
        ModelMismatch: it holds those of another contract.
    """
    path = path_of("galleries", checked_id("gallery", gallery))
    try:
        record = client.call("GET", path)
    except GalleryNotFound:
        record = client.call("PUT", path, json=shown)
    if record["embedding_contract"] != contract:
        raise ModelMismatch(
            f"The gallery {gallery!r} holds templates of the contract {record['embedding_contract'][:16]}…, these are "
            f"of {contract[:16]}…. Use another gallery.",
            {"embedding_contract": record["embedding_contract"]},
        )


class _Bearer(requests.auth.AuthBase):
    # Not a header of the session: that a password in .netrc would replace.
    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._key}"
        return request


def _retry_after(response: requests.Response) -> float:
    asked = response.headers.get("Retry-After", "")
    return float(asked) if asked.isdecimal() else 0.0


def _reason(error: BaseException) -> str:
    """What the network said, without the layers of the libraries around it."""
    while (inner := error.__cause__ or error.__context__ or getattr(error, "reason", None)) is not None:
        error = inner
    return str(error) or type(error).__name__
