"""Workers that starve: their device costs nothing, and they decode slowly until their helpers had their turn."""

from __future__ import annotations

import os
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np

from batchrec.engine import starving, worker
from batchrec.engine.decode_helper import DecodeHelper
from batchrec.engine.devices import Placement
from batchrec.engine.help_pool import HelpPool
from batchrec.engine.helping import Helping
from batchrec.engine.inline_pool import InlinePool, Runner
from batchrec.engine.pool import Pool
from batchrec.engine.sites import OpenPool
from batchrec.engine.worker_job import open_decoder
from batchrec.models.backends import Backend, Scores
from batchrec.pipeline.decoding import Decoder
from batchrec.pipeline.stream import Stream
from batchrec.records import WorkerFacts
from batchrec.spec import JobSpec
from tests import poison

SLOW_S = 0.3


class HashingDevice:
    """Answers with a hash of each image's pixels, in no time."""

    name, device, precision, batch_size, concurrency = "hashing", "nowhere", "fp32", 4, 1

    def __init__(self, crop: int) -> None:
        self._shape = (self.batch_size, crop, crop, 3)

    def new_slab(self) -> np.ndarray:
        return np.zeros(self._shape, np.uint8)

    def predict(self, images: np.ndarray) -> Scores:
        hashes = np.array([zlib.crc32(image) for image in images])
        ones = np.ones((len(images), 1), np.float32)
        return Scores(ones, (hashes % 10).astype(np.int32)[:, None], (hashes % 2**24).astype(np.float32))


class HashingWorker(worker.Worker):
    """A worker with such a device."""

    def _open_model(self) -> tuple[Backend, str]:
        return HashingDevice(self._job.model.preprocess.crop), "no model"


class StarvingWorker(HashingWorker):
    """Decodes slowly in its own process, and fetches little ahead, until an image is decoded apart."""

    def start(self, help_pool: HelpPool | None = None) -> WorkerFacts:
        starving.WINDOW_S = 0.5
        Stream.__init__.__kwdefaults__["max_buffered_bytes"] = 2**18
        sys.path.insert(0, poison.FOLDER)  # for processes to come: here the decoder is loaded already
        worker.open_decoder = _slowed(open_decoder(self._job), lambda: bool(self._apart._children))
        return super().start(help_pool)

    def _open_helping(self, help_pool: HelpPool, concurrency: int) -> Helping:
        worker.open_decoder = open_decoder  # helpers are as fast as ever
        return super()._open_helping(help_pool, concurrency)


def _slowed(decoder: Decoder, suspects: Callable[[], bool]) -> Callable[[worker.WorkerJob], Decoder]:
    decode, hurry = decoder.decode, threading.Event()

    def slow(data: bytes) -> object:
        if not hurry.is_set():
            hurry.set() if suspects() else time.sleep(SLOW_S)
        return decode(data)

    decoder.decode = slow  # type: ignore[method-assign, assignment]
    return lambda _: decoder


class PoisonedWorker(StarvingWorker):
    """Its helpers' decoder does what marked images ask for; so do its processes for suspect images."""

    def _open_helping(self, help_pool: HelpPool, concurrency: int) -> Helping:
        worker.DecodeHelper = PoisonedHelper  # type: ignore[misc]
        return super()._open_helping(help_pool, concurrency)


class PoisonedHelper(DecodeHelper):
    """Ends itself where an image asks for it."""

    def start(self) -> None:
        import simplejpeg

        decode = simplejpeg.decode_jpeg

        def decode_jpeg(data: bytes, *arguments: object, **options: object) -> object:
            if b"POISON" in data[-64:]:
                os.abort()
            return decode(data, *arguments, **options)

        simplejpeg.decode_jpeg = decode_jpeg
        super().start()


class OneCore:
    """One such worker on one core of the connected Ray, or in this process; see :class:`batchrec.engine.sites.Site`."""

    spans_machines = False

    def __init__(self, kind: type[worker.Worker], *, on_ray: bool) -> None:
        self._kind, self._on_ray = kind, on_ray

    def place(self, spec: JobSpec) -> Placement:
        return Placement("cpu", 1, 1)

    @contextmanager
    def starting(self, placement: Placement) -> Iterator[OpenPool]:
        from batchrec.engine.ray_pool import RayPool

        def open_pool(make_worker: Callable[[], Runner]) -> Pool:
            assert isinstance(make_worker, partial)
            make = partial(self._kind, *make_worker.args)
            return RayPool(make, placement) if self._on_ray else InlinePool(make)

        yield open_pool
