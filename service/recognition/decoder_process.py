"""Decodes photos in a process of its own, for ``service.runtime.decoders``: ``python -m`` this, with two numbers.

A codec is native code that reads what strangers send. Here a crash of it takes nothing along, and what breaks into it
finds no keys, no templates, and (where the kernel has Landlock, Linux 5.13) no file that it could open.

::

    in    > size (8 bytes), most pixels (8), coarsest level (8), the encoded photo
    out   > 0, height (8), width (8), level (8): the pixels are in the shared file
          > 1, size (8), 0, 0: JSON follows, the name of the error, its message and details
"""

import ctypes
import io
import json
import os
import resource
import struct
import sys

from PIL import Image as PillowImage

from service.errors import InvalidImage
from service.recognition.decode import FORMATS, decode

REQUEST, ANSWER = struct.Struct(">QQQ"), struct.Struct(">BQQQ")
DONE, REFUSED = 0, 1

# Of the largest photo: wide numbers, layers and their results at once.
_BYTES_A_PIXEL, _BASE_BYTES = 40, 2**30


def main() -> None:
    shared, max_pixels = int(sys.argv[1]), int(sys.argv[2])
    _rehearse()
    _confine(max_pixels)
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    answers.write(ANSWER.pack(DONE, 0, 0, 0))
    answers.flush()
    while head := requests.read(REQUEST.size):
        size, most, level = REQUEST.unpack(head)
        content = requests.read(size)
        try:
            image = decode(content, most, level)
            pixels = image.level(image.finest)
            rest = memoryview(pixels.data).cast("B")
            os.ftruncate(shared, len(rest))
            offset = 0
            while offset < len(rest):
                offset += os.pwrite(shared, rest[offset:], offset)
            answer = ANSWER.pack(DONE, pixels.shape[0], pixels.shape[1], image.finest)
        except InvalidImage as error:
            told = json.dumps([type(error).__name__, error.message, error.details]).encode()
            answer = ANSWER.pack(REFUSED, len(told), 0, 0) + told
        answers.write(answer)
        answers.flush()


def _rehearse() -> None:
    """Decode one photo of each kind, so that all modules are there before files are out of reach."""
    for kind in FORMATS:
        content = io.BytesIO()
        image = PillowImage.new("L" if kind == "BMP" else "RGB", (8, 8))
        exif = PillowImage.Exif()
        exif[0x0112] = 6
        image.save(content, kind, **({} if kind == "BMP" else {"exif": exif}))
        decode(content.getvalue(), 100)


def _confine(max_pixels: int) -> None:
    memory = _BASE_BYTES + _BYTES_A_PIXEL * max_pixels
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    # A core would hold somebody's photo.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    _close_files()


def _close_files() -> None:
    """Landlock: from here on no file can be opened, made, or run. Does nothing on a kernel without it."""
    libc = ctypes.CDLL(None, use_errno=True)
    create_ruleset, restrict_self, no_new_privileges = 444, 446, 38
    every_access = ctypes.c_uint64(2**13 - 1)  # those of the first version
    ruleset = libc.syscall(create_ruleset, ctypes.byref(every_access), ctypes.sizeof(every_access), 0)
    if ruleset < 0:
        return
    libc.prctl(no_new_privileges, 1, 0, 0, 0)
    libc.syscall(restrict_self, ruleset, 0)
    os.close(ruleset)


if __name__ == "__main__":
    main()
