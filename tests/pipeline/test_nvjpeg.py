"""Decoding on the model's device: torchvision's decoder of the CPU stands in for nvJPEG, the rest is what runs."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillWaiting
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image

from batchrec.errors import ModelError
from batchrec.learning.drawing import draw_image
from batchrec.models.backends import Scores
from batchrec.models.backends.queues import CudaDevice
from batchrec.models.preprocessing import Preprocess
from batchrec.pipeline import together
from batchrec.pipeline.batching import Room, Workbench
from batchrec.pipeline.collecting import Collector
from batchrec.pipeline.decoding import Decoder, ImageFacts
from batchrec.pipeline.jpeg import JpegHeader
from batchrec.pipeline.nvjpeg import LEAST_TOGETHER, MOST_TOGETHER, NvJpegDecoder
from batchrec.pipeline.resizing import Pixels
from batchrec.pipeline.stream import Stream
from batchrec.pipeline.waiting import Batch, FetchedImage, WaitingImages
from batchrec.spec import ImageLimits, StoreOptions
from batchrec.storage import ImageReader, UriPolicy
from tests.models.devices import HostDevice, LateDevice
from tests.pipeline.image_files import encoded, exif, quadrants, segment, with_segments

PREPROCESS = Preprocess(resize=40, crop=32)
SIZES = ((90, 70), (70, 90), (64, 64), (33, 47), (200, 60))


def decoder_on(device: HostDevice) -> NvJpegDecoder:
    return NvJpegDecoder(PREPROCESS, ImageLimits(max_pixels=1_000_000), device)


@pytest.fixture(params=["at once", "late", "whimsical"])
def decoder(request: pytest.FixtureRequest) -> NvJpegDecoder:
    devices = {"at once": HostDevice(), "late": LateDevice(), "whimsical": LateDevice(3)}
    return decoder_on(devices[request.param])


def photographs(num_images: int) -> list[bytes]:
    """Drawn JPEGs of several sizes, some turned by EXIF."""
    drawn = [draw_image(index, seed=0, size=SIZES[index % len(SIZES)])[1] for index in range(num_images)]
    return [with_segments(data, segment(0xE1, exif(1 + index % 8))) for index, data in enumerate(drawn)]


def taken(decoder: NvJpegDecoder, images: list[bytes]) -> list[tuple[bytes, JpegHeader]]:
    headers = [decoder.takes(data) for data in images]
    return [(data, header) for data, header in zip(images, headers, strict=True) if header]


def test_pixels_are_those_of_a_core_to_a_level_or_two(decoder: NvJpegDecoder) -> None:
    images = photographs(48)
    found = decoder.decode(taken(decoder, images))
    assert len(found) == 48
    for pixels, data in zip(found, images, strict=True):
        expected, _ = Decoder(PREPROCESS, ImageLimits()).decode(data)
        assert pixels is not None
        distance = np.abs(pixels.astype(int) - expected)
        assert distance.max() <= 2
        assert distance.mean() < 0.4  # a core rounds twice, after each axis


def sampled(factors: str) -> bytes:
    return bytes(simplejpeg.encode_jpeg(np.array(quadrants()), colorsubsampling=factors))


NOT_FOR_A_DEVICE = {
    "progressive": encoded(quadrants(), "JPEG", progressive=True),
    "extended sequential": encoded(quadrants(), "JPEG").replace(b"\xff\xc0", b"\xff\xc1", 1),
    "of rare sampling": sampled("411"),
    "grey": encoded(quadrants("L"), "JPEG"),
    "CMYK": encoded(quadrants("CMYK"), "JPEG"),
    "PNG": encoded(quadrants(), "PNG"),
    "cut off": encoded(quadrants(), "JPEG")[:-200],
    "only its start": b"\xff\xd8\xff",
    "no end of its header": b"\xff\xd8\xff\xe0\x00\x10" + b"\xff\xd9",
    "a needle": encoded(quadrants().resize((400, 4)), "JPEG"),
    "more pixels than allowed": encoded(Image.new("RGB", (1100, 1000)), "JPEG"),
    "nothing": b"",
}


@pytest.mark.parametrize("kind", NOT_FOR_A_DEVICE)
def test_whatever_is_no_plain_baseline_jpeg_is_left_to_a_core(kind: str) -> None:
    assert decoder_on(HostDevice()).takes(NOT_FOR_A_DEVICE[kind]) is None


@pytest.mark.parametrize("sampling", ["444", "422", "420", "440"])
def test_plain_baseline_jpegs_in_colour_are_taken(sampling: str) -> None:
    header = decoder_on(HostDevice()).takes(sampled(sampling))
    assert header is not None
    assert header.size == (64, 32)


def test_one_that_cannot_be_decoded_leaves_itself_to_a_core_and_spoils_no_other(decoder: NvJpegDecoder) -> None:
    images = photographs(21)
    whole = [pixels.copy() for pixels in decoder.decode(taken(decoder, images)) if pixels is not None]
    broken = bytearray(images[5])
    scan = broken.find(b"\xff\xda")
    broken[scan : scan + 2] = b"\xff\xdb"  # a second table where the picture should begin
    chosen = taken(decoder, images)
    chosen[5] = (bytes(broken), chosen[5][1])
    found = decoder.decode(chosen)
    assert found[5] is None
    for index in set(range(21)) - {5}:
        np.testing.assert_array_equal(found[index], whole[index])


def test_one_of_another_size_than_its_header_says_is_left_to_a_core() -> None:
    decoder = decoder_on(HostDevice())
    chosen = taken(decoder, photographs(4))
    chosen[2] = (chosen[1][0], chosen[2][1])
    assert [pixels is None for pixels in decoder.decode(chosen)] == [False, False, True, False]


def test_where_memory_runs_out_fewer_are_decoded_at_once() -> None:
    calls = []

    class Narrow(HostDevice):
        def decode_jpegs(self, encoded: list[torch.Tensor]) -> list[torch.Tensor]:
            calls.append(len(encoded))
            if len(encoded) > 8:
                raise torch.cuda.OutOfMemoryError("too much")
            return super().decode_jpegs(encoded)

    decoder = decoder_on(Narrow())
    found = decoder.decode(taken(decoder, photographs(32)))
    assert all(pixels is not None for pixels in found)
    assert calls == [2, 32, 16, 8, 8, 16, 8, 8]


def test_without_nvjpeg_it_says_what_to_do() -> None:
    class Without(HostDevice):
        def decode_jpegs(self, encoded: list[torch.Tensor]) -> list[torch.Tensor]:
            raise RuntimeError("decode_jpegs_cuda: torchvision not compiled with nvJPEG support")

    with pytest.raises(ModelError, match="nvJPEG cannot decode here") as raised:
        decoder_on(Without())
    assert "not compiled with nvJPEG" in str(raised.value.found)
    assert "--decoding nvjpeg" in str(raised.value.advice)


def squeezed(planes: torch.Tensor) -> torch.Tensor:
    """As video has it, where 16 is black and 235 white."""
    return (16 + planes * (219 / 255)).to(torch.uint8)


WRONG = {
    "planes exchanged": lambda planes: planes.flip(0),
    "turned": lambda planes: planes.mT,
    "black": torch.zeros_like,
    "levels of video": squeezed,
    "another size": lambda planes: planes[:, 1:],
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_device_that_makes_another_picture_of_a_jpeg_is_refused(kind: str) -> None:
    class Wrong(HostDevice):
        def decode_jpegs(self, encoded: list[torch.Tensor]) -> list[torch.Tensor]:
            return [WRONG[kind](planes) for planes in super().decode_jpegs(encoded)]

    with pytest.raises(ModelError, match="another picture of a JPEG than a core") as raised:
        NvJpegDecoder(Preprocess(256, 224), ImageLimits(), Wrong())
    assert ("another size" if kind == "another size" else "of 255 levels") in str(raised.value.found)
    assert "--decoding nvjpeg" in str(raised.value.advice)


@pytest.mark.parametrize("resize, crop", [(32, 28), (232, 224), (480, 480), (72, 8)])
def test_a_device_is_not_refused_for_the_sizes_a_model_wants(resize: int, crop: int) -> None:
    assert NvJpegDecoder(Preprocess(resize, crop), ImageLimits(), HostDevice()).takes(photographs(1)[0])


def waiting_images(num_images: int, size: tuple[int, int] = (10, 10)) -> tuple[Collector, list[FetchedImage]]:
    header = JpegHeader(size, 1, True, True, 0, "", is_baseline=True, sampling=b"\x11\x11\x11")
    collector = Collector(["x"] * num_images, 1)
    return collector, [FetchedImage(collector, row, b"x", header) for row in range(num_images)]


def test_a_core_takes_what_no_device_can_decode_first() -> None:
    collector, images = waiting_images(3)
    waiting = WaitingImages()
    for image in (*images, FetchedImage(collector, 7, b"x")):
        waiting.put(image)
    assert (len(waiting), waiting.num_for_device) == (4, 3)
    assert [waiting.take().row for _ in range(4)] == [7, 0, 1, 2]


def test_so_many_pixels_are_taken_together_but_always_one_image() -> None:
    waiting = WaitingImages()
    for image in waiting_images(5)[1]:
        waiting.put(image)
    assert [image.row for image in waiting.take_together(9, 250)] == [0, 1]
    assert [image.row for image in waiting.take_together(9, 50)] == [2]
    assert [image.row for image in waiting.take_together(1, 900)] == [3]
    assert waiting.num_for_device == 1


def test_a_device_decodes_only_while_the_model_has_less_than_two_batches() -> None:
    bench = Workbench(lambda: np.zeros((1, 2, 2, 3), np.uint8), max_buffered_bytes=1000, max_ready_batches=4)
    collector, images = waiting_images(30)
    bench.add_shard(collector)
    for image in images:
        bench.next_row()
        assert Room(bench).reserve(1, None)
        bench.put_image(image)
    for image in bench.next_together(2, 2, 1000) or []:
        bench.place(image, np.zeros((2, 2, 3), np.uint8))
    with ThreadPoolExecutor(1) as device:
        wanting = device.submit(bench.next_together, 2, 8, 1000)
        first = bench.next_work(decodes=False, predicts=True)
        with pytest.raises(StillWaiting):  # one batch is with the model, one waits for it
            wanting.result(timeout=0.2)
        assert isinstance(first, Batch)
        bench.give_back(first)
        assert [image.row for image in wanting.result(timeout=10) or []] == list(range(2, 10))
        closing = device.submit(bench.next_together, 25, 99, 1000)  # more than there are: left to the cores
        with pytest.raises(StillWaiting):
            closing.result(timeout=0.2)
        bench.close()
        assert closing.result(timeout=10) is None


class Averages:
    """A model on a device of its own: says how bright the red of an image is."""

    name, device, precision = "averages", "elsewhere", "fp32"
    batch_size, concurrency = 8, 1

    def new_slab(self) -> np.ndarray:
        return np.zeros((self.batch_size, PREPROCESS.crop, PREPROCESS.crop, 3), np.uint8)

    def predict(self, images: np.ndarray) -> Scores:
        red = images[..., 0].reshape(len(images), -1).mean(axis=1)
        ones = np.ones((len(images), 1), np.float32)
        return Scores(ones, np.rint(red).astype(np.int32)[:, None], ones[:, 0])


class BusyCores:
    """Decodes like any core, but nothing until the device has decoded something."""

    def __init__(self) -> None:
        self.may_begin = threading.Event()
        self.num_decoded = 0
        self._decoder = Decoder(PREPROCESS, ImageLimits())

    def decode(self, data: bytes) -> tuple[Pixels, ImageFacts]:
        assert self.may_begin.wait(20), "the device decoded nothing"
        self.num_decoded += 1
        return self._decoder.decode(data)


class Watched(NvJpegDecoder):
    """Lets the cores begin once it has decoded, and notes how much."""

    cores: BusyCores
    num_decoded = 0
    fails = False
    seen: Counter[bytes]

    def decode(self, images: list[tuple[bytes, JpegHeader]]) -> list[Pixels | None]:
        self.cores.may_begin.set()
        if self.fails:
            raise TypeError("a fault of our own")
        assert LEAST_TOGETHER <= len(images) <= MOST_TOGETHER
        self.seen.update(data for data, _ in images)
        found = super().decode(images)
        self.num_decoded += sum(pixels is not None for pixels in found)
        return found


@pytest.fixture
def archive(tmp_path: Path) -> list[str]:
    """Pictures as red as their number, every fifth of which only a core can decode, and one that nobody can."""
    for red in range(100):
        image = Image.new("RGB", (48 + red % 3, 40), (red, 0, 0))
        image.save(tmp_path / f"{red}.jpg", progressive=red % 5 == 0, quality=95)
    (tmp_path / "33.jpg").write_bytes((tmp_path / "33.jpg").read_bytes()[:300])
    return [f"{red}.jpg" for red in range(100)]


@pytest.fixture
def watched() -> Watched:
    made = Watched(PREPROCESS, ImageLimits(), HostDevice())
    made.cores, made.seen = BusyCores(), Counter()
    return made


@pytest.fixture
def stream(tmp_path: Path, watched: Watched) -> Iterator[Stream]:
    reader = ImageReader(UriPolicy(str(tmp_path), (), ()), StoreOptions(), 2**20)
    made = Stream(reader, watched.cores, Averages(), num_threads=1, top_k=1, nvjpeg=watched)  # type: ignore[arg-type]
    yield made
    made.close()


def test_device_and_cores_share_a_shard_and_every_row_is_in_its_place(
    stream: Stream, watched: Watched, archive: list[str], tmp_path: Path
) -> None:
    shards = [stream.submit(archive, shard=number, apart={1, 51}) for number in range(3)]
    for found in (shard.result(timeout=60) for shard in shards):
        assert list(found.errors) == [33]
        reds = np.delete(found.top_labels[:, 0], 33)
        assert np.abs(reds - np.delete(np.arange(100), 33)).max() <= 2
        assert found.width.tolist() == [48 + red % 3 if red != 33 else 0 for red in range(100)]
    assert watched.num_decoded >= LEAST_TOGETHER
    suspects = {(tmp_path / archive[row]).read_bytes() for row in (1, 51)}
    assert not suspects & watched.seen.keys()
    assert watched.cores.num_decoded >= 3 * 20
    assert watched.num_decoded + watched.cores.num_decoded == 300
    assert watched.num_decoded == sum(shard.result().stats.num_on_device for shard in shards)
    assert stream.tally.counts() == (297, {"truncated": 3})


def test_a_device_that_decodes_nothing_is_left_alone_and_the_cores_do_it_all(
    stream: Stream, watched: Watched, archive: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(images: list[tuple[bytes, JpegHeader]]) -> list[Pixels | None]:
        calls.append(len(images))
        if len(calls) == together.CALLS_IN_VAIN:
            watched.cores.may_begin.set()
        return [None] * len(images)

    calls: list[int] = []
    monkeypatch.setattr(watched, "decode", refuses)
    monkeypatch.setattr(together, "CALLS_IN_VAIN", 3)
    shards = [stream.submit(archive, shard=number) for number in range(12)]
    for found in (shard.result(timeout=60) for shard in shards):
        assert list(found.errors) == [33]
        assert found.stats.num_on_device == 0
    assert len(calls) == 3


def test_a_fault_of_the_device_ends_shards_and_not_its_thread(
    stream: Stream, watched: Watched, archive: list[str]
) -> None:
    watched.fails = True
    with pytest.raises(TypeError, match="a fault of our own"):
        stream.submit(archive).result(timeout=20)
    watched.fails = False
    before, give_up_at = watched.num_decoded, time.monotonic() + 60
    while watched.num_decoded == before:
        assert time.monotonic() < give_up_at
        watched.cores.may_begin.clear()
        try:
            assert list(stream.submit(archive).result(timeout=20).errors) == [33]
        except TypeError:
            continue  # what was in hand when the fault was mended


@pytest.mark.gpu
def test_nvjpeg_decodes_as_a_core_does_but_for_how_colours_are_spread() -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device here")
    decoder = NvJpegDecoder(PREPROCESS, ImageLimits(), CudaDevice("cuda:0"))
    images = photographs(64)
    found = decoder.decode(taken(decoder, images))
    for pixels, data in zip(found, images, strict=True):
        expected, _ = Decoder(PREPROCESS, ImageLimits()).decode(data)
        assert pixels is not None
        assert np.abs(pixels.astype(int) - expected).mean() < 3
