"""Every kind of pixels Pillow reads, as 8-bit RGB; what is not defined here is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from batchrec.errors import ErrorCode, ImageError
from batchrec.pipeline.exif import orientation_of

_PLAIN_MODES = frozenset({"1", "L", "P", "CMYK", "YCbCr", "RGB", "RGBX"})
_BITS_PER_SAMPLE, _SAMPLE_FORMAT, _SIGNED = 258, 339, 2
_BLOCK_PIXELS = 1_000_000


def to_rgb(image: Image.Image, depth: int) -> Image.Image:
    """Convert a loaded image to RGB: alpha on white, 16 bits scaled, floats from 0 to 1.

    Args:
        image: A loaded first frame.
        depth: Bits of a sample in the file, where it is a PNG.

    Raises:
        ImageError: ``unsupported_format`` for Lab, HSV, 32-bit integers and floats beyond 0 to 1.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        return _from_16_bits(image)
    if image.mode == "F":
        return _from_floats(image)
    _scale_transparent_colour(image, depth)
    if image.has_transparency_data:
        return _on_white(image)
    if image.mode not in _PLAIN_MODES:
        raise ImageError(ErrorCode.UNSUPPORTED_FORMAT, f"pixels of mode {image.mode} in a {image.format}")
    return image if image.mode == "RGB" else image.convert("RGB")


def orientation_after_loading(image: Image.Image) -> int:
    """Orientation still to be applied to a loaded image that is not a JPEG.

    Pillow turns TIFF itself while loading and forgets the tag then; PNG and WebP it leaves as they are.
    """
    exif = image.info.get("exif")
    if isinstance(exif, bytes):
        return orientation_of(exif)
    profile = image.info.get("Raw profile type exif")
    return orientation_of(_unpacked(profile)) if isinstance(profile, str) else 1


def _unpacked(profile: str) -> bytes:
    # ImageMagick before PNG had a chunk for EXIF: a name, a length, then lines of hexadecimal digits.
    try:
        return bytes.fromhex("".join(profile.split("\n")[3:]))
    except ValueError:
        return b""


def _on_white(image: Image.Image) -> Image.Image:
    layered = image if image.mode == "RGBA" else image.convert("RGBA")
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(layered, mask=layered)
    return white


def _scale_transparent_colour(image: Image.Image, depth: int) -> None:
    """Bring the transparent colour of a PNG to the 8 bits Pillow scaled its pixels to."""
    colour = image.info.get("transparency")
    if image.format != "PNG" or colour is None:
        return
    if image.mode == "RGB" and depth == 16:
        image.info["transparency"] = tuple(sample >> 8 for sample in colour)
    elif image.mode == "L" and depth < 8:
        image.info["transparency"] = colour * 255 // (2**depth - 1)


def _from_16_bits(image: Image.Image) -> Image.Image:
    full_scale = 65535
    samples: Any = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    if _SIGNED in np.atleast_1d(tags.get(_SAMPLE_FORMAT, 1)):
        raise ImageError(ErrorCode.UNSUPPORTED_FORMAT, "signed 16-bit samples")
    if bits := tags.get(_BITS_PER_SAMPLE):
        full_scale = 2 ** int(bits[0]) - 1
    grey = np.empty(samples.shape, np.uint8)
    step = max(1, _BLOCK_PIXELS // samples.shape[1])
    for row in range(0, samples.shape[0], step):  # in blocks: the wide arithmetic takes four times the memory
        block = np.clip(samples[row : row + step], 0, full_scale).astype(np.uint32)
        grey[row : row + step] = (block * 255 + full_scale // 2) // full_scale
    result = Image.fromarray(grey).convert("RGB")
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        result.paste((255, 255, 255), mask=Image.fromarray(samples == transparent))
    return result


def _from_floats(image: Image.Image) -> Image.Image:
    samples = np.asarray(image)
    if not (samples.min() >= 0 and samples.max() <= 1):  # so phrased, NaN is refused as well
        raise ImageError(ErrorCode.UNSUPPORTED_FORMAT, "floating-point samples beyond 0 to 1")
    return Image.fromarray((samples * np.float32(255) + np.float32(0.5)).astype(np.uint8)).convert("RGB")
