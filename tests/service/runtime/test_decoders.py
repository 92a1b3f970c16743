"""Decoding in other processes: the same pixels and the same refusals; a decoder that dies takes one photo along."""

import io
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from service.errors import ImageTooLarge, InvalidImage, UnsupportedMediaType
from service.recognition.decode import decode
from service.runtime import decoders as room
from service.runtime.decoders import Decoders

MOST = 2_000_000


@pytest.fixture(scope="module")
def decoders() -> Iterator[Decoders]:
    decoders = Decoders(2, MOST)
    decoders.warm_up()
    assert all(running._ready for running in decoders._all)
    yield decoders
    decoders.close()


def encoded(kind: str, size: tuple[int, int] = (300, 200), mode: str = "RGB") -> bytes:
    noise = np.random.default_rng(3).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    out = io.BytesIO()
    PillowImage.fromarray(noise).resize(size).convert(mode).save(out, kind)
    return out.getvalue()


@pytest.mark.parametrize(
    ("kind", "mode"), [("JPEG", "RGB"), ("JPEG", "CMYK"), ("PNG", "RGBA"), ("PNG", "P"), ("WEBP", "RGB"), ("BMP", "L")]
)
def test_the_pixels_are_the_same(decoders: Decoders, kind: str, mode: str) -> None:
    for size in ((300, 200), (1, 1), (7, 1000)):
        content = encoded(kind, size, mode)
        found = decoders(content, MOST).pixels
        assert np.array_equal(found, decode(content, MOST).pixels)
        assert found.flags["C_CONTIGUOUS"]


def test_the_refusals_are_the_same(decoders: Decoders) -> None:
    whole = encoded("PNG")
    for content, kind in (
        (b"", InvalidImage),
        (b"hello", UnsupportedMediaType),
        (whole[:200], InvalidImage),
        (whole[:30], InvalidImage),
        (encoded("JPEG", (2000, 1001)), ImageTooLarge),
    ):
        errors = []
        for way in (decoders, decode):
            with pytest.raises(kind) as refused:
                way(content, MOST)
            errors.append((type(refused.value), refused.value.message, refused.value.details))
        assert errors[0] == errors[1]


def test_a_decoder_that_dies_between_photos_is_replaced(decoders: Decoders) -> None:
    for number in (signal.SIGSEGV, signal.SIGKILL):
        for running in list(decoders._all):
            running._process.send_signal(number)
            running._process.wait()
        for _ in range(3):
            assert decoders(encoded("JPEG"), MOST).width == 300


def test_a_decoder_that_dies_at_a_photo_refuses_that_photo(caplog: pytest.LogCaptureFixture) -> None:
    decoders = Decoders(1, MOST)
    decoders(encoded("JPEG"), MOST)
    (running,) = decoders._all
    running._process.send_signal(signal.SIGSTOP)
    dying = threading.Timer(0.2, running._process.send_signal, [signal.SIGSEGV])
    waking = threading.Timer(0.3, running._process.send_signal, [signal.SIGCONT])
    dying.start()
    waking.start()
    with pytest.raises(InvalidImage, match="died"):
        decoders(encoded("JPEG"), MOST)
    assert "A decoder died" in caplog.text
    assert decoders(encoded("JPEG"), MOST).width == 300
    dying.join()
    waking.join()
    decoders.close()


def test_a_decoder_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    decoders = Decoders(1, MOST)
    decoders(encoded("JPEG"), MOST)
    (stopped,) = decoders._all
    stopped._process.send_signal(signal.SIGSTOP)
    monkeypatch.setattr(room, "PATIENCE_S", 0.3)
    start = time.monotonic()
    with pytest.raises(InvalidImage, match="died"):
        decoders(encoded("JPEG"), MOST)
    assert time.monotonic() - start < 5
    monkeypatch.undo()
    assert decoders(encoded("JPEG"), MOST).height == 200
    decoders.close()


def test_many_threads_share_them(decoders: Decoders) -> None:
    contents = [encoded("PNG", (50 + n, 40)) for n in range(12)]
    found: dict[int, int] = {}

    def work(n: int) -> None:
        found[n] = decoders(contents[n], MOST).width

    threads = [threading.Thread(target=work, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: 50 + n for n in range(12)}


def test_a_decoder_finds_no_secrets_and_opens_no_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LIKENESS_MASTER_KEY", "secret")
    one = Decoders(1, MOST)
    one(encoded("JPEG"), MOST)
    (running,) = one._all
    assert b"LIKENESS" not in Path(f"/proc/{running._process.pid}/environ").read_bytes()
    opened = {str(link.readlink()) for link in Path(f"/proc/{running._process.pid}/fd").iterdir()}
    assert all(name.startswith(("pipe:", "/dev/null", "/memfd:pixels")) for name in opened)
    one.close()
    (tmp_path / "secret").write_text("secret")
    code = (
        "import sys; from service.recognition import decoder_process as p; p._rehearse(); p._confine(1000)\n"
        f"try: print(open({str(tmp_path / 'secret')!r}).read())\n"
        "except PermissionError: print('refused')"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    if told == "secret":
        pytest.skip("the kernel has no Landlock")
    assert told == "refused"


def test_a_decoder_that_lies_is_not_believed(decoders: Decoders, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that a photo has taken over would: more pixels than there are, more than allowed, an unknown error."""
    content = encoded("JPEG")
    answers = iter([(0, 5000, 5000, 0), (0, 0, 3, 0), (0, 1000, 1000, 0), (0, 100, 150, 1), (1, 2**40, 0, 0)])

    class Lying:
        size = room.ANSWER.size

        @staticmethod
        def unpack(_: bytes) -> tuple[int, int, int, int]:
            return next(answers)

    decoders(content, MOST)
    with monkeypatch.context() as patch:
        patch.setattr(room, "ANSWER", Lying)
        for _ in range(5):
            with pytest.raises(InvalidImage, match="died"):
                decoders(content, MOST)
    assert decoders(content, MOST).width == 300
    for nonsense in (b"{", b"[]", b'["SystemExit", "", {}]', b'["InvalidImage", "", 3]'):
        with pytest.raises(room.DecoderDied):
            room._error(nonsense)
