"""Large JPEGs shrunk while they are decoded: nearly the same pixels, the same place, the same facts."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from batchrec.models.preprocessing import Preprocess
from batchrec.pipeline.decoding import Decoder, PictureReader
from batchrec.pipeline.isolating import IsolatedReader
from batchrec.spec import ImageLimits

LIMITS, PREPROCESS = ImageLimits(), Preprocess(resize=72, crop=64)
SHRINK_TO = 2 * PREPROCESS.resize


def photograph(size: tuple[int, int], *, orientation: int = 1, quality: int = 92, progressive: bool = False) -> bytes:
    """Smooth shapes with an edge through them: what a camera gives, and not what hides a shift."""
    coarse = np.random.default_rng(5).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    image.paste((250, 20, 20), (size[0] // 3, size[1] // 4, size[0] // 2, size[1] // 2))
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    image.save(file, "JPEG", quality=quality, exif=exif, progressive=progressive)
    return file.getvalue()


def decoder(*, shrinks: bool) -> Decoder:
    return Decoder(PREPROCESS, LIMITS, PictureReader(LIMITS, SHRINK_TO if shrinks else None).read)


@pytest.mark.parametrize("size", [(288, 288), (577, 433), (1201, 899), (899, 2111), (1152, 1153), (2400, 1800)])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_shrunk_image_has_nearly_the_same_pixels_in_the_same_places(size: tuple[int, int], orientation: int) -> None:
    data = photograph(size, orientation=orientation)
    whole, facts = decoder(shrinks=False).decode(data)
    shrunk, facts_of_shrunk = decoder(shrinks=True).decode(data)
    difference = np.abs(whole.astype(int) - shrunk)
    assert not np.array_equal(whole, shrunk), "it was not shrunk"
    assert facts_of_shrunk == facts
    assert (difference.mean() < 1.0, np.percentile(difference, 99) <= 12) == (True, True), (
        difference.mean(),
        np.percentile(difference, 99),
    )


@pytest.mark.parametrize(
    ("size", "decoded"),
    [
        ((287, 2000), (287, 2000)),
        ((288, 2001), (144, 1001)),
        ((577, 1000), (145, 250)),
        ((1151, 1152), (288, 288)),
        ((1152, 1152), (144, 144)),
        ((4000, 3001), (500, 376)),
    ],
)
def test_an_image_keeps_twice_the_pixels_of_what_is_made_of_it(size: tuple[int, int], decoded: tuple[int, int]) -> None:
    picture = PictureReader(LIMITS, SHRINK_TO).read(photograph(size, quality=60))
    assert isinstance(picture.rgb, np.ndarray)
    assert (picture.rgb.shape[1], picture.rgb.shape[0], picture.size) == (*decoded, size)


@pytest.mark.parametrize("cut", [2, 3000])
def test_a_shrunk_image_without_its_end_gets_the_verdict_of_a_whole_one(cut: int) -> None:
    data = photograph((1200, 900))[:-cut]

    def verdict(reader: Decoder) -> object:
        try:
            return reader.decode(data)[1]
        except Exception as error:  # noqa: BLE001  whatever it is, it is compared
            return (type(error), str(error))

    assert verdict(decoder(shrinks=True)) == verdict(decoder(shrinks=False))


def test_a_progressive_image_is_shrunk_too_and_a_png_never_is() -> None:
    progressive = PictureReader(LIMITS, SHRINK_TO).read(photograph((1200, 900), progressive=True))
    assert isinstance(progressive.rgb, np.ndarray)
    assert progressive.rgb.shape == (225, 300, 3)
    file = io.BytesIO()
    Image.open(io.BytesIO(photograph((1200, 900)))).save(file, "PNG")
    whole, shrunk = (decoder(shrinks=shrinks).decode(file.getvalue())[0] for shrinks in (False, True))
    assert np.array_equal(whole, shrunk)


def test_an_image_decoded_apart_is_shrunk_to_the_same_bits() -> None:
    data = photograph((1201, 899), orientation=6)
    apart = IsolatedReader(LIMITS, 30.0, SHRINK_TO)
    there, facts_there = Decoder(PREPROCESS, LIMITS, apart.read).decode(data)
    apart.close()
    here, facts = decoder(shrinks=True).decode(data)
    assert (np.array_equal(here, there), facts) == (True, facts_there)
