"""Stands before the real simplejpeg on the path of a process, and does what marked images ask for.

A mark is bytes after the end of a JPEG, which decoders ignore: ``poisoned(image, "abort")``. Nothing in batchrec
knows of it: whatever happens happens inside a call of its decoder, in whichever process that is.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import tempfile
import time
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path

import numpy as np

MARK = b"\nPOISON:"
_HERE = Path(__file__).parent
_MOST_EATEN_BYTES = 8 * 2**30  # beyond it the system would step in, and it might take others


def _abort() -> None:
    os.abort()


def _segfault() -> None:
    ctypes.string_at(0)


def _exit() -> None:
    os._exit(3)


def _hang() -> None:
    time.sleep(3600)


def _hang_with_the_lock() -> None:
    ctypes.PyDLL(None).sleep(3600)


def _eat() -> None:
    eaten: list[np.ndarray] = []
    while len(eaten) * 2**26 < _MOST_EATEN_BYTES:
        eaten.append(np.empty(2**26, np.uint8))  # never touched, so no memory is really taken from anybody
    os.kill(os.getpid(), signal.SIGKILL)  # as the system does


def _abort_with_the_pod() -> None:
    for note in Path(tempfile.gettempdir()).glob(f"batchrec-*/*-{os.getpid()}-*.rows"):
        note.unlink()  # as it goes with the disk of the pod
    os.abort()


def _slow() -> None:
    time.sleep(0.5)


DEEDS = {
    deed.__name__[1:]: deed
    for deed in (_abort, _segfault, _exit, _hang, _hang_with_the_lock, _eat, _abort_with_the_pod, _slow)
}


def _load() -> None:
    spec = PathFinder.find_spec("simplejpeg", [each for each in sys.path if Path(each).resolve() != _HERE])
    assert spec
    assert spec.loader
    real = sys.modules["simplejpeg"] = module_from_spec(spec)
    spec.loader.exec_module(real)
    decode = real.decode_jpeg

    def decode_jpeg(data: bytes, *arguments: str, **options: int) -> object:
        _, mark, deed = data[-64:].partition(MARK)
        if mark:
            DEEDS[deed.decode()]()
        return decode(data, *arguments, **options)

    real.decode_jpeg = decode_jpeg


if __name__ == "simplejpeg":
    _load()
