"""The stream: every row back in its place, whatever the order of work, and nothing stuck."""

from __future__ import annotations

import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from batchrec.errors import ErrorCode, ImageError
from batchrec.models.backends import Scores
from batchrec.models.backends.scores import scores_from_logits
from batchrec.models.preprocessing import Preprocess
from batchrec.pipeline.batching import Room, Workbench
from batchrec.pipeline.collecting import Collector
from batchrec.pipeline.decoding import Decoder, Picture, PictureReader
from batchrec.pipeline.hands import Hands
from batchrec.pipeline.noting import Notes
from batchrec.pipeline.stream import Stream
from batchrec.pipeline.waiting import Batch, FetchedImage
from batchrec.spec import ImageLimits, StoreOptions
from batchrec.storage import ImageReader, UriPolicy, reading

SIDE = 8
GREYS = 40


class GreyBackend:
    """Says how bright an image is; a stand-in for a model whose right answer is known."""

    name, device, precision = "grey", "cpu", "fp32"
    top_k = 1

    def __init__(self, batch_size: int = 4, concurrency: int = 2) -> None:
        self.batch_size, self.concurrency = batch_size, concurrency
        self.running = self.most_running = 0
        self.calls = 0
        self.fails_on: int | None = None
        self._lock = threading.Lock()

    def new_slab(self) -> np.ndarray:
        return np.zeros((self.batch_size, SIDE, SIDE, 3), np.uint8)

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


def stream_over(
    greys: Path, backend: GreyBackend, num_threads: int = 2, decoder: object = None, **arguments: Any
) -> Stream:
    preprocess = Preprocess(resize=SIDE, crop=SIDE, interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1))
    reader = ImageReader(UriPolicy(str(greys), (), ()), StoreOptions(), 2**20)
    decoder = decoder or Decoder(preprocess, ImageLimits())
    return Stream(
        reader,
        decoder,  # type: ignore[arg-type]
        backend,
        num_threads=num_threads,
        top_k=backend.top_k,
        **arguments,
    )


@pytest.fixture
def backend() -> GreyBackend:
    return GreyBackend()


@pytest.fixture
def stream(greys: Path, backend: GreyBackend) -> Iterator[Stream]:
    made = stream_over(greys, backend)
    yield made
    made.close()


@settings(max_examples=30)
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


def test_suspect_rows_are_decoded_apart_and_no_others(greys: Path) -> None:
    apart: list[bytes] = []
    preprocess = Preprocess(resize=SIDE, crop=SIDE)
    here = PictureReader(ImageLimits())

    def read(data: bytes) -> Picture:
        apart.append(data)
        if data == (greys / "7.png").read_bytes():
            raise ImageError(ErrorCode.DECODER_CRASH)
        return here.read(data)

    stream = stream_over(greys, GreyBackend(), decoder_apart=Decoder(preprocess, ImageLimits(), read))
    shard, other = ([f"{grey}.png" for grey in range(20)] for _ in range(2))
    futures = stream.submit(shard, shard=4, apart={7, 9}), stream.submit(other, shard=5)
    found, untouched = (future.result(timeout=20) for future in futures)
    stream.close()
    assert sorted(apart) == sorted((greys / f"{grey}.png").read_bytes() for grey in (7, 9))
    assert {row: error.code for row, error in found.errors.items()} == {7: ErrorCode.DECODER_CRASH}
    assert [label for [label] in found.top_labels.tolist()] == [grey if grey != 7 else 0 for grey in range(20)]
    assert untouched.errors == {}


def test_a_thread_tells_what_it_is_at_and_notes_what_it_decodes(greys: Path, tmp_path: Path) -> None:
    decoding, may_end = threading.Event(), threading.Event()

    class Stuck(SlowDecoder):
        def decode(self, data: bytes) -> NoReturn:
            decoding.set()
            may_end.wait(20)
            raise ImageError(ErrorCode.NOT_AN_IMAGE)

    notes = Notes("a job", tmp_path)
    note = notes.open()
    hands = Hands(note)
    stream = stream_over(greys, GreyBackend(), num_threads=1, decoder=Stuck(), hands=hands)
    future = stream.submit(["3.png"], shard=4)
    assert decoding.wait(10)
    give_up_at = time.monotonic() + 10
    while not (told := hands.in_hand()):
        assert time.monotonic() < give_up_at
    assert [(each.stage, each.shard, each.row) for each in told] == [("decode", 4, 0)]
    note.close()  # as if the process were gone
    assert notes.suspects(4, 1) == {0}
    may_end.set()
    future.result(timeout=10)
    stream.close()
    assert hands.in_hand() == ()
    assert notes.suspects(4, 1) == frozenset()


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


