"""Where commands call a running service: ``likeness.Client``, with the exit codes and the patience of a command."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import likeness
from likeness import gallery_calls, photo_calls
from likeness.client import DEFAULT_URL
from likeness.operations import Call
from service.api.errors import STATUS_AND_CODE
from service.errors import InvalidRequest, LikenessError, ModelMismatch, Unavailable, UnusableInput
from service.gallery.store_values import checked_id

# A service that restarts meanwhile is waited for.
PATIENT = likeness.Retries(attempts=10_000, patience_s=60)

_ERROR_OF_CODE = {code: kind for kind, (_, code) in STATUS_AND_CODE.items()}


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Where the service is and with which key it is called."""
    command.add_argument("--url", help=f"address of the service (environment: LIKENESS_URL; default: {DEFAULT_URL})")
    command.add_argument("--key", help="access key (better in the environment, as LIKENESS_KEY: others see arguments)")


@contextmanager
def client_of(args: argparse.Namespace, connections: int = 1) -> Iterator["Client"]:
    """The client that the arguments and the environment name. An address at which nobody listens is told at once.

    Raises:
        Unavailable: nobody answers, or not the service.
        LikenessError: what the service said, in this block.
    """
    try:
        opened = likeness.Client(args.url, args.key, retries=PATIENT, connections=connections)
    except ValueError as error:
        raise InvalidRequest(str(error)) from error
    with _as_commands_say(), opened as remote:
        remote.with_options(retries=likeness.NO_RETRIES).live()
        yield Client(remote)


class Client:
    """Calls one service for the JSON of its answers. Thread-safe."""

    def __init__(self, remote: likeness.Client) -> None:
        self.remote = remote

    def answer(self, call: Call[Any]) -> Any:
        """What the service says, as it says it. Errors are those of ``likeness.errors``."""
        return self.remote.send(replace(call, read=lambda response: response.json()))

    def pages(self, call: Call[Any]) -> Iterator[Any]:
        """All pages of a list."""
        while True:
            page = self.answer(call)
            yield page
            if page["cursor"] is None:
                return
            call = replace(call, params={**call.params, "cursor": page["cursor"]})


def prepare_gallery(client: Client, gallery: str, name: str | None = None, description: str | None = None) -> Any:
    """Facts about the service, whose templates the gallery takes; it is made with name and description if it is not
    there.

    Raises:
        InvalidRequest: it is no id.
        ModelMismatch: it holds those of another contract.
    """
    checked_id("gallery", gallery)
    info = client.answer(photo_calls.info())
    try:
        record = client.answer(gallery_calls.get_gallery(gallery))
    except likeness.GalleryNotFound:
        record = client.answer(gallery_calls.put_gallery(gallery, name=name, description=description))
    if record["embedding_contract"] != info["embedding_contract"]:
        raise ModelMismatch(
            f"The gallery {gallery!r} holds templates of the contract {record['embedding_contract'][:16]}…, these are "
            f"of {info['embedding_contract'][:16]}…. Use another gallery.",
            {"embedding_contract": record["embedding_contract"]},
        )
    return info


def as_service_error(error: likeness.LikenessError) -> LikenessError:
    """The error that decides the exit code, and says what can be done on a command line."""
    if isinstance(error, likeness.ServiceError):
        if error.code in _ERROR_OF_CODE:
            return _ERROR_OF_CODE[error.code](error.message, error.details)
        kind = Unavailable if error.status >= 500 else UnusableInput
        return kind(str(error), {**error.details, "code": error.code})
    if isinstance(error, likeness.ConnectionFailed):
        advice = "Start one with `likeness serve`, or say where it is with --url or LIKENESS_URL."
    else:
        advice = "Look at its log." if isinstance(error, likeness.TimedOut) else "Check --url."
    return Unavailable(f"{error.message} {advice}")


@contextmanager
def _as_commands_say() -> Iterator[None]:
    try:
        yield
    except likeness.LikenessError as error:
        raise as_service_error(error) from error
