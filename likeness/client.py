"""The two clients: how a call is sent, waited for and sent again. What can be called stands in ``likeness.api``."""

import copy
import os
import ssl
import threading
from collections.abc import Sequence
from pathlib import Path
from types import EllipsisType
from typing import TypeVar

import httpx

from likeness.api import Api
from likeness.enrolment import PhotoOutcome, Plan, Told, run, run_async
from likeness.errors import LikenessError
from likeness.folders import PersonFolder, persons_of
from likeness.operations import AsyncSender, Call, Sender
from likeness.pauses import Pauses
from likeness.photo_calls import OneFacePolicy, QualityPolicy
from likeness.retries import DEFAULT_RETRIES, Retries
from likeness.transport import Options, Progress, Trial, authorization, checked_url

DEFAULT_URL = "http://127.0.0.1:8000"
CONNECTIONS = 20

T = TypeVar("T")
Self = TypeVar("Self", bound="_Configured")


def address_of(url: str | None) -> str:
    """The address that is given, or that the environment names."""
    return url or os.environ.get("LIKENESS_URL") or DEFAULT_URL


def key_of(api_key: str | None) -> str | None:
    """The access key that is given, or that the environment has."""
    return api_key or os.environ.get("LIKENESS_API_KEY") or os.environ.get("LIKENESS_KEY") or None


class _Configured:
    """What both clients are told."""

    _options: Options

    def __init__(self, url: str | None, api_key: str | None, options: Options) -> None:
        self.url = checked_url(address_of(url))
        self._headers, self._options = authorization(key_of(api_key)), options

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def with_options(
        self: Self,
        *,
        timeout_s: float | EllipsisType | None = ...,
        retries: Retries | EllipsisType = ...,
        on_upload: Progress | EllipsisType | None = ...,
    ) -> Self:
        """The same client, over the same connections, with other options: ``client.with_options(timeout_s=2).verify``.

        Args:
            timeout_s: how long a call may take, all attempts together. The service is told, and drops what is late.
            retries: how often a call is made again.
            on_upload: called with the bytes that have been sent and their total, while a call is sent.
        """
        now, other = self._options, copy.copy(self)
        other._options = Options(
            now.timeout_s if timeout_s is ... else timeout_s,
            now.retries if retries is ... else retries,
            now.on_upload if on_upload is ... else on_upload,
        )
        return other


def _persons(folder: str | os.PathLike[str] | Sequence[PersonFolder]) -> Sequence[PersonFolder]:
    return persons_of(Path(folder)) if isinstance(folder, str | os.PathLike) else folder


class Client(_Configured, Api, Sender):
    """Calls one service and waits for its answers. Threads may share it; a context manager.

    A call that met a busy or starting service is made again after the pause that the service asks for; after a broken
    connection only where that can do no harm: see ``Retries``. What goes wrong is a ``LikenessError``.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_s: float | None = None,
        retries: Retries = DEFAULT_RETRIES,
        on_upload: Progress | None = None,
        connections: int = CONNECTIONS,
        verify: ssl.SSLContext | bool = True,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """
        Args:
            url: of the service; without it ``LIKENESS_URL``, then http://127.0.0.1:8000.
            api_key: an access key; without it ``LIKENESS_API_KEY``, then ``LIKENESS_KEY``.
            timeout_s: see ``with_options``, as for ``retries`` and ``on_upload``.
            connections: at most so many at a time; more calls wait for one.
            verify: which certificates are believed.
            transport: of httpx, in place of the network's.

        Raises:
            ValueError: an address or a key that cannot be one.
        """
        super().__init__(url, api_key, Options(timeout_s, retries, on_upload))
        limits = httpx.Limits(max_connections=connections)
        self._http = httpx.Client(headers=self._headers, limits=limits, verify=verify, transport=transport)
        self._closed = threading.Event()

    def send(self, call: Call[T]) -> T:
        """Make a call. The methods do this."""
        trial = Trial(call, self._options, self.url)
        while True:
            try:
                return trial.outcome(call, self._http.send(trial.request(self._http)))
            except httpx.HTTPError as error:
                failure = trial.failure(error)
                failure.__cause__ = error
            except LikenessError as error:
                failure = error
            if self._closed.wait(trial.pause_after(failure)):
                raise failure

    def enrol_folder(
        self,
        gallery: str,
        folder: str | os.PathLike[str] | Sequence[PersonFolder],
        *,
        faces: OneFacePolicy = "single",
        quality: QualityPolicy = "enrol",
        workers: int = 4,
        on_outcome: Told | None = None,
    ) -> tuple[PhotoOutcome, ...]:
        """Enrol the photos of a folder, one sub-folder a person, each named after the person. Run again, it sends only
        what is not there yet.

        Args:
            gallery: made if it is not there, as are the persons.
            folder: or what stands for its sub-folders, where photos are kept in another way.
            faces, quality: as for ``enrol``.
            workers: photos sent at once.
            on_outcome: called with the outcome of each photo when it is known.

        Raises:
            ValueError: there is no photo in the folder.
            LikenessError: one that is not a photo's own; what was enrolled before stays.
        """
        plan = Plan(gallery, _persons(folder), faces, quality, workers)
        return run(self, plan, on_outcome)

    def close(self) -> None:
        """Close the connections; whoever waits to make a call again gives up."""
        self._closed.set()
        self._http.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient(_Configured, Api, AsyncSender):
    """``Client`` for asyncio and trio; an asynchronous context manager."""

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_s: float | None = None,
        retries: Retries = DEFAULT_RETRIES,
        on_upload: Progress | None = None,
        connections: int = CONNECTIONS,
        verify: ssl.SSLContext | bool = True,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """See ``Client``."""
        super().__init__(url, api_key, Options(timeout_s, retries, on_upload))
        limits = httpx.Limits(max_connections=connections)
        self._http = httpx.AsyncClient(headers=self._headers, limits=limits, verify=verify, transport=transport)
        self._pauses = Pauses()

    async def send(self, call: Call[T]) -> T:
        """Make a call. The methods do this."""
        trial = Trial(call, self._options, self.url)
        while True:
            try:
                return trial.outcome(call, await self._http.send(trial.request(self._http)))
            except httpx.HTTPError as error:
                failure = trial.failure(error)
                failure.__cause__ = error
            except LikenessError as error:
                failure = error
            if await self._pauses.wait(trial.pause_after(failure)):
                raise failure

    async def enrol_folder(
        self,
        gallery: str,
        folder: str | os.PathLike[str] | Sequence[PersonFolder],
        *,
        faces: OneFacePolicy = "single",
        quality: QualityPolicy = "enrol",
        workers: int = 4,
        on_outcome: Told | None = None,
    ) -> tuple[PhotoOutcome, ...]:
        """See ``Client.enrol_folder``."""
        plan = Plan(gallery, _persons(folder), faces, quality, workers)
        return await run_async(self, plan, on_outcome)

    async def close(self) -> None:
        """See ``Client.close``."""
        self._pauses.end()
        await self._http.aclose()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
