"""A call as a value, and methods made of it: each is written once and stands in both clients.

A function describes the call; as an ``Operation`` it is a method that answers with the result in ``Client``, and with
an awaitable of it in ``AsyncClient``. A ``PagedOperation`` gives an iterator over the items of all pages.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import Any, Generic, ParamSpec, TypeVar, overload
from urllib.parse import quote

import httpx

from likeness.bodies import Body
from likeness.errors import NotFound
from likeness.parsing import parse

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Call(Generic[T]):
    """One call of the service.

    Attributes:
        path: of ``path_of``.
        read: makes the result of a good answer.
        repeatable: whether it may be sent again when nobody knows what became of it: it changes nothing, or the same
            once more changes nothing, or its idempotency key sees to it.
        absent: the result when what it deletes is not there, although a lost try before may have deleted it.
    """

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    params: Mapping[str, str | int] = field(default_factory=dict)
    body: Body | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = True
    absent: Callable[[NotFound], T] | None = None


@dataclass(frozen=True)
class Page(Generic[T]):
    """``cursor`` leads to the next page; None: this is the last."""

    items: tuple[T, ...]
    cursor: str | None


def path_of(*parts: str) -> str:
    """``/v1/a/b`` of ids.

    Raises:
        ValueError: an id that is empty or has a slash. The path would be another one, even escaped, and the call
            perhaps another: the person ``ann/faces/f1`` would be a face.
    """
    for part in parts:
        if not part or "/" in part:
            raise ValueError(f"{part!r:.200} is no id. Ids are 1 to 128 letters, digits or any of . _ : -")
    # One of dots alone would be taken for a step up.
    escaped = (part.replace(".", "%2E") if not part.strip(".") else quote(part, safe="") for part in parts)
    return "".join(f"/{part}" for part in ("v1", *escaped))


def as_json(kind: type[T]) -> Callable[[httpx.Response], T]:
    """Reads an answer as a ``kind``."""
    return lambda response: parse(kind, response.json())


def as_page(name: str, kind: type[T]) -> Callable[[httpx.Response], Page[T]]:
    """Reads a page whose items are the field ``name``."""

    def read(response: httpx.Response) -> Page[T]:
        answer = response.json()
        return Page(tuple(parse(kind, item) for item in answer[name]), answer["cursor"])

    return read


class Sender(ABC):
    """A client that waits for answers."""

    @abstractmethod
    def send(self, call: Call[T]) -> T: ...


class AsyncSender(ABC):
    """A client whose answers are awaited."""

    @abstractmethod
    async def send(self, call: Call[T]) -> T: ...


class Operation(Generic[P, T]):
    """A method of both clients.

    Attributes:
        name: of the operation in the service's OpenAPI document; None where it is any.
        describe: the function that makes the call.
    """

    def __init__(self, name: str | None, describe: Callable[P, Call[T]]) -> None:
        self.name, self.describe = name, describe
        self.__doc__ = describe.__doc__

    @overload
    def __get__(self, client: Sender, owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, client: AsyncSender, owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    @overload
    def __get__(self, client: None, owner: type) -> "Operation[P, T]": ...
    def __get__(self, client: Sender | AsyncSender | None, owner: type) -> Any:
        if client is None:
            return self

        @wraps(self.describe)
        def method(*args: P.args, **kwargs: P.kwargs) -> Any:
            return client.send(self.describe(*args, **kwargs))

        return method


class PagedOperation(Generic[P, T]):
    """A method of both clients that iterates over all pages of a list; a page is asked for when it is needed."""

    def __init__(self, name: str, describe: Callable[P, Call[Page[T]]]) -> None:
        self.name, self.describe = name, describe
        self.__doc__ = describe.__doc__

    @overload
    def __get__(self, client: Sender, owner: type) -> Callable[P, Iterator[T]]: ...
    @overload
    def __get__(self, client: AsyncSender, owner: type) -> Callable[P, AsyncIterator[T]]: ...
    @overload
    def __get__(self, client: None, owner: type) -> "PagedOperation[P, T]": ...
    def __get__(self, client: Sender | AsyncSender | None, owner: type) -> Any:
        if client is None:
            return self

        @wraps(self.describe)
        def method(*args: P.args, **kwargs: P.kwargs) -> Any:
            first = self.describe(*args, **kwargs)
            return items(client, first) if isinstance(client, Sender) else items_async(client, first)

        return method


def items(client: Sender, call: Call[Page[T]]) -> Iterator[T]:
    """All items of a list whose first page is ``call``."""
    while True:
        page = client.send(call)
        yield from page.items
        if page.cursor is None:
            return
        call = _following(call, page)


async def items_async(client: AsyncSender, call: Call[Page[T]]) -> AsyncIterator[T]:
    """All items of a list whose first page is ``call``."""
    while True:
        page = await client.send(call)
        for item in page.items:
            yield item
        if page.cursor is None:
            return
        call = _following(call, page)


def _following(call: Call[Page[T]], page: Page[T]) -> Call[Page[T]]:
    assert page.cursor is not None
    return replace(call, params={**call.params, "cursor": page.cursor})
