"""Decodes photos in processes of their own, so that a crash in a codec costs one photo and not the service."""

import json
import logging
import os
import queue
import selectors
import subprocess
import sys
import threading
import time
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from service import errors
from service.errors import ImageTooLarge, InvalidImage, Unavailable, UnsupportedMediaType
from service.recognition.decoder_process import ANSWER, DONE, REQUEST
from service.recognition.types import Image

log = logging.getLogger(__name__)

# Of the largest photo it takes a second or two.
PATIENCE_S = 30.0
_STARTING_S = 60.0
_MOST_TOLD = 64 * 1024
_ERRORS = {kind.__name__: kind for kind in (InvalidImage, ImageTooLarge, UnsupportedMediaType)}
# No master key, and nothing else of the service's environment.
_INHERITED = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "SYSTEMROOT")


class DecoderDied(Exception):
    """The process ended, or said what it never says."""


class Decoders:
    """A number of decoding processes, started anew when one has died. Thread-safe."""

    def __init__(self, count: int, max_pixels: int) -> None:
        """
        Args:
            count: photos that are decoded at once; others wait.
            max_pixels: larger photos are refused from their header.
        """
        self._count, self._max_pixels = count, max_pixels
        # None stands for one that is not running.
        self._free: queue.LifoQueue[_Decoder | None] = queue.LifoQueue()
        self._all: set[_Decoder] = set()
        self._changing = threading.Lock()
        self._closed = False
        for _ in range(count):
            self._free.put(self._start())

    def __call__(self, content: bytes, max_pixels: int, level: int = 0) -> Image:
        """As ``service.recognition.decode.decode``; a photo at which the decoder dies is an InvalidImage too."""
        pixels, decoded = self._decoded(content, max_pixels, level)
        return Image(pixels, decoded, lambda: self._decoded(content, max_pixels, 0)[0])

    def _decoded(self, content: bytes, max_pixels: int, level: int) -> tuple[NDArray[np.uint8], int]:
        """The pixels, and the level that they are."""
        if not content:
            raise InvalidImage("The image is empty (0 bytes).")
        decoder = self._free.get()
        try:
            if decoder is None or decoder.ended:
                # Not at this photo.
                self._stop(decoder)
                decoder = self._start()
            return decoder.decode(content, min(max_pixels, self._max_pixels), level)
        except (DecoderDied, OSError) as error:
            log.warning("A decoder died at a photo of %d bytes: %s", len(content), error)
            self._stop(decoder)
            decoder = None
            raise InvalidImage(
                f"The image of {len(content):,} bytes cannot be decoded: the decoder died at it."
            ) from error
        except BaseException as error:
            # In the middle of an answer, nobody knows what comes next.
            if not isinstance(error, InvalidImage):
                self._stop(decoder)
                decoder = None
            raise
        finally:
            self._free.put(decoder)

    def warm_up(self) -> None:
        """Wait until all processes can decode."""
        held = [self._free.get() for _ in range(self._count)]
        try:
            for decoder in held:
                if decoder is not None:
                    decoder.wait_until_ready()
        except (DecoderDied, OSError) as error:
            raise Unavailable(f"The processes that decode photos do not come up: {error}") from error
        finally:
            for decoder in held:
                self._free.put(decoder)

    def close(self) -> None:
        """End all processes."""
        with self._changing:
            self._closed = True
            running, self._all = self._all, set()
        for decoder in running:
            decoder.close()

    def _start(self) -> "_Decoder":
        decoder = _Decoder(self._max_pixels)
        with self._changing:
            if not self._closed:
                self._all.add(decoder)
                return decoder
        decoder.close()
        raise Unavailable("The service is stopping.")

    def _stop(self, decoder: "_Decoder | None") -> None:
        if decoder is not None:
            with self._changing:
                self._all.discard(decoder)
            decoder.close()


class _Decoder:
    """One process, see ``service.recognition.decoder_process``."""

    def __init__(self, max_pixels: int) -> None:
        self._shared = os.memfd_create("pixels", os.MFD_CLOEXEC)
        command = [sys.executable, "-m", "service.recognition.decoder_process", str(self._shared), str(max_pixels)]
        clean = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=[self._shared],
            env=clean,
            bufsize=0,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)
        self._waiting = selectors.DefaultSelector()
        # It says so once; until then it is still loading what it needs.
        self._ready = False

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def wait_until_ready(self) -> None:
        if not self._ready:
            self._read(ANSWER.size, time.monotonic() + _STARTING_S)
            self._ready = True

    def decode(self, content: bytes, max_pixels: int, level: int) -> tuple[NDArray[np.uint8], int]:
        self.wait_until_ready()
        deadline = time.monotonic() + PATIENCE_S
        self._write(REQUEST.pack(len(content), max_pixels, level) + content, deadline)
        status, first, second, decoded = ANSWER.unpack(self._read(ANSWER.size, deadline))
        if status == DONE:
            if decoded > level:
                raise DecoderDied(f"it says that it decoded in level {decoded}, and was to in {level} at most")
            return self._pixels(first, second, max_pixels >> 2 * decoded), decoded
        if first > _MOST_TOLD:
            raise DecoderDied("its answer is too long")
        raise _error(self._read(first, deadline))

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._waiting.close()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        if self._shared >= 0:
            os.close(self._shared)
            self._shared = -1

    def _pixels(self, height: int, width: int, max_pixels: int) -> NDArray[np.uint8]:
        # Read, not mapped: a process that was taken over could cut the file off under a mapping.
        if not 0 < height * width <= max_pixels:
            raise DecoderDied(f"it says {height} × {width} pixels")
        pixels = np.empty((height, width, 3), np.uint8)
        rest, offset = memoryview(pixels.data).cast("B"), 0
        while offset < len(rest):
            count = os.preadv(self._shared, [rest[offset:]], offset)
            if count == 0:
                raise DecoderDied("pixels are missing")
            offset += count
        return pixels

    def _write(self, content: bytes, deadline: float) -> None:
        rest = memoryview(content)
        while rest:
            try:
                rest = rest[os.write(self._in, rest) :]
            except BlockingIOError:
                self._wait(self._in, selectors.EVENT_WRITE, deadline)

    def _read(self, size: int, deadline: float) -> bytes:
        content = b""
        while len(content) < size:
            try:
                part = os.read(self._out, size - len(content))
            except BlockingIOError:
                self._wait(self._out, selectors.EVENT_READ, deadline)
                continue
            if not part:
                raise DecoderDied(f"it ended with {self._process.wait()}")
            content += part
        return content

    def _wait(self, descriptor: int, event: int, deadline: float) -> None:
        self._waiting.register(descriptor, event)
        try:
            if not self._waiting.select(max(0.0, deadline - time.monotonic())):
                raise DecoderDied("it took too long")
        finally:
            self._waiting.unregister(descriptor)


def _error(content: bytes) -> errors.LikenessError:
    try:
        name, message, details = json.loads(content)
        return _ERRORS[name](str(message), dict(details))
    except (ValueError, KeyError, TypeError) as error:
        raise DecoderDied("its answer makes no sense") from error
