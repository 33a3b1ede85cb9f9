"""Bytes that are no good image, each with the exact code its row gets."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from batchrec.errors import ErrorCode, ImageError
from batchrec.models.preprocessing import Preprocess
from batchrec.pipeline.decoding import Decoder
from batchrec.spec import ImageLimits
from tests.pipeline.bad_images import CASES
from tests.pipeline.damaged_images import GIF, GOOD, JPEG, PNG, SCAN, jpeg_frame
from tests.pipeline.hostile import hostile_codes
from tests.pipeline.image_files import patched
from tests.pipeline.metering import BYTES_PER_PIXEL, MOST_PIXELS, SPARE_BYTES

ROOT = Path(__file__).parents[2]
SIDE = 1_000


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return Decoder(Preprocess(resize=32, crop=28), ImageLimits())


@pytest.mark.parametrize("name", CASES)
def test_bad_bytes_have_their_code(decoder, name):
    data, code = CASES[name]
    with pytest.raises(ImageError) as caught:
        decoder.decode(data)
    assert (caught.value.code, len(caught.value.detail) <= 200) == (code, True), caught.value.detail
    assert " at 0x" not in caught.value.detail


@pytest.mark.parametrize(
    "data",
    [
        JPEG[:-2],  # no end marker, every pixel is there
        PNG[:-12],  # no end chunk
        GIF[:-1],  # no trailer
        jpeg_frame(height=80),  # the rest stays grey, and libjpeg only warns
        patched(JPEG, SCAN + 1000, bytes(40)),
        JPEG[:20] + b"garbage" + JPEG[20:],
        patched(PNG, len(PNG) - 16, b"\0\0\0\0"),  # a checksum nobody looks at; zlib has its own
    ],
)
def test_damage_that_pillow_forgives_is_no_error(decoder, data):
    assert decoder.decode(data)[0].shape == (28, 28, 3)


def test_a_limit_is_kept_to_the_pixel():
    preprocess = Preprocess(resize=32, crop=28)
    for data in GOOD.values():
        Decoder(preprocess, ImageLimits(max_pixels=96 * 64)).decode(data)
        with pytest.raises(ImageError) as caught:
            Decoder(preprocess, ImageLimits(max_pixels=96 * 64 - 1)).decode(data)
        assert caught.value.code == ErrorCode.TOO_MANY_PIXELS


@dataclass(frozen=True)
class Measured:
    """How a file ended, the bytes that took at most, and the pixels its header names."""

    ended: str
    bytes: int
    pixels: int


@pytest.fixture(scope="module")
def folders(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The bad files that the tests write, one large good one of each decoder, and those made to break decoders."""
    folder = tmp_path_factory.mktemp("metered")
    (folder / "bad").mkdir()
    for number, (data, _) in enumerate(CASES.values()):
        (folder / "bad" / str(number)).write_bytes(data)
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    for format_ in ("JPEG", "PNG", "WEBP"):
        Image.fromarray(noise).save(folder / format_, format_)
    with suppress(pytest.skip.Exception):
        return [folder, request.getfixturevalue("test_data") / "hostile"]
    return [folder]


@pytest.fixture(scope="module")
def measured(folders: list[Path]) -> dict[str, Measured]:
    """All of them, by their paths in their folders, decoded one after another in one process."""
    if sys.platform != "linux":
        pytest.skip("reads what a process holds from /proc")
    command = [sys.executable, "-m", "tests.pipeline.metering", *map(str, folders)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return {line.pop("name"): Measured(**line) for line in map(json.loads, done.stdout.splitlines())}


def test_the_meter_sees_the_pixels_that_libraries_of_c_decode(measured: dict[str, Measured]) -> None:
    for format_ in ("JPEG", "PNG", "WEBP"):
        found = measured[format_]
        assert (found.ended, found.pixels) == ("ok", SIDE**2)
        assert 3 * SIDE**2 <= found.bytes <= BYTES_PER_PIXEL * SIDE**2, found


def test_bombs_are_refused_in_little_memory(measured: dict[str, Measured]) -> None:
    taken = {name: measured[f"bad/{number}"] for number, name in enumerate(CASES)}
    assert {name: found.ended for name, found in taken.items()} == {name: code for name, (_, code) in CASES.items()}
    assert {name: found for name, found in taken.items() if found.bytes > SPARE_BYTES} == {}
    assert sum(found.pixels == MOST_PIXELS for found in taken.values()) >= 15, "too few bombs"


def test_every_hostile_file_takes_no_more_memory_than_its_header_allows(
    test_data: Path, measured: dict[str, Measured]
) -> None:
    taken = {name: measured[name] for name in hostile_codes()}
    allowed = {name: SPARE_BYTES + BYTES_PER_PIXEL * found.pixels for name, found in taken.items()}
    assert {name: found for name, found in taken.items() if found.bytes > allowed[name]} == {}


def test_memory_that_runs_out_has_its_code(decoder, monkeypatch):
    def load(self: object) -> None:
        raise MemoryError

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load)
    with pytest.raises(ImageError) as caught:
        decoder.decode(PNG)
    assert caught.value.code == ErrorCode.OUT_OF_MEMORY


def test_an_interrupt_passes_the_border_that_isolates_images(decoder):
    with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
        patch.setattr(PngImagePlugin.PngImageFile, "load", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        decoder.decode(PNG)


def outcome(decoder: Decoder, data: bytes) -> ErrorCode | None:
    try:
        pixels, facts = decoder.decode(data)
    except ImageError as error:
        assert len(error.detail) <= 200
        assert error.detail.isprintable()
        return error.code
    assert pixels.shape == (28, 28, 3)
    assert pixels.dtype == np.uint8
    assert min(facts.width, facts.height) > 0
    return None


@given(name=st.sampled_from(sorted(GOOD)), data=st.data())
@settings(max_examples=250)
def test_any_truncation_gives_a_picture_or_a_code(decoder, name, data):
    length = data.draw(st.integers(0, len(GOOD[name])))
    outcome(decoder, GOOD[name][:length])


@given(name=st.sampled_from(sorted(GOOD)), data=st.data())
@settings(max_examples=400)
def test_any_flipped_bytes_give_a_picture_or_a_code(decoder, name, data):
    damaged = bytearray(GOOD[name])
    # Headers are short and decide most: half of the damage goes there.
    where = st.one_of(st.integers(0, min(400, len(damaged) - 1)), st.integers(0, len(damaged) - 1))
    for position, value in data.draw(st.lists(st.tuples(where, st.integers(0, 255)), min_size=1, max_size=4)):
        damaged[position] = value
    outcome(decoder, bytes(damaged))


@given(
    magic=st.sampled_from([data[:length] for data in GOOD.values() for length in (0, 2, 4, 8, 12, 16, 30)]),
    rest=st.binary(max_size=300),
)
@settings(max_examples=300)
def test_any_bytes_after_a_magic_give_a_code(decoder, magic, rest):
    outcome(decoder, magic + rest)


@pytest.mark.parametrize("name", GOOD)
def test_a_cut_at_every_marker_gives_a_code(decoder, name):
    good = GOOD[name]
    marks = (b"\xff", b"IDAT", b"IEND", b"VP8", b"\x2c", b"\x21")
    cuts = {at for mark in marks for at in range(len(good)) if good.startswith(mark, at) and at < len(good) * 0.9}
    codes = {outcome(decoder, good[:cut]) for cut in sorted(cuts)[:150]}
    assert codes <= {ErrorCode.TRUNCATED, ErrorCode.NOT_AN_IMAGE, ErrorCode.EMPTY}
