"""Who may call what, and what is written down of it: for every call, before its body is read."""

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Annotated, Any

import anyio
import anyio.to_thread
from fastapi import Depends, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.errors import status_and_code
from service.errors import Forbidden, LikenessError, RateLimited, Unauthorized
from service.runtime.caller import current
from service.security.access_keys import AccessKeys
from service.security.audit_log import AuditLog, Event, Receipt
from service.security.key_limits import KeyLimits, LocalLimits
from service.security.scopes import NEEDED, OF_ALL_GALLERIES, PUBLIC

RECEIPT = "x-erasure-receipt"
NO_AUTH = "no-auth"
# Looked at, and not changed: their lines need not be on the disk before the answer.
_LOOKS = frozenset({"search", "verify_person", "embed"})
_CALLER_LEFT = 499
# Where a request's scope has what holds its place among those of its key.
_INSIDE = "likeness_inside"


@dataclass
class Guard:
    """What the application is guarded with; without keys everybody may do everything."""

    keys: AccessKeys | None = None
    audit: AuditLog | None = None
    limits: KeyLimits = field(default_factory=LocalLimits)

    def close(self) -> None:
        """Leave all three, the audit log last."""
        self.limits.close()
        if self.keys is not None:
            self.keys.close()
        if self.audit is not None:
            self.audit.close()


@dataclass
class Asker:
    """Who asks.

    Attributes:
        actor: id of the access key, as the audit log names it.
        galleries: the only ones that the key is for; None: all.
        told: what the call adds to the audit log.
    """

    actor: str
    galleries: frozenset[str] | None = None
    told: dict[str, Any] = field(default_factory=dict)


async def admit(request: Request) -> AsyncIterator[None]:
    """A dependency of every call of the application.

    Nothing is asked of the store for it: an answer that took longer for a gallery that is there would tell so.

    Raises:
        Unauthorized: no access key, or not one of ours.
        RateLimited: the key has been used too often; calls that it is not for count too.
        Forbidden: the key is not for this call, or not for this gallery, whether there is one or not.
        InsufficientStorage: the audit log could not tell of a change.
        Unavailable: what is kept of keys cannot be asked.
    """
    call = request.scope["route"].name
    guard: Guard = request.app.state.guard
    if call in PUBLIC or guard.keys is None:
        request.state.asker = Asker(NO_AUTH)
        await _require_room(request, guard)
        yield
        return
    presented = _presented(request)
    await guard.keys.in_step()
    key = guard.keys.find(presented)
    request.state.asker = Asker(key.id, key.galleries)
    current().tenant = key.id
    async with AsyncExitStack() as inside:
        await inside.enter_async_context(guard.limits.admitted(key))
        request.scope[_INSIDE] = inside
        if key.scopes.isdisjoint(NEEDED.get(call, frozenset())):
            raise Forbidden(f"The access key has no scope for this call; it needs {_or(call)}.")
        gallery = request.path_params.get("gallery")
        if key.galleries is not None and gallery is not None and gallery not in key.galleries:
            raise Forbidden("The access key is not for this gallery.")
        if key.galleries is not None and call in OF_ALL_GALLERIES:
            raise Forbidden("The access key is for some galleries only; this call tells of all.")
        await _require_room(request, guard)
        yield


async def _require_room(request: Request, guard: Guard) -> None:
    """Raises InsufficientStorage where the audit log has no room left for the change that is asked for."""
    route = request.scope["route"]
    if guard.audit is not None and isinstance(route, AuditedRoute) and route.adds(request.method):
        await anyio.to_thread.run_sync(guard.audit.require_room)


class CountedRequests:
    """Frees the place of a request just before the end of its answer is sent.

    The dependency itself ends after that, and by then the caller may have asked again, perhaps another replica.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_freeing(message: Message) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                inside: AsyncExitStack | None = scope.get(_INSIDE)
                if inside is not None:
                    await inside.aclose()
            await send(message)

        await self.app(scope, receive, send_freeing)


async def _asker(request: Request) -> Asker:
    asker: Asker = request.state.asker
    return asker


AskerDep = Annotated[Asker, Depends(_asker)]


class AuditedRoute(APIRoute):
    """A call that the audit log tells of: allowed or refused, done or failed."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def audited(request: Request) -> Response:
            audit: AuditLog | None = request.app.state.guard.audit
            if audit is None:
                return await handle(request)
            receipt: Receipt | None = None
            status = 500
            told = True
            try:
                response = await handle(request)
                status = response.status_code
            except anyio.get_cancelled_exc_class():
                status = _CALLER_LEFT
                raise
            except (Unauthorized, RateLimited):
                # Nothing was looked at, and the disk could be filled with it: by anybody, or past the limit.
                told = False
                raise
            except LikenessError as error:
                status, _ = status_and_code(error)
                raise
            finally:
                # Without an asker nobody is known to have done anything.
                if told and hasattr(request.state, "asker"):
                    receipt = await self._tell(audit, request, status)
            if request.method == "DELETE" and receipt is not None:
                return _with_receipt(request, response, receipt)
            return response

        return audited

    def adds(self, method: str) -> bool:
        """Whether the call may put something on the disk; it changes something and does not only delete."""
        return method not in ("GET", "DELETE") and self.name not in _LOOKS

    async def _tell(self, audit: AuditLog, request: Request, status: int) -> Receipt | None:
        asker: Asker = request.state.asker
        place = request.path_params
        event = Event(
            asker.actor,
            self.name,
            place.get("gallery"),
            place.get("person"),
            place.get("face_id"),
            status,
            request.state.request_id,
            asker.told,
        )
        changes = request.method != "GET" and self.name not in _LOOKS
        # Also for a caller who has left.
        with anyio.CancelScope(shield=True):
            return await anyio.to_thread.run_sync(audit.append, event, changes, request.method == "DELETE")
        raise AssertionError("A shielded scope is not cancelled.")


def _with_receipt(request: Request, response: Response, receipt: Receipt) -> Response:
    if "return=representation" in request.headers.get("prefer", "").replace(" ", ""):
        place = {name: id for name, id in request.path_params.items() if name in ("gallery", "person", "face_id")}
        response = JSONResponse(
            {"erased": place, "at": receipt.at, "receipt": str(receipt)},
            headers={"preference-applied": "return=representation"},
        )
    response.headers[RECEIPT] = str(receipt)
    return response


def _presented(request: Request) -> str:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key:
        raise Unauthorized("This call needs an access key, as `Authorization: Bearer KEY`.")
    return key.strip()


def _or(call: str) -> str:
    return " or ".join(sorted(NEEDED.get(call, frozenset()))) or "one that no key has"
