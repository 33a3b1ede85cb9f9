"""Rows decoded elsewhere: the same in the end, whatever becomes of the helpers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from batchrec.engine import helping, starving
from batchrec.engine.helping import Helping
from batchrec.errors import ErrorCode
from batchrec.models.backends import Scores
from batchrec.models.preprocessing import Preprocess
from batchrec.pipeline.collecting import Collector
from batchrec.pipeline.decoding import Decoder, ImageFacts
from batchrec.pipeline.feeding import Feed
from batchrec.pipeline.hands import Hands
from batchrec.pipeline.lending import Lot, Slab
from batchrec.pipeline.resizing import Pixels
from batchrec.pipeline.stream import Stream
from batchrec.records import InHand
from batchrec.spec import ImageLimits, StoreOptions
from batchrec.storage import ImageReader, UriPolicy
from tests.engine.thread_help import ThreadHelp

SIDE, GREYS = 8, 40
PREPROCESS = Preprocess(resize=SIDE, crop=SIDE, interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1))
Open = Callable[..., tuple[Stream, ThreadHelp]]


class GreyDevice:
    """Says how bright an image is, in no time."""

    name, device, precision, batch_size, concurrency = "grey", "nowhere", "fp32", 8, 1

    def __init__(self) -> None:
        self.broken = False

    def new_slab(self) -> np.ndarray:
        return np.zeros((self.batch_size, SIDE, SIDE, 3), np.uint8)

    def predict(self, images: np.ndarray) -> Scores:
        if self.broken:
            raise RuntimeError("the model failed")
        grey = images.reshape(len(images), -1).mean(axis=1)
        return Scores(np.ones((len(images), 1), np.float32), np.rint(grey).astype(np.int32)[:, None], grey)


class Sluggish(Decoder):
    """Decodes as it should, and takes its time, unless told that it may hurry."""

    def __init__(self) -> None:
        super().__init__(PREPROCESS, ImageLimits())
        self.hurry = threading.Event()

    def decode(self, data: bytes) -> tuple[Pixels, ImageFacts]:
        self.hurry.wait(0.02)
        return super().decode(data)


class FeedHelper:
    """A helper without a job."""

    def __init__(self, folder: Path) -> None:
        reader = ImageReader(UriPolicy(str(folder), (), ()), StoreOptions(), 2**20)
        hands = Hands()
        self.in_hand = hands.in_hand
        self.decode = Feed(reader, Decoder(PREPROCESS, ImageLimits()), num_threads=1, crop=SIDE, hands=hands).decode

    def start(self) -> None:
        """It is ready at once."""


@pytest.fixture(scope="module")
def greys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images named after their brightness, and one that is none."""
    folder = tmp_path_factory.mktemp("greys")
    for grey in range(GREYS):
        Image.new("RGB", (20, 16), (grey, grey, grey)).save(folder / f"{grey}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


@pytest.fixture
def open_helped(greys: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """A stream that decodes slowly, on a starved device, with helpers on threads."""
    monkeypatch.setattr(starving, "WINDOW_S", 0.2)
    monkeypatch.setattr(helping, "_TICK_S", 0.02)
    monkeypatch.setattr(helping, "_ASK_EVERY_S", 0.05)
    closing: list[Any] = []

    def start(
        make: Callable[[], Any] = lambda: FeedHelper(greys),
        apart: Decoder | None = None,
        decoder: Decoder | None = None,
        device: GreyDevice | None = None,
        most: int | None = None,
        **pool: int,
    ) -> tuple[Stream, ThreadHelp]:
        reader = ImageReader(UriPolicy(str(greys), (), ()), StoreOptions(), 2**20)
        stream = Stream(
            reader,
            decoder or Sluggish(),
            device or GreyDevice(),
            num_threads=1,
            top_k=1,
            decoder_apart=apart,
            max_buffered_bytes=1000,
        )
        help_pool = ThreadHelp(**pool)
        options = {"num_cores": 1, "concurrency": 1, "row_bytes": 3 * SIDE**2, "most": most, "decode_within_s": 0.5}
        closing.extend([Helping(stream, help_pool, make, **options), stream])  # type: ignore[arg-type]
        return stream, help_pool

    yield start
    for each in closing:
        each.close()


def until(true: Callable[[], object], within_s: float = 20) -> None:
    give_up_at = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < give_up_at
        time.sleep(0.005)


def shards(count: int) -> list[list[str]]:
    names = [*(f"{grey}.png" for grey in range(GREYS)), "broken.png", "absent.png"]
    return [[names[(7 * row + shard) % len(names)] for row in range(500)] for shard in range(count)]


def assert_as_without_help(uris: Sequence[str], found: Any) -> None:
    codes = {"broken.png": ErrorCode.TRUNCATED, "absent.png": ErrorCode.NOT_FOUND}
    assert {row: error.code for row, error in found.errors.items()} == {
        row: codes[uri] for row, uri in enumerate(uris) if uri in codes
    }
    right = [0 if uri in codes else int(uri.removesuffix(".png")) for uri in uris]
    assert found.top_labels[:, 0].tolist() == right
    assert found.width.tolist() == [0 if uri in codes else 20 for uri in uris]
    assert found.stats.num_rows == len(uris)


@pytest.mark.parametrize("num_cores", [1, 3])
def test_rows_decoded_by_helpers_are_as_those_decoded_here(open_helped: Open, num_cores: int) -> None:
    here = Sluggish()
    stream, help_pool = open_helped(decoder=here, num_cores=num_cores)
    given = shards(3)
    futures = [stream.submit(uris) for uris in given]
    until(lambda: help_pool.most_lots == 2)
    here.hurry.set()
    for uris, future in zip(given, futures, strict=True):
        assert_as_without_help(uris, future.result(timeout=30))
    num_ok = sum(uri[0].isdigit() for uris in given for uri in uris)
    assert (stream.tally.counts()[0], stream.tally.counts()[1].total()) == (num_ok, 3 * 500 - num_ok)


def test_no_more_helpers_are_called_than_asked_for(open_helped: Open) -> None:
    stream, help_pool = open_helped(num_cores=8, most=1)
    stream.submit(shards(1)[0]).result(timeout=30)
    assert help_pool.num_started == 1


class Holding:
    """A helper that never gives back what it takes."""

    def __init__(self, in_hand: Callable[[], tuple[InHand, ...]] = tuple) -> None:
        self._told = in_hand

    def start(self) -> None:
        """It is ready at once."""

    def decode(self, uris: Sequence[str | None]) -> Slab:
        time.sleep(3)
        raise AssertionError("nobody waits for it any more")

    def in_hand(self) -> tuple[InHand, ...]:
        return self._told()


class Apart(Decoder):
    """Counts what is decoded apart."""

    def __init__(self) -> None:
        super().__init__(PREPROCESS, ImageLimits())
        self.num_decoded = 0

    def decode(self, data: bytes) -> tuple[Pixels, ImageFacts]:
        self.num_decoded += 1
        return super().decode(data)


def overdue() -> tuple[InHand, ...]:
    return (InHand("decode", -1, 3, 60.0),)


def silent() -> tuple[InHand, ...]:
    time.sleep(3)
    return ()


@pytest.mark.parametrize("told", [overdue, silent])
def test_rows_of_a_helper_that_hangs_are_decoded_apart(open_helped: Open, told: Callable[[], Any]) -> None:
    apart, here = Apart(), Sluggish()
    stream, help_pool = open_helped(lambda: Holding(told), apart, here)
    [uris] = shards(1)
    future = stream.submit(uris)
    until(lambda: help_pool.most_lots == 2)
    until(lambda: not help_pool.helpers)
    here.hurry.set()
    assert_as_without_help(uris, future.result(timeout=20))
    assert 0 < apart.num_decoded <= 16  # two lots, without what is absent


def test_a_helper_that_is_well_and_brings_nothing_is_given_up_and_suspects_no_image(open_helped: Open) -> None:
    ended = threading.Event()

    class Forgetful(Holding):
        def decode(self, uris: Sequence[str | None]) -> Slab:
            ended.wait()
            raise RuntimeError("nobody waits for it any more")

    apart, here = Apart(), Sluggish()
    stream, help_pool = open_helped(Forgetful, apart, here)
    [uris] = shards(1)
    future = stream.submit(uris)
    until(lambda: help_pool.most_lots == 2)
    try:
        until(lambda: not help_pool.helpers)
    finally:
        ended.set()
    here.hurry.set()
    assert_as_without_help(uris, future.result(timeout=20))
    assert apart.num_decoded == 0


def test_a_helper_that_cannot_be_ended_costs_no_row(open_helped: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(helper: int) -> None:
        raise RuntimeError("the cluster does not answer")

    here = Sluggish()
    stream, help_pool = open_helped(Holding, Apart(), here)
    [uris] = shards(1)
    future = stream.submit(uris)
    until(lambda: help_pool.most_lots == 2)
    monkeypatch.setattr(help_pool, "stop", refuse)
    help_pool.kill(0)
    here.hurry.set()
    assert_as_without_help(uris, future.result(timeout=20))


def test_where_there_is_no_room_it_is_not_asked_for_again_at_once(open_helped: Open) -> None:
    stream, help_pool = open_helped(num_cores=0)
    future = stream.submit(shards(1)[0])
    until(lambda: help_pool.num_asked_for_room)
    time.sleep(5 * starving.WINDOW_S)
    assert not future.done()
    assert help_pool.num_asked_for_room == 1


def test_time_that_helpers_spent_is_not_taken_for_the_workers_own() -> None:
    collector, ones = Collector(["a.jpg"], 1), np.ones(1, np.int32)
    slab = Slab(np.zeros((1, SIDE, SIDE, 3), np.uint8), np.zeros(1, np.int32), ones, ones, np.ones(1, np.int64), 5.0)
    assert slab.note(Lot(collector, range(1))) == [0]
    collector.predicted([0], GreyDevice().predict(slab.pixels), 0, 0.25)
    stats = collector.future.result(timeout=0).stats
    assert (stats.read_bytes, stats.fetch_s, stats.decode_s, stats.predict_s) == (1, 0, 0, 0.25)


def test_rows_of_a_helper_that_dies_are_decoded_apart_and_no_others(open_helped: Open) -> None:
    apart, here = Apart(), Sluggish()
    stream, help_pool = open_helped(Holding, apart, here)
    [uris] = shards(1)
    future = stream.submit(uris)
    until(lambda: help_pool.most_lots == 2)
    help_pool.kill(0)
    here.hurry.set()
    assert_as_without_help(uris, future.result(timeout=20))
    assert 0 < apart.num_decoded <= 16


def test_a_helper_whose_decoding_raises_is_of_no_use_and_suspects_no_image(open_helped: Open) -> None:
    class Broken(Holding):
        def decode(self, uris: Sequence[str | None]) -> Slab:
            raise RuntimeError("another version")

    apart, here = Apart(), Sluggish()
    stream, help_pool = open_helped(Broken, apart, here)
    [uris] = shards(1)
    future = stream.submit(uris)
    until(lambda: help_pool.most_lots)
    until(lambda: not help_pool.helpers)
    here.hurry.set()
    assert_as_without_help(uris, future.result(timeout=20))
    assert apart.num_decoded == 0


def test_helpers_go_when_a_worker_waits_for_their_cores(open_helped: Open) -> None:
    here = Sluggish()
    stream, help_pool = open_helped(decoder=here)
    uris, others = shards(2)
    future = stream.submit(uris)
    until(lambda: help_pool.most_lots == 2)
    help_pool.yields = True
    until(lambda: not help_pool.helpers)
    here.hurry.set()
    assert_as_without_help(uris, future.result(timeout=20))
    assert_as_without_help(others[:50], stream.submit(others[:50]).result(timeout=20))
    assert help_pool.num_started == 1


def test_slabs_of_a_shard_that_is_given_up_are_let_go_and_the_next_shard_is_done(open_helped: Open) -> None:
    device = GreyDevice()
    stream, help_pool = open_helped(device=device)
    uris, others = shards(2)
    given_up = stream.submit(uris)
    until(lambda: help_pool.most_lots)
    device.broken = True
    with pytest.raises(RuntimeError, match="the model failed"):
        given_up.result(timeout=20)
    device.broken = False
    assert_as_without_help(others, stream.submit(others).result(timeout=20))
