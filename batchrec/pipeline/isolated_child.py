"""The disposable process that decodes images which may have killed a worker.

    stdin:  length, image        (again and again, until it is closed)
    stdout: ready, then for each image a picture or an error

It loads neither torch nor Ray and ends by itself: when its parent is gone, and by an alarm the decoder cannot
hold up, whatever it does with the interpreter's lock.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import struct
import sys
from pathlib import Path
from typing import BinaryIO

import numpy as np

from batchrec.errors import ImageError
from batchrec.pipeline.decoding import Picture, PictureReader
from batchrec.pipeline.headers import read_header
from batchrec.pipeline.sniffing import kind_of
from batchrec.spec import ImageLimits

REQUEST = struct.Struct("<Q")
#: Kind, bytes that follow, and of a picture: width and height of its pixels and as stored, orientation, whether it is
#: an array.
ANSWER = struct.Struct("<cQIIIIB?")
READY, PICTURE, ERROR = b"R", b"P", b"E"
#: Memory one decode may take beside the child's own: some, and some for each pixel the header names. Decoders were
#: seen to take up to 16 bytes a pixel.
SPARE_BYTES = 512 * 2**20
BYTES_PER_PIXEL = 24
_UNLIMITED = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


def main(max_pixels: int, max_bytes: int, within_s: float, shrink_to: int) -> None:
    """Decode what comes in until nothing does."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a decoder prints must not get between the answers
    _be_the_first_to_die()
    limits = ImageLimits(max_pixels, max_bytes)
    reader = PictureReader(limits, shrink_to or None)
    _send(answers, READY)
    while request := sys.stdin.buffer.read(REQUEST.size):
        data = sys.stdin.buffer.read(REQUEST.unpack(request)[0])
        _bound_memory(_pixels_of(data, limits), len(data))
        signal.setitimer(signal.ITIMER_REAL, within_s)
        try:
            picture = reader.read(data)
        except ImageError as error:
            picture, failed = None, json.dumps([error.code, error.detail]).encode()
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, _UNLIMITED)
        _send_picture(answers, picture) if picture else _send(answers, ERROR, failed)


def _be_the_first_to_die() -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        Path("/proc/self/oom_score_adj").write_text("1000")
    except OSError:
        return  # no Linux, or /proc is closed: the memory limit is left


def _bound_memory(num_pixels: int, num_bytes: int) -> None:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return
    now = pages * resource.getpagesize()
    bound = now + SPARE_BYTES + BYTES_PER_PIXEL * num_pixels + 2 * num_bytes
    resource.setrlimit(resource.RLIMIT_AS, (bound, resource.RLIM_INFINITY))


def _pixels_of(data: bytes, limits: ImageLimits) -> int:
    try:
        size = read_header(kind_of(data), data).size
    except ImageError:
        return 0
    return min(size[0] * size[1], limits.max_pixels) if size else limits.max_pixels


def _send_picture(answers: BinaryIO, picture: Picture) -> None:
    pixels = np.ascontiguousarray(picture.rgb)
    is_array = isinstance(picture.rgb, np.ndarray)
    height, width = pixels.shape[:2]
    facts = (width, height, *picture.size, picture.orientation, is_array)
    answers.write(ANSWER.pack(PICTURE, pixels.nbytes, *facts))
    answers.write(pixels.data)
    answers.flush()


def _send(answers: BinaryIO, kind: bytes, body: bytes = b"") -> None:
    answers.write(ANSWER.pack(kind, len(body), 0, 0, 0, 0, 0, False) + body)
    answers.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
