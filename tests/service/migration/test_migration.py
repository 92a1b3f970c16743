"""A gallery moves from one bundle to another: through the real application, networks and store."""

from collections.abc import Callable
from contextlib import AbstractContextManager

from tests.service.migration.conftest import Service

Opened = Callable[..., AbstractContextManager[Service]]


def test_a_gallery_with_crops_moves_in_the_background(
    opened: Opened,
    contracts: tuple[str, str],
    other_bundle: str,
    portrait: bytes,
    portrait_again: bytes,
    group_portraits: list[bytes],
) -> None:
    old, new = contracts
    with opened(keep_crops=True) as service:
        service.enrol("ann", [portrait])
        for number, photo in enumerate(group_portraits[:4]):
            service.enrol(f"p{number}", [photo])
        assert service.get("/migration")["phase"] == "none"
        assert service.found(portrait_again) == ("ann", old)
        begun = service.post("/migration", 201, json={"bundle": other_bundle})
        assert (begun["phase"], begun["embedding_contract"], begun["crops_fit"]) == ("embedding", old, True)
        assert begun["source"]["bundle"] == "open"
        assert begun["target"]["bundle"] == other_bundle
        assert service.found(portrait_again)[0] == "ann"
        told = service.until(lambda status: status["progress"]["faces_waiting"] == 0)
        assert told["progress"] == {
            "persons": 5,
            "persons_moved": 5,
            "faces": 5,
            "faces_embedded": 5,
            "faces_waiting": 0,
        }
        assert service.get("/migration/pending") == {"persons": [], "cursor": None}
        assert service.found(portrait_again) == ("ann", new)
        told = service.post("/migration/cut-over")
        assert (told["phase"], told["embedding_contract"]) == ("cut_over", new)
        assert service.found(portrait_again) == ("ann", new)
        assert service.post("/migration/roll-back")["embedding_contract"] == old
        assert service.found(portrait_again) == ("ann", old)
        service.post("/migration/cut-over")
        ended = service.post("/migration/finish")
        assert (ended["phase"], ended["embedding_contract"]) == ("none", new)
        assert service.found(portrait_again) == ("ann", new)
        service.enrol("p4", group_portraits[4:5])
        assert service.found(group_portraits[4]) == ("p4", new)
    with opened() as service:
        assert service.found(portrait_again) == ("ann", new)
        assert service.get("")["embedding_contract"] == new
