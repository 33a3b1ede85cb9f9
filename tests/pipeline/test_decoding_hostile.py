"""Real files made to break decoders."""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from batchrec.errors import ErrorCode, ImageError
from batchrec.models.preprocessing import Preprocess
from batchrec.pipeline.decoding import Decoder
from batchrec.spec import ImageLimits

SUITE_CODES = {
    "xc1n0g08": ErrorCode.CORRUPT,
    "xc9n2c08": ErrorCode.CORRUPT,
    "xcrn0g04": ErrorCode.CORRUPT,
    "xcsn0g01": None,  # a wrong checksum of good data: Pillow forgives it
    "xd0n2c08": ErrorCode.CORRUPT,
    "xd3n2c08": ErrorCode.CORRUPT,
    "xd9n2c08": ErrorCode.CORRUPT,
    "xdtn0g01": ErrorCode.CORRUPT,
    "xhdn0g08": ErrorCode.CORRUPT,
    "xlfn0g04": ErrorCode.CORRUPT,
    "xs1n0g01": ErrorCode.NOT_AN_IMAGE,
    "xs2n0g01": ErrorCode.NOT_AN_IMAGE,
    "xs4n0g01": ErrorCode.NOT_AN_IMAGE,
    "xs7n0g01": ErrorCode.CORRUPT,
}


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return Decoder(Preprocess(), ImageLimits())


@pytest.fixture(scope="module")
def hostile(test_data) -> Path:
    return test_data / "hostile"


def code_of(decoder: Decoder, data: bytes) -> ErrorCode | None:
    try:
        pixels, _ = decoder.decode(data)
    except ImageError as error:
        return error.code
    assert pixels.shape == (224, 224, 3)
    return None


def test_every_hostile_file_gives_a_picture_or_one_code(decoder, hostile, capfd):
    files = sorted(path for path in hostile.rglob("*") if path.is_file())
    assert len(files) == 223
    with warnings.catch_warnings():
        warnings.resetwarnings()
        warnings.simplefilter("error")
        for path in files:
            started = time.monotonic()
            code_of(decoder, path.read_bytes())
            assert time.monotonic() - started < 10, path.name
    # Decoders written in C print what they think, thousands of lines for one file.
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", SUITE_CODES)
def test_the_broken_part_of_the_png_suite(decoder, hostile, name):
    assert code_of(decoder, (hostile / "pngsuite" / f"{name}.png").read_bytes()) == SUITE_CODES[name]


def test_the_rest_of_the_png_suite_decodes(decoder, hostile):
    good = [path for path in (hostile / "pngsuite").iterdir() if not path.name.startswith("x")]
    assert len(good) > 30
    assert {code_of(decoder, path.read_bytes()) for path in good} == {None}


@pytest.mark.parametrize("shape", ["Landscape", "Portrait"])
@pytest.mark.parametrize("orientation", [0, 2, 3, 4, 5, 6, 7, 8])
def test_all_orientations_show_the_same_upright_picture(decoder, hostile, shape, orientation):
    upright, facts = decoder.decode((hostile / "exif" / f"{shape}_1.jpg").read_bytes())
    turned, turned_facts = decoder.decode((hostile / "exif" / f"{shape}_{orientation}.jpg").read_bytes())
    assert facts == turned_facts
    # Each file names its own orientation in large figures; the rest of the picture is the same.
    assert np.median(np.abs(turned.astype(int) - upright.astype(int))) <= 3


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("decompression_bomb.gif", ErrorCode.TOO_MANY_PIXELS),
        ("zero_width.gif", ErrorCode.BAD_DIMENSIONS),
        ("truncated_jpeg.jpg", ErrorCode.TRUNCATED),
        ("truncated_image.png", ErrorCode.TRUNCATED),
        ("truncated_end_chunk.png", ErrorCode.TRUNCATED),
        ("broken_data_stream.png", ErrorCode.CORRUPT),
        ("16bit.s.tif", ErrorCode.UNSUPPORTED_FORMAT),
        ("rgba.psd", ErrorCode.UNSUPPORTED_FORMAT),
        ("tga__common__200x32_rgba_tl_raw.tga", ErrorCode.UNSUPPORTED_FORMAT),
        ("pil_sample_cmyk.jpg", None),
        ("multiple_exif.jpg", None),
        ("sugarshack_bad_mpo_header.jpg", None),
        ("tiff_strip_cmyk_jpeg.tif", None),
        ("12bit.cropped.tif", None),
    ],
)
def test_named_files_have_their_code(decoder, hostile, name, code):
    assert code_of(decoder, (hostile / "pillow" / name).read_bytes()) == code
