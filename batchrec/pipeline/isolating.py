"""Decoding where a crash costs nothing: in child processes with limits on memory and time."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading

import numpy as np
from PIL import Image

from batchrec.errors import ErrorCode, ImageError, WorkersLost
from batchrec.pipeline.decoding import Picture
from batchrec.pipeline.isolated_child import ANSWER, ERROR, PICTURE, READY, REQUEST
from batchrec.spec import ImageLimits

_ENDING_S = 10.0
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class IsolatedReader:
    """Decodes in disposable processes; in place of :class:`batchrec.pipeline.decoding.PictureReader`.

    Threads that decode at once each have a process. An image is blamed for the death of a process only if that
    process had seen no other image.

    Args:
        limits: What is refused from its header.
        within_s: Seconds one image may take.
        shrink_to: See :class:`batchrec.pipeline.decoding.PictureReader`.
    """

    def __init__(self, limits: ImageLimits, within_s: float, shrink_to: int | None = None) -> None:
        self._limits, self._within_s, self._shrink_to = limits, within_s, shrink_to
        self._lock = threading.Lock()
        self._children: set[_Child] = set()
        self._idle: list[_Child] = []
        self._closed = False

    def read(self, data: bytes) -> Picture:
        """Decode one image.

        Raises:
            ImageError: Whatever is wrong with the image; ``decoder_crash``, ``decode_timeout`` and ``out_of_memory``
                where it ended the process.
            WorkersLost: No process could be started.
            RuntimeError: :meth:`close` was called meanwhile.
        """
        with self._lock:
            seasoned = self._idle.pop() if self._idle else None
        if seasoned is not None:
            try:
                return self._ask(seasoned, data)
            except _ChildDied:
                pass  # an earlier image may have broken it: a fresh one tells
        try:
            return self._ask(self._start(), data)
        except _ChildDied as died:
            raise died.verdict(self._within_s) from None

    def rest(self) -> None:
        """End the processes that wait for nothing; :meth:`read` starts new ones."""
        with self._lock:
            idle, self._idle = self._idle, []
            self._children.difference_update(idle)
        for child in idle:
            child.end()

    def close(self) -> None:
        """End all processes. Reads under way end with an error that blames no image."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            busy = self._children.difference(idle)
        for child in idle:
            child.end()
        for child in busy:
            child.kill()  # who waits for it finds out, and ends it

    def _start(self) -> _Child:
        child = _Child(self._limits, self._within_s, self._shrink_to)
        with self._lock:
            if not self._closed:
                self._children.add(child)
                return child
        child.end()
        raise RuntimeError("the stream was closed")

    def _ask(self, child: _Child, data: bytes) -> Picture:
        try:
            picture = child.decode(data)
        except _ChildDied:
            with self._lock:
                self._children.discard(child)
                if self._closed:
                    raise RuntimeError("the stream was closed") from None
            raise
        except ImageError:
            self._lay_down(child)
            raise
        self._lay_down(child)
        return picture

    def _lay_down(self, child: _Child) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(child)
                return
        child.end()


class _ChildDied(Exception):
    """A child ended in place of an answer; ``status`` as :mod:`subprocess` has it."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status

    def verdict(self, within_s: float) -> ImageError:
        if self.status == -signal.SIGALRM:
            return ImageError(ErrorCode.DECODE_TIMEOUT, f"no picture after {within_s:g} s")
        if self.status == -signal.SIGKILL:
            return ImageError(
                ErrorCode.OUT_OF_MEMORY, "the system killed the decoder, as it does where memory runs out"
            )
        if self.status < 0:
            return ImageError(ErrorCode.DECODER_CRASH, signal.strsignal(-self.status) or f"signal {-self.status}")
        return ImageError(ErrorCode.DECODER_CRASH, f"the decoder ended its process with status {self.status}")


class _Child:
    """One process, used by one thread at a time."""

    def __init__(self, limits: ImageLimits, within_s: float, shrink_to: int | None) -> None:
        self._max_pixels = limits.max_pixels
        # -P: whatever lies in the working directory is no module of ours.
        command = [sys.executable, "-P", "-m", "batchrec.pipeline.isolated_child"]
        self._process = subprocess.Popen(  # noqa: S603  numbers and this interpreter
            [*command, str(limits.max_pixels), str(limits.max_bytes), str(within_s), str(shrink_to or 0)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **_ONE_THREAD, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,  # Ctrl-C is for the parent: here it would look like a crash
        )
        try:
            self._answer()
        except _ChildDied as died:
            raise WorkersLost(
                "the process that decodes suspect images did not start",
                found=f"exit status {died.status}",
                advice="look at this machine's memory; the same command resumes",
            ) from None

    def decode(self, data: bytes) -> Picture:
        assert self._process.stdin
        try:
            self._process.stdin.write(REQUEST.pack(len(data)))
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise _ChildDied(self._status()) from None
        picture = self._answer()
        assert picture is not None, "a child is ready once"
        return picture

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> int:
        """End it if it lives, and return its status."""
        self._process.kill()
        status = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()  # type: ignore[union-attr]
        return status

    def _answer(self) -> Picture | None:
        kind, num_bytes, width, height, *size, orientation, is_array = ANSWER.unpack(self._read(ANSWER.size))
        if kind == READY:
            return None
        if kind == ERROR:
            code, detail = json.loads(self._read(num_bytes))
            raise ImageError(ErrorCode(code), detail)
        if kind != PICTURE or num_bytes != 3 * width * height or width * height > self._max_pixels:
            self.end()
            raise _ChildDied(-signal.SIGABRT)  # its memory is not what it was
        pixels = np.frombuffer(self._read(num_bytes), np.uint8).reshape(height, width, 3)
        return Picture(pixels if is_array else Image.fromarray(pixels), orientation, (size[0], size[1]))

    def _read(self, num_bytes: int) -> bytearray:
        assert self._process.stdout
        answer = bytearray(num_bytes)
        if self._process.stdout.readinto(answer) < num_bytes:  # type: ignore[attr-defined]
            raise _ChildDied(self._status())
        return answer

    def _status(self) -> int:
        """Return how it ended, having closed its end of the pipe."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_ENDING_S)
        return self.end()
