"""From a call to an HTTP request, and from an HTTP answer to a result or an error. Nothing here waits or sends."""

import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx

from likeness.errors import (
    ERROR_OF_CODE,
    ConnectionFailed,
    LikenessError,
    NotFound,
    NotTheService,
    ServiceError,
    TimedOut,
)
from likeness.operations import Call
from likeness.retries import DEFAULT_RETRIES, Attempts, Retries

CONNECT_S, ANSWER_S = 10.0, 300.0
# A service that is told a deadline says itself that it is past; this long it is waited for.
GRACE_S = 1.0
CHUNK = 64 * 1024
# Bad gateway, no server available, gateway timeout.
_LOST_BEHIND_A_PROXY = (502, 503, 504)

Progress = Callable[[int, int], object]
"""Called with the bytes of a body that have been sent, and their total; an attempt starts from 0 again."""

T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """Of one client; see ``Client.with_options``."""

    timeout_s: float | None = None
    retries: Retries = DEFAULT_RETRIES
    on_upload: Progress | None = None


class Trial(Attempts):
    """One call on its way: makes the request of each attempt, and says what came of it."""

    def __init__(self, call: Call[Any], options: Options, url: str) -> None:
        super().__init__(options.retries, call.repeatable, options.timeout_s)
        self._call, self._options, self._url = call, options, url

    def request(self, client: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        """The request of the next attempt."""
        call, headers = self._call, dict(self._call.headers)
        if call.body is not None:
            headers["Content-Type"] = call.body.content_type
        remaining = self.remaining_s
        if remaining is not None:
            headers["X-Request-Timeout-Ms"] = str(int(remaining * 1000))
        request = client.build_request(
            call.method,
            f"{self._url}{call.path}",
            params=call.params or None,
            content=None if call.body is None else call.body.content,
            headers=headers,
            timeout=_timeout(remaining),
        )
        if call.body is not None and self._options.on_upload is not None:
            request.stream = _Counted(call.body.content, self._options.on_upload)
        return request

    def outcome(self, call: Call[T], response: httpx.Response) -> T:
        """The result that an answer has.

        Raises:
            ServiceError: it is an error.
            ConnectionFailed: a proxy says that it did not reach the service, or lost it.
            NotTheService: it is nobody's whom we know.
        """
        if response.is_success:
            try:
                return call.read(response)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise _stranger(self._url, response) from error
        told = error_of(response)
        if told is None and response.status_code in _LOST_BEHIND_A_PROXY:
            raise ConnectionFailed(
                f"What answers at {self._url} has no service behind it (status {response.status_code})."
            )
        if told is None:
            raise _stranger(self._url, response)
        if call.absent is not None and isinstance(told, NotFound) and self.answer_lost:
            return call.absent(told)
        raise told

    def failure(self, error: httpx.HTTPError) -> LikenessError:
        """What the network's error means."""
        if isinstance(error, httpx.TimeoutException):
            return TimedOut(f"The service at {self._url} did not answer in time ({type(error).__name__}).")
        if isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError):
            return ConnectionFailed(f"No service answers at {self._url}: {str(error) or type(error).__name__}")
        return LikenessError(f"{self._url} cannot be called: {error}")


def error_of(response: httpx.Response) -> ServiceError | None:
    """The error that an answer tells; None if it does not look like one of the service."""
    try:
        answer = response.json()
        told = answer["error"]
        code, message, details = str(told["code"]), str(told["message"]), dict(told["details"])
    except (ValueError, KeyError, TypeError):
        return None
    kind = ERROR_OF_CODE.get(code, ServiceError)
    return kind(
        message,
        response.status_code,
        code,
        details,
        answer.get("request_id") or response.headers.get("x-request-id"),
        _retry_after_s(response.headers.get("Retry-After")),
    )


def checked_url(url: str) -> str:
    """The address without a slash at its end. ValueError if it is none."""
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError) as error:
        raise ValueError(f"{url!r} is no address of a service: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError(f"{url!r} is no address of a service; it has to look like http://127.0.0.1:8000.")
    if parsed.userinfo or parsed.query or parsed.fragment:
        # Not shown: errors and logs name the address, and a password would be in it.
        raise ValueError(
            "The address of the service has a user name, a query or a fragment; leave them out. An access key is given "
            "as api_key, or in LIKENESS_API_KEY."
        )
    return url.rstrip("/")


def authorization(key: str | None) -> dict[str, str]:
    """The header that carries an access key. ValueError, which does not say the key, if it cannot be one."""
    if key is None:
        return {}
    if not re.fullmatch(r"[\x21-\x7e]+", key):
        raise ValueError("The access key is empty or has characters other than printable ASCII.")
    return {"Authorization": f"Bearer {key}"}


class _Counted(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body in chunks that tells how much of it has been taken to be sent."""

    def __init__(self, content: bytes, told: Progress) -> None:
        self._content, self._told = content, told

    def __iter__(self) -> Iterator[bytes]:
        total = len(self._content)
        self._told(0, total)
        for start in range(0, total, CHUNK):
            yield self._content[start : start + CHUNK]
            self._told(min(start + CHUNK, total), total)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self:
            yield chunk


def _timeout(remaining_s: float | None) -> httpx.Timeout:
    if remaining_s is None:
        return httpx.Timeout(ANSWER_S, connect=CONNECT_S)
    return httpx.Timeout(remaining_s + GRACE_S, connect=min(CONNECT_S, remaining_s + GRACE_S))


def _retry_after_s(value: str | None) -> float | None:
    """Seconds, or a date, as proxies like to send."""
    if value is None:
        return None
    if re.fullmatch(r"\d{1,9}(\.\d+)?", value):
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _stranger(url: str, response: httpx.Response) -> NotTheService:
    return NotTheService(
        f"What answers at {url} is not this service (status {response.status_code}, "
        f"{response.headers.get('content-type', 'no content type')})."
    )
