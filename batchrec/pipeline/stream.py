"""One long-lived stream of images through fetch, decode and predict.

    rows -> fetch threads -> bytes -> compute threads -> batches -> scores -> collectors

Shards overlap: the stream does not drain between two of them, so the model never waits for a shard's
tail. On a CPU the same threads decode and predict: a full batch goes first, else the next image. So
decoding and the model never fight over cores, and no core idles while either has work. On CUDA some
threads feed the device and the others only decode; where it is asked for, the device decodes too what they leave.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from itertools import groupby
from operator import itemgetter

from batchrec.errors import ImageError
from batchrec.models.backends import Backend
from batchrec.pipeline.batching import Room
from batchrec.pipeline.collecting import Collector, Images, ShardPredictions
from batchrec.pipeline.decoding import Decoder, ImageFacts
from batchrec.pipeline.hands import Hands
from batchrec.pipeline.jpeg import JpegHeader
from batchrec.pipeline.lending import LendingBench
from batchrec.pipeline.nvjpeg import NvJpegDecoder
from batchrec.pipeline.resizing import Pixels
from batchrec.pipeline.tally import Tally
from batchrec.pipeline.together import DecodingTogether
from batchrec.pipeline.waiting import Batch, FetchedImage
from batchrec.records import EmbeddingSpec
from batchrec.storage import ImageReader

MAX_BUFFERED_BYTES = 128 * 2**20
_CLOSING_S = 10.0


class Stream:
    """Turns shards of URIs into predictions.

    Args:
        reader: Fetches one image.
        decoder: Decodes and resizes one image.
        backend: Runs the model on one batch.
        num_threads: Cores to use for decoding, and for the model where it runs on them.
        top_k: Labels the backend returns for each image.
        embedding: What is kept of each image's embedding; the backend returns them then.
        decoder_apart: Decodes rows that may have killed a worker; ``decoder`` when None.
        nvjpeg: Decodes on the model's device what the cores leave; nobody does when None.
        hands: What its threads are at.
        max_buffered_bytes: Encoded images held, from before their bytes are read until they are decoded.
    """

    def __init__(
        self,
        reader: ImageReader,
        decoder: Decoder,
        backend: Backend,
        *,
        num_threads: int,
        top_k: int,
        embedding: EmbeddingSpec | None = None,
        decoder_apart: Decoder | None = None,
        nvjpeg: NvJpegDecoder | None = None,
        hands: Hands | None = None,
        max_buffered_bytes: int = MAX_BUFFERED_BYTES,
    ) -> None:
        self._reader, self._decoder, self._backend = reader, decoder, backend
        self._decoder_apart, self._nvjpeg = decoder_apart or decoder, nvjpeg
        self._hands = hands or Hands()
        self._top_k, self._embedding = top_k, embedding
        self._under_way: set[Collector] = set()
        self._closed = False
        self._bench = LendingBench(
            backend.new_slab,
            max_buffered_bytes=max_buffered_bytes,
            max_ready_batches=backend.concurrency + 1,
            max_reads=reader.concurrency,
        )
        self._tally = Tally()
        self._start_lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self.num_fetch_threads, self._most_fetch_threads = 0, math.inf
        for name, loop in self._loops(num_threads):
            self._start(name, loop)
        self._start_fetching()

    def _loops(self, num_threads: int) -> list[tuple[str, Callable[[], None]]]:
        num_predicting = self._backend.concurrency
        loops: list[tuple[str, Callable[[], None]]] = []
        if self._backend.device == "cpu":
            loops += [("compute", lambda: self._compute_all(decodes=True, predicts=True))] * num_predicting
            loops += [("decode", self._decode_all)] * (num_threads - num_predicting)
        else:
            loops += [("predict", lambda: self._compute_all(decodes=False, predicts=True))] * num_predicting
            loops += [("decode", self._decode_all)] * num_threads
        if self._nvjpeg is not None:
            loops.append(("nvjpeg", DecodingTogether(self._bench, self._nvjpeg, self._hands).run))
        return loops

    def _start(self, name: str, loop: Callable[[], None]) -> None:
        thread = threading.Thread(target=loop, name=f"batchrec-{name}-{len(self._threads)}", daemon=True)
        thread.start()
        self._threads.append(thread)

    def _start_fetching(self) -> None:
        """Start as many threads as the reader may use now; those it may no longer use wait for their turn."""
        with self._start_lock:
            while not self._closed and self._lacks_fetch_threads():
                try:
                    self._start("fetch", self._fetch_all)
                except RuntimeError:  # this machine gives no more threads
                    if not self.num_fetch_threads:
                        raise
                    self._most_fetch_threads = self.num_fetch_threads
                else:
                    self.num_fetch_threads += 1

    def _lacks_fetch_threads(self) -> bool:
        return self.num_fetch_threads < min(self._reader.concurrency(), self._most_fetch_threads)

    def submit(
        self,
        uris: Sequence[str | None],
        *,
        shard: int = -1,
        apart: Collection[int] = (),
        images: Images | None = None,
    ) -> Future[ShardPredictions]:
        """Queue one shard's images, in order; shards are taken in the order they are submitted.

        Args:
            uris: The images.
            shard: Index of the shard, for people and notes.
            apart: Rows for ``decoder_apart``.
            images: Asked first for each image; what it does not have is read by its URI.
        """
        collector = Collector(uris, self._top_k, self._embedding, shard=shard, apart=apart, images=images)
        self._admit(collector)
        return collector.future

    def _admit(self, collector: Collector) -> None:
        self._under_way.add(collector)
        collector.future.add_done_callback(lambda _: self._under_way.discard(collector))
        self._bench.add_shard(collector)
        if self._closed:
            collector.abort(RuntimeError("the stream was closed"))

    @property
    def bench(self) -> LendingBench:
        """Where others may take rows and put pixels down."""
        return self._bench

    @property
    def tally(self) -> Tally:
        """How many images have ended, and how."""
        return self._tally

    def num_reading(self) -> int:
        """Return how many images are being read."""
        return self._bench.num_reading()

    def fill(self) -> dict[str, float]:
        """Return how full the queues between the stages are, from 0 to 1, by name."""
        return self._bench.fill()

    def close(self) -> None:
        """End all threads; shards under way end with an error."""
        with self._start_lock:
            self._closed = True
        self._bench.close()
        give_up_at = time.monotonic() + _CLOSING_S
        for thread in self._threads:
            # A decoder that hangs keeps its thread; the process must be able to end without it.
            thread.join(max(0.0, give_up_at - time.monotonic()))
        for collector in list(self._under_way):
            collector.abort(RuntimeError("the stream was closed"))

    def _fetch_all(self) -> None:
        again = False
        while (taken := self._bench.next_row(again=again)) is not None:
            again, (collector, row) = True, taken
            if self._lacks_fetch_threads():
                self._start_fetching()
            room = Room(self._bench)
            try:
                self._fetch(collector, row, room)
            except Exception as error:  # noqa: BLE001  the border of a shard: a fault here ends it, not the thread
                self._bench.drop(room.num_bytes)
                collector.abort(error)

    def _decode_all(self) -> None:
        self._compute_all(decodes=True, predicts=False)

    def _compute_all(self, *, decodes: bool, predicts: bool) -> None:
        while (work := self._bench.next_work(decodes=decodes, predicts=predicts)) is not None:
            try:
                self._predict(work) if isinstance(work, Batch) else self._decode(work)
            except Exception as error:  # noqa: BLE001  the border of a shard, as above
                work.abort(error) if isinstance(work, Batch) else self._bench.give_up(work, error)

    def _fetch(self, collector: Collector, row: int, room: Room) -> None:
        hand = self._hands.mine()
        hand.take("fetch", collector.shard, row)
        began = time.perf_counter()
        try:
            data = self._read(collector, row, room)
        except ImageError as error:
            collector.fetched(row, 0, time.perf_counter() - began - room.waited_s, self._reader.concurrency())
            self._fail(collector, row, error.bare(), room.num_bytes, 0.0)
        else:
            collector.fetched(row, len(data), time.perf_counter() - began - room.waited_s, self._reader.concurrency())
            self._bench.put_image(FetchedImage(collector, row, data, self._suits_device(collector, row, data)))
        finally:
            hand.lay_down()

    def _suits_device(self, collector: Collector, row: int, data: bytes) -> JpegHeader | None:
        return self._nvjpeg.takes(data) if self._nvjpeg is not None and row not in collector.apart else None

    def _read(self, collector: Collector, row: int, room: Room) -> bytes:
        if collector.images is not None and (data := collector.images.read(row, room.reserve)) is not None:
            return data
        return self._reader.read(collector.uris[row], room.reserve)

    def _decode(self, image: FetchedImage) -> None:
        began = time.perf_counter()
        try:
            pixels, facts = self._decode_in_hand(image)
        except ImageError as error:
            failed = error.bare()
        else:
            image.collector.decoded(image.row, facts, time.perf_counter() - began)
            self._place(image, pixels)
            return
        self._fail(image.collector, image.row, failed, image.let_go(), time.perf_counter() - began)

    def _place(self, image: FetchedImage, pixels: Pixels) -> None:
        self._bench.place(image, pixels)

    def _decode_in_hand(self, image: FetchedImage) -> tuple[Pixels, ImageFacts]:
        hand, collector = self._hands.mine(), image.collector
        if image.row in collector.apart:
            hand.take("decode apart", collector.shard, image.row)
            try:
                return self._decoder_apart.decode(image.data)
            finally:
                hand.lay_down()
        hand.take_noted("decode", collector.shard, image.row)
        try:
            return self._decoder.decode(image.data)
        finally:
            hand.lay_down_noted()

    def _fail(self, collector: Collector, row: int, error: ImageError, num_bytes: int, decode_s: float) -> None:
        self._bench.drop(num_bytes)
        self._tally.failed(error.code)
        collector.fail(row, error, decode_s)

    def _predict(self, batch: Batch) -> None:
        began = time.perf_counter()
        hand, (first, row) = self._hands.mine(), batch.rows[0]
        hand.take("predict", first.shard, row)
        try:
            scores = self._backend.predict(batch.slab)
        finally:
            hand.lay_down()
            self._bench.give_back(batch)
        took_s = time.perf_counter() - began
        each_s = took_s / len(batch.rows)
        num_ok = int(scores.are_numbers()[: len(batch.rows)].sum())
        self._tally.predicted(num_ok, len(batch.rows) - num_ok, took_s)
        slot = 0
        for collector, group in groupby(batch.rows, key=itemgetter(0)):
            rows = [row for _, row in group]
            collector.predicted(rows, scores, slot, each_s * len(rows))
            slot += len(rows)