class LogarithmOfGrey(torch.nn.Module):
    """A network without an answer for darker images: two logits, finite where all pixels are above 9."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        grey = images.float().mean(dim=(1, 2, 3))
        return torch.stack([torch.log(grey - 9), torch.zeros_like(grey)], dim=1)


class LogarithmBackend(GreyBackend):
    """Runs it."""

    top_k = 2

    def predict(self, images: np.ndarray) -> Scores:
        return scores_from_logits(LogarithmOfGrey()(torch.from_numpy(images)).numpy(), 2)


def test_an_image_for_which_the_model_has_no_numbers_is_an_error_and_the_others_are_ok(greys: Path) -> None:
    stream = stream_over(greys, LogarithmBackend())
    found = stream.submit([f"{grey}.png" for grey in range(20)]).result(timeout=20)
    assert {row: error.code for row, error in found.errors.items()} == dict.fromkeys(
        range(10), ErrorCode.PREDICTION_FAILED
    )
    assert stream.tally.counts() == (10, {"prediction_failed": 10})
    assert (found.stats.num_ok, found.stats.num_errors) == (10, {"prediction_failed": 10})
    assert not found.top_scores[:10].any()
    assert np.isfinite(found.entropy).all()
    assert np.isfinite(found.top_scores).all()
    assert found.top_scores[12].tolist() == pytest.approx([0.75, 0.25])
    assert found.width.tolist() == [20] * 20
    stream.close()


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


def test_fetching_pauses_when_enough_is_held() -> None:
    bench = Workbench(GreyBackend(4).new_slab, max_buffered_bytes=100, max_ready_batches=1)
    collector = Collector(["a", "b", "c"], 1)
    bench.add_shard(collector)
    assert bench.next_row() == (collector, 0)
    assert Room(bench).reserve(100, None)
    bench.put_image(FetchedImage(collector, 0, b"x" * 100))
    more: list[object] = []
    waiting = threading.Thread(target=lambda: more.append(bench.next_row()))
    waiting.start()
    image = bench.next_work(decodes=True, predicts=False)
    waiting.join(0.1)
    assert waiting.is_alive()
    assert isinstance(image, FetchedImage)
    bench.place(image, np.zeros((SIDE, SIDE, 3), np.uint8))
    waiting.join(5)
    assert more == [(collector, 1)]


def test_a_read_that_finds_no_room_in_time_is_told_so_and_holds_nothing() -> None:
    bench = Workbench(GreyBackend(4).new_slab, max_buffered_bytes=100, max_ready_batches=1)
    first, second = Room(bench), Room(bench)
    assert first.reserve(60, None)
    assert not second.reserve(60, 0.01)
    assert second.num_bytes == 0
    assert second.waited_s >= 0.01
    assert first.reserve(100, 0.0)  # in place of its own 60
    bench.drop(first.num_bytes)
    assert second.reserve(60, None)


class SlowDecoder:
    """Looks at no image, and takes its time over it."""

    def decode(self, data: bytes) -> NoReturn:
        time.sleep(0.01)
        raise ImageError(ErrorCode.NOT_AN_IMAGE)


@pytest.fixture
def large_files(tmp_path: Path) -> list[str]:
    """Forty files of 2 MiB, and one of 6 MiB among them."""
    for number in range(40):
        with (tmp_path / f"{number}.bin").open("wb") as file:
            file.truncate(6 * 2**20 if number == 20 else 2 * 2**20)
    return [f"{number}.bin" for number in range(40)]


def large_stream(folder: Path, decoder: object, bound: int) -> Stream:
    reader = ImageReader(UriPolicy(str(folder), (), ()), StoreOptions(), 2**30)
    backend = GreyBackend()
    made = Stream(reader, decoder, backend, num_threads=2, top_k=1, max_buffered_bytes=bound)  # type: ignore[arg-type]
    assert made.num_fetch_threads > 1
    return made


def test_encoded_images_never_take_more_than_their_bound(tmp_path: Path, large_files: list[str]) -> None:
    bound = 7 * 2**20
    stream = large_stream(tmp_path, SlowDecoder(), bound)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    found = stream.submit(large_files).result(timeout=20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    stream.close()
    assert len(found.errors) == len(large_files)
    assert found.stats.read_bytes == 84 * 2**20
    assert 6 * 2**20 < peak - before < bound + 2**19  # the half is for everything that is no image


def test_an_image_larger_than_the_whole_bound_gets_through_alone(tmp_path: Path, large_files: list[str]) -> None:
    stream = large_stream(tmp_path, SlowDecoder(), 5 * 2**20)
    tracemalloc.start()
    found = stream.submit(large_files).result(timeout=20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    stream.close()
    assert found.stats.read_bytes == 84 * 2**20
    assert peak < 6 * 2**20 + 2**19


def test_reads_that_fail_give_their_room_back(
    tmp_path: Path, large_files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_read_all", lambda descriptor, size: b"")
    stream = large_stream(tmp_path, SlowDecoder(), 5 * 2**20)
    found = stream.submit(large_files).result(timeout=20)
    assert {error.code for error in found.errors.values()} == {ErrorCode.CHANGED_WHILE_READ}
    monkeypatch.undo()
    assert stream.submit(large_files).result(timeout=20).stats.read_bytes == 84 * 2**20
    stream.close()


def test_shards_that_break_give_their_room_back(tmp_path: Path, large_files: list[str]) -> None:
    class Breaking(SlowDecoder):
        broken = True

        def decode(self, data: bytes) -> NoReturn:
            if self.broken:
                raise RuntimeError("the decoder broke")
            super().decode(data)

    decoder = Breaking()
    stream = large_stream(tmp_path, decoder, 5 * 2**20)
    for _ in range(5):
        with pytest.raises(RuntimeError, match="the decoder broke"):
            stream.submit(large_files).result(timeout=20)
    decoder.broken = False
    give_up_at = time.monotonic() + 20  # images of the broken shards may still be under way
    while stream.submit(large_files).result(timeout=20).stats.read_bytes != 84 * 2**20:
        assert time.monotonic() < give_up_at
    stream.close()


def test_an_image_given_up_ends_its_shard_and_the_batch_it_left_goes_out() -> None:
    bench = Workbench(lambda: np.zeros((4, 2, 2, 3), np.uint8), max_buffered_bytes=1000, max_ready_batches=2)
    broken, whole = Collector(["x"], 1), Collector(["x", "x"], 1)
    for collector in (broken, whole):
        bench.add_shard(collector)
    for _ in range(3):
        collector, row = bench.next_row() or pytest.fail("there are rows")
        assert Room(bench).reserve(1, None)
        bench.put_image(FetchedImage(collector, row, b"x"))
    images = [bench.next_work(decodes=True, predicts=False) for _ in range(3)]
    for image in images:
        assert isinstance(image, FetchedImage)
        if image.collector is broken:
            bench.give_up(image, RuntimeError("a fault of our own"))
        else:
            bench.place(image, np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(RuntimeError, match="a fault of our own"):
        broken.future.result(timeout=0)
    assert bench.fill() == {"images": 0.0, "batches": 0.5}
    batch = bench.next_work(decodes=False, predicts=True)
    assert isinstance(batch, Batch)
    assert [row for _, row in batch.rows] == [0, 1]


def test_closing_wakes_reads_that_wait_for_room(tmp_path: Path, large_files: list[str]) -> None:
    decoding, may_end = threading.Event(), threading.Event()

    class Stuck(SlowDecoder):
        def decode(self, data: bytes) -> NoReturn:
            decoding.set()
            may_end.wait(20)
            raise ImageError(ErrorCode.NOT_AN_IMAGE)

    stream = large_stream(tmp_path, Stuck(), 3 * 2**20)
    future = stream.submit(large_files)
    assert decoding.wait(10)
    threading.Timer(0.2, may_end.set).start()
    began = time.monotonic()
    stream.close()
    assert time.monotonic() - began < 5
    with pytest.raises(RuntimeError, match="closed"):
        future.result(timeout=1)


def test_waiting_for_room_is_no_time_of_fetching(tmp_path: Path, large_files: list[str]) -> None:
    stream = large_stream(tmp_path, SlowDecoder(), 3 * 2**20)
    began = time.monotonic()
    stats = stream.submit(large_files).result(timeout=20).stats
    took_s = time.monotonic() - began
    stream.close()
    assert took_s > 0.2
    assert stats.fetch_s < took_s  # where all but one of four threads wait


def test_decoding_pauses_when_enough_batches_are_ready() -> None:
    bench = Workbench(GreyBackend(1).new_slab, max_buffered_bytes=10_000, max_ready_batches=1)
    collector = Collector(["a", "b"], 1)
    bench.add_shard(collector)
    for row in range(2):
        bench.next_row()
        assert Room(bench).reserve(1, None)
        bench.put_image(FetchedImage(collector, row, b"x"))
    image = bench.next_work(decodes=True, predicts=False)
    assert isinstance(image, FetchedImage)
    bench.place(image, np.zeros((SIDE, SIDE, 3), np.uint8))
    assert isinstance(bench.next_work(decodes=True, predicts=True), Batch)


def test_a_machine_that_gives_no_more_threads_is_read_with_those_there_are(
    greys: Path, backend: GreyBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> NoReturn:
        raise RuntimeError("can't start new thread")

    reader = ImageReader(UriPolicy(str(greys), (), ()), StoreOptions(), 2**20)
    reader.allow(1)
    decoder = Decoder(Preprocess(resize=SIDE, crop=SIDE), ImageLimits())
    stream = Stream(reader, decoder, backend, num_threads=2, top_k=1)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    reader.allow(8)
    found = stream.submit([f"{grey}.png" for grey in range(GREYS)]).result(timeout=20)
    stream.close()
    assert found.stats.num_ok == GREYS
    assert stream.num_fetch_threads == 1


def test_a_machine_that_gives_not_one_thread_is_refused(
    greys: Path, backend: GreyBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(stream: Stream, name: str, loop: object) -> None:
        if name == "fetch":
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Stream, "_start", refuse)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        stream_over(greys, backend)
