"""The pixels are those of torchvision's preset on a PIL image."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification

from batchrec.models.preprocessing import Preprocess
from batchrec.pipeline.decoding import Decoder
from batchrec.pipeline.resizing import Resizer
from batchrec.spec import ImageLimits

SIZES = [(500, 375), (375, 500), (400, 533), (640, 480), (256, 256), (257, 255), (100, 60), (37, 91), (1024, 300)]
SIZES += [
    (240, 240),
    (240, 300),
    (300, 240),
    (1601, 1203),
    (224, 224),
    (1, 1),
    (2, 7),
    (511, 512),
    (900, 40),
    (33, 1200),
]
GEOMETRIES = [(256, 224), (232, 224), (224, 224), (75, 64), (65, 64)]

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def drawn(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """Noise of many scales, so that any slip of half a pixel shows."""
    noise = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8)
    image = Image.fromarray(noise)
    return Image.blend(image, image.filter(ImageFilter.BoxBlur(5)), 0.6)


def reference(image: Image.Image, preprocess: Preprocess) -> np.ndarray:
    preset = ImageClassification(
        crop_size=preprocess.crop,
        resize_size=preprocess.resize,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        interpolation=InterpolationMode(preprocess.interpolation),
    )
    return (preset(image.convert("RGB")) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def worst(left: np.ndarray, right: np.ndarray) -> int:
    return int(np.abs(left.astype(int) - right.astype(int)).max())


def encoded(image: Image.Image, format_: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format_, **options)
    return stream.getvalue()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("resize", "crop"), GEOMETRIES)
@pytest.mark.parametrize("size", SIZES)
def test_a_jpeg_matches_the_reference(size, resize, crop, interpolation):
    preprocess = Preprocess(resize=resize, crop=crop, interpolation=interpolation)
    data = encoded(drawn(size), "JPEG", quality=92)
    pixels, _ = Decoder(preprocess, ImageLimits()).decode(data)
    assert worst(pixels, reference(Image.open(io.BytesIO(data)), preprocess)) <= (
        1 if interpolation == "bilinear" else 2
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "CMYK"])
def test_what_pillow_decodes_matches_the_reference(size, mode):
    preprocess = Preprocess(resize=75, crop=64)
    image = drawn(size).convert(mode)
    data = encoded(image, "TIFF")
    pixels, _ = Decoder(preprocess, ImageLimits()).decode(data)
    # Bit for bit, but for needles, of which only a part is resized.
    assert worst(pixels, reference(image, preprocess)) <= (2 if max(size) > 20 * min(size) else 0)


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("size", [(500, 375), (375, 500), (101, 67)])
def test_a_turned_jpeg_matches_the_reference_turned_first(orientation, size):
    preprocess = Preprocess(resize=75, crop=64)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(drawn(size), "JPEG", quality=92, exif=exif)
    pixels, _ = Decoder(preprocess, ImageLimits()).decode(data)
    upright = Image.open(io.BytesIO(data)).convert("RGB").transpose(TURNS[orientation])
    assert worst(pixels, reference(upright, preprocess)) <= 1


@given(
    width=st.integers(1, 700),
    height=st.integers(1, 700),
    geometry=st.sampled_from(GEOMETRIES),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
)
@example(240, 240, (256, 224), "bilinear")  # as wide as what is asked of the kernel
@example(253, 771, (256, 224), "bicubic")  # as many rows left as are asked for
@settings(max_examples=80)
def test_skipping_what_the_crop_drops_changes_no_bit(width, height, geometry, interpolation):
    resize, crop = geometry
    short, long = sorted((width, height))
    if long > 20 * short:
        return
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
    resized = [resize if side == short else int(resize * long / short) for side in (height, width)]
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    whole = torch.nn.functional.interpolate(image, size=resized, mode=interpolation, antialias=True)
    top, left = (round((side - crop) / 2.0) for side in resized)
    expected = whole[0, :, top : top + crop, left : left + crop].permute(1, 2, 0).numpy()
    resizer = Resizer(Preprocess(resize=resize, crop=crop, interpolation=interpolation))
    got = resizer.from_array(pixels, pixels.shape[1::-1], 1)
    assert np.array_equal(got, expected)


@pytest.mark.parametrize("size", [(64, 64), (500, 375), (375, 500), (1000, 90)])
def test_the_colours_of_a_pixel_lie_together(size):
    """Else copying an image into its batch, where they do, costs more than resizing it."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    resized = Resizer(Preprocess()).from_array(pixels, size, 1)
    assert resized.strides[1:] == (3, 1)
