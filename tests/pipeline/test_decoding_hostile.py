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
from tests.pipeline.hostile import hostile_codes


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return Decoder(Preprocess(), ImageLimits())


@pytest.fixture(scope="module")
def hostile(test_data) -> Path:
    return test_data / "hostile"


def code_of(decoder: Decoder, data: bytes) -> str:
    try:
        pixels, _ = decoder.decode(data)
    except ImageError as error:
        return error.code.value
    assert pixels.shape == (224, 224, 3)
    return "ok"


def test_every_hostile_file_has_its_code(decoder, hostile, capfd):
    codes = {}
    with warnings.catch_warnings():
        warnings.resetwarnings()
        warnings.simplefilter("error")
        for path in sorted(path for path in hostile.rglob("*") if path.is_file()):
            started = time.monotonic()
            codes[str(path.relative_to(hostile))] = code_of(decoder, path.read_bytes())
            assert time.monotonic() - started < 10, path.name
    assert codes == hostile_codes()
    # Decoders written in C print what they think, thousands of lines for one file.
    assert capfd.readouterr() == ("", "")


def test_the_codes_of_223_hostile_files_are_known():
    """Written down from what was seen and looked at: a change of one is to be looked at too."""
    codes = hostile_codes()
    assert len(codes) == 223
    assert set(codes.values()) - {"ok"} <= set(ErrorCode)


@pytest.mark.parametrize("shape", ["Landscape", "Portrait"])
@pytest.mark.parametrize("orientation", [0, 2, 3, 4, 5, 6, 7, 8])
def test_all_orientations_show_the_same_upright_picture(decoder, hostile, shape, orientation):
    upright, facts = decoder.decode((hostile / "exif" / f"{shape}_1.jpg").read_bytes())
    turned, turned_facts = decoder.decode((hostile / "exif" / f"{shape}_{orientation}.jpg").read_bytes())
    assert facts == turned_facts
    # Each file names its own orientation in large figures; the rest of the picture is the same.
    assert np.median(np.abs(turned.astype(int) - upright.astype(int))) <= 3
