"""Every variant of the formats that is read, from hand-written files: upright size and colours."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from batchrec.models.preprocessing import Preprocess
from batchrec.pipeline.decoding import Decoder, ImageFacts
from batchrec.spec import ImageLimits
from tests.pipeline.bad_images import CASES
from tests.pipeline.good_images import GOOD

#: Rows and columns of the 28 x 28 pixels, well inside each quadrant.
NEAR, FAR = 7, 20


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return Decoder(Preprocess(resize=32, crop=28), ImageLimits())


@pytest.mark.parametrize("name", GOOD)
def test_good_bytes_have_their_size_and_colours(decoder, name):
    good = GOOD[name]
    pixels, facts = decoder.decode(good.data)
    got = [pixels[row, column].tolist() for row in (NEAR, FAR) for column in (NEAR, FAR)]
    assert facts == ImageFacts(*good.size)
    for colour, expected in zip(got, good.colours, strict=True):
        assert colour == pytest.approx(expected, abs=good.within), got


def test_the_document_counts_the_generated_cases():
    """COMMIT.md asks for 150; cases that are the same bytes count once."""
    bad, good = ({data for data, _ in CASES.values()}, {case.data for case in GOOD.values()})
    assert len(bad | good) == len(bad) + len(good) >= 150
    said = re.search(r"(\d+) generated files.*?(\d+).*?(\d+)", Path("docs/images.md").read_text(), re.DOTALL)
    assert said and [int(number) for number in said.groups()] == [len(bad) + len(good), len(bad), len(good)]
