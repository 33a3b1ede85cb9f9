"""JPEGs decoded many at once by the device the model runs on: what its cores leave, while it would else wait.

    images a device may decode -> nvJPEG -> resize and crop, those of one size together -> this process -> batches

The pixels come back, so that batches are made as of any other: they go over the bus once more, 150 kB of an image, and
nothing behind decoding knows where an image was decoded.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Final

import numpy as np
import simplejpeg

from batchrec.errors import ImageError, ModelError
from batchrec.pipeline.decoding import Decoder
from batchrec.pipeline.jpeg import END_MARKER, JpegHeader, read_jpeg_header
from batchrec.pipeline.resizing import Resizer, upright, window_of
from batchrec.spec import ImageLimits

if TYPE_CHECKING:
    from batchrec.models.backends.queues import Device
    from batchrec.models.preprocessing import Preprocess
    from batchrec.pipeline.resizing import Pixels

#: Images of one call. What is fewer than the least is done sooner by the cores.
LEAST_TOGETHER: Final = 16
MOST_TOGETHER: Final = 128
#: Of one call: decoded and resized in floats they take some 20 bytes a pixel of the device's memory.
MOST_PIXELS: Final = 64_000_000
_MOST_PIXELS_OF_ONE: Final = 16_000_000
_END_WITHIN: Final = 64
#: 4:4:4, 4:2:2, 4:2:0 and 4:4:0: in colour, and sampled as nearly all are.
_SAMPLINGS: Final = frozenset({b"\x11\x11\x11", b"\x21\x11\x11", b"\x22\x11\x11", b"\x12\x11\x11"})
#: Mean distance, in levels, of what a device makes of a test picture from what a core does.
_MOST_DISTANCE: Final = 4.0


class NvJpegDecoder:
    """Decodes plain baseline JPEGs in colour on a device; which images those are is seen from their headers.

    Args:
        preprocess: What the model wants.
        limits: What is refused from its header.
        device: The model's device.

    Raises:
        ModelError: nvJPEG is not to be had here, or makes another picture of a JPEG than a core.
    """

    def __init__(self, preprocess: Preprocess, limits: ImageLimits, device: Device) -> None:
        import torch

        self._preprocess, self._resizer = preprocess, Resizer(preprocess)
        self._most_pixels = min(limits.max_pixels, _MOST_PIXELS_OF_ONE)
        self._device, self._queue = device, device.new_queue()
        side = preprocess.crop
        self._pixels = device.new_host_tensor((MOST_TOGETHER, side, side, 3), torch.uint8)
        # torchvision 0.29 says at each call that torchcodec will take its place; and nothing writes into encoded bytes.
        warnings.filterwarnings(
            "ignore", "The image decoding and encoding capabilities of TorchVision", DeprecationWarning
        )
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        self._prove()

    def _prove(self) -> None:
        """Decode a test picture as a core does too, so that what is wrong is found before the first batch."""
        images = [simplejpeg.encode_jpeg(_test_picture(), colorsubsampling=sampling) for sampling in ("444", "420")]
        try:
            found = self._decode([(data, read_jpeg_header(data)) for data in images], 0)
        except (RuntimeError, AttributeError) as error:
            raise ModelError(
                "nvJPEG cannot decode here",
                found=str(error).split("\n")[0][:200],
                advice="install a torchvision built with nvJPEG, or begin another job without --decoding nvjpeg",
            ) from error
        core = Decoder(self._preprocess, ImageLimits())
        for data, pixels in zip(images, found, strict=True):
            self._compare(pixels, core.decode(data)[0])

    def _compare(self, pixels: Pixels | None, expected: Pixels) -> None:
        distance = None if pixels is None else float(np.abs(pixels.astype(np.int16) - expected).mean())
        if distance is None or distance > _MOST_DISTANCE:
            raise ModelError(
                "nvJPEG makes another picture of a JPEG than a core",
                found="another size" if distance is None else f"{distance:.0f} of 255 levels apart in the mean",
                advice="try another torchvision or driver, or begin another job without --decoding nvjpeg",
            )

    def takes(self, data: bytes) -> JpegHeader | None:
        """Return the header of an image it can decode; None leaves the image, and what is wrong with it, to a core.

        Damage within a picture shows only while a core decodes it: what is cut off is left to the cores, and bits that
        flipped are not seen by a device.
        """
        if data[:2] != b"\xff\xd8" or data.find(END_MARKER, max(0, len(data) - _END_WITHIN)) < 0:
            return None
        try:
            jpeg = read_jpeg_header(data)
        except (IndexError, ImageError):
            return None
        width, height = jpeg.size
        if not (jpeg.is_plain and jpeg.is_baseline and jpeg.has_one_scan and jpeg.sampling in _SAMPLINGS):
            return None
        if not 0 < width * height <= self._most_pixels:
            return None
        return None if window_of(jpeg.size, jpeg.orientation, self._preprocess).is_needle else jpeg

    def decode(self, images: Sequence[tuple[bytes, JpegHeader]]) -> list[Pixels | None]:
        """Decode at most ``MOST_TOGETHER`` images; one caller at a time.

        Returns:
            Of each image uint8 (crop, crop, 3), upright and good until the next call; None where a core must say what
            is the matter.
        """
        return self._halving(images, 0)

    def _halving(self, images: Sequence[tuple[bytes, JpegHeader]], first: int) -> list[Pixels | None]:
        # One that cannot be decoded fails all that are decoded with it, and so does memory that runs out.
        try:
            return self._decode(images, first)
        except RuntimeError:
            if len(images) == 1:
                return [None]
        half = len(images) // 2
        return self._halving(images[:half], first) + self._halving(images[half:], first + half)

    def _decode(self, images: Sequence[tuple[bytes, JpegHeader]], first: int) -> list[Pixels | None]:
        order: list[int] = []
        try:
            self._queue.put(partial(self._put, images, first, order))
        finally:
            # What was put before a failure still reads memory that the next call would be given.
            self._queue.mark().wait()
        found: list[Pixels | None] = [None] * len(images)
        for place, index in enumerate(order, first):
            found[index] = upright(self._pixels[place].numpy(), images[index][1].orientation)
        return found

    def _put(self, images: Sequence[tuple[bytes, JpegHeader]], first: int, order: list[int]) -> None:
        """Decode, resize and copy into this process's memory from place ``first`` on; note the order there."""
        import torch

        planes = self._device.decode_jpegs([torch.from_numpy(np.frombuffer(data, np.uint8)) for data, _ in images])
        kinds = [(jpeg.size, jpeg.orientation) for _, jpeg in images]
        fitting = (i for i in range(len(images)) if tuple(planes[i].shape) == (3, *kinds[i][0][::-1]))
        for kind, group in groupby(sorted(fitting, key=kinds.__getitem__), key=kinds.__getitem__):
            alike = list(group)
            places = slice(first + len(order), first + len(order) + len(alike))
            kept = self._resizer.from_planes(torch.stack([planes[index] for index in alike]), kind[1])
            self._pixels[places].copy_(kept, non_blocking=True)
            order += alike


def _test_picture() -> Pixels:
    """Red grows to the right, green downwards, and blue is little: planes exchanged or turned are far from it."""
    rising = np.linspace(60, 240, 64, dtype=np.uint8)
    red, green = np.meshgrid(rising, rising)
    return np.stack([red, green, np.full_like(red, 30)], axis=-1)
