"""The stream: every row back in its place, whatever the order of work, and nothing stuck."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from batchrec.errors import ErrorCode
from batchrec.models.backends import Scores
from batchrec.models.preprocessing import Preprocess
from batchrec.pipeline.batching import Batch, FetchedImage, Workbench
from batchrec.pipeline.collecting import Collector
from batchrec.pipeline.decoding import Decoder
from batchrec.pipeline.stream import Stream
from batchrec.spec import ImageLimits, StoreOptions
from batchrec.storage import ImageReader, UriPolicy

SIDE = 8
GREYS = 40


class GreyBackend:
    """Says how bright an image is; a stand-in for a model whose right answer is known."""

    name, device, precision = "grey", "cpu", "fp32"

    def __init__(self, batch_size: int = 4, concurrency: int = 2) -> None:
        self.batch_size, self.concurrency = batch_size, concurrency
        self.running = self.most_running = 0
        self.calls = 0
        self.fails_on: int | None = None
        self._lock = threading.Lock()

    def predict(self, images: np.ndarray) -> Scores:
        assert images.shape == (self.batch_size, SIDE, SIDE, 3)
        with self._lock:
            self.running += 1
            self.calls += 1
            self.most_running = max(self.most_running, self.running)
        grey = images.reshape(self.batch_size, -1).mean(axis=1)
        with self._lock:
            self.running -= 1
        if self.fails_on is not None and (np.abs(grey - self.fails_on) < 0.5).any():
            raise RuntimeError("the model failed")
        labels = np.rint(grey).astype(np.int32)[:, None]
        return Scores(np.ones((self.batch_size, 1), np.float32), labels, grey.astype(np.float32))


@pytest.fixture(scope="module")
def greys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images named after their brightness, and one that is none."""
    folder = tmp_path_factory.mktemp("greys")
    for grey in range(GREYS):
        Image.new("RGB", (20, 16), (grey, grey, grey)).save(folder / f"{grey}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


def stream_over(greys: Path, backend: GreyBackend, num_threads: int = 2) -> Stream:
    preprocess = Preprocess(resize=SIDE, crop=SIDE, interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1))
    reader = ImageReader(UriPolicy(str(greys), (), ()), StoreOptions(), 2**20)
    decoder = Decoder(preprocess, ImageLimits())
    return Stream(reader, decoder, backend, num_threads=num_threads, crop=SIDE, top_k=1)


@pytest.fixture
def backend() -> GreyBackend:
    return GreyBackend()


@pytest.fixture
def stream(greys: Path, backend: GreyBackend) -> Iterator[Stream]:
    made = stream_over(greys, backend)
    yield made
    made.close()


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_every_row_comes_back_in_its_place(greys: Path, data: st.DataObject) -> None:
    rows = st.lists(st.one_of(st.integers(0, GREYS - 1), st.just("broken"), st.just("absent")), min_size=1, max_size=30)
    shards = data.draw(st.lists(rows, min_size=1, max_size=4))
    backend = GreyBackend(data.draw(st.integers(1, 7)), data.draw(st.integers(1, 3)))
    stream = stream_over(greys, backend, num_threads=3)
    futures = [stream.submit([f"{row}.png" for row in shard]) for shard in shards]
    for shard, future in zip(shards, futures, strict=True):
        found = future.result(timeout=20)
        failed = {i: row for i, row in enumerate(shard) if isinstance(row, str)}
        assert set(found.errors) == set(failed)
        assert all(found.top_labels[i, 0] == row for i, row in enumerate(shard) if i not in failed)
        assert found.stats.num_ok == len(shard) - len(failed)
        assert found.stats.num_rows == len(shard)
        assert found.first_row_at <= found.last_row_at
    stream.close()


def test_a_shard_smaller_than_a_batch_does_not_wait_for_more(stream: Stream) -> None:
    assert stream.submit(["7.png"]).result(timeout=10).top_labels.tolist() == [[7]]


def test_batches_are_filled_across_shards(stream: Stream, backend: GreyBackend) -> None:
    futures = [stream.submit([f"{grey}.png" for grey in range(6)]) for _ in range(8)]
    for future in futures:
        future.result(timeout=10)
    assert backend.calls < 8 * 2


def test_a_shard_of_failures_alone_ends(stream: Stream) -> None:
    found = stream.submit([None, "absent.png", "broken.png", "../secret.png"]).result(timeout=10)
    assert [found.errors[row].code for row in range(4)] == [
        ErrorCode.URI_MISSING,
        ErrorCode.NOT_FOUND,
        ErrorCode.TRUNCATED,
        ErrorCode.URI_REFUSED,
    ]


def test_a_model_that_fails_ends_its_shard_and_the_next_one_is_done(stream: Stream, backend: GreyBackend) -> None:
    backend.fails_on = 3
    with pytest.raises(RuntimeError, match="the model failed"):
        stream.submit([f"{grey}.png" for grey in range(GREYS)]).result(timeout=10)
    backend.fails_on = None
    give_up_at = time.monotonic() + 10
    while True:
        found = stream.submit(["5.png", "6.png"]).result(timeout=10)
        if found.top_labels.tolist() == [[5], [6]]:
            break
        assert time.monotonic() < give_up_at


def test_no_more_passes_run_at_once_than_the_backend_wants(greys: Path) -> None:
    backend = GreyBackend(batch_size=1, concurrency=1)
    stream = stream_over(greys, backend, num_threads=4)
    stream.submit([f"{grey}.png" for grey in range(GREYS)] * 5).result(timeout=20)
    assert backend.most_running == 1
    stream.close()


def test_closing_ends_shards_under_way_with_an_error(greys: Path) -> None:
    stream = stream_over(greys, GreyBackend())
    future = stream.submit([f"{grey}.png" for grey in range(GREYS)] * 200)
    stream.close()
    with pytest.raises(RuntimeError, match="closed"):
        future.result(timeout=10)


def test_fetching_pauses_when_enough_is_buffered() -> None:
    bench = Workbench((4, SIDE, SIDE, 3), max_buffered_bytes=100, max_ready_batches=1)
    collector = Collector(["a", "b", "c"], 1)
    bench.add_shard(collector)
    taken = bench.next_row()
    assert taken == (collector, 0)
    bench.put_image(FetchedImage(collector, 0, b"x" * 100))
    more: list[object] = []
    waiting = threading.Thread(target=lambda: more.append(bench.next_row()))
    waiting.start()
    waiting.join(0.1)
    assert waiting.is_alive()
    assert isinstance(bench.next_work(decodes=True, predicts=False), FetchedImage)
    waiting.join(5)
    assert more == [(collector, 1)]


def test_decoding_pauses_when_enough_batches_are_ready() -> None:
    bench = Workbench((1, SIDE, SIDE, 3), max_buffered_bytes=10_000, max_ready_batches=1)
    collector = Collector(["a", "b"], 1)
    bench.add_shard(collector)
    for row in range(2):
        bench.next_row()
        bench.put_image(FetchedImage(collector, row, b"x"))
    bench.next_work(decodes=True, predicts=False)
    bench.place(collector, 0, np.zeros((SIDE, SIDE, 3), np.uint8))
    assert isinstance(bench.next_work(decodes=True, predicts=True), Batch)
