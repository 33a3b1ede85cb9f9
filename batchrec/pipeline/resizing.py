"""Resize and centre crop, computing no pixel that is not kept.

The geometry is that of ``torchvision.transforms._presets.ImageClassification`` on a PIL image:
short side to ``resize``, antialiased, then ``center_crop``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

    from batchrec.models.preprocessing import Preprocess

Pixels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]

_SUPPORT = {"bilinear": 1, "bicubic": 2}
_FILTER = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_NEEDLE_ASPECT = 20
_MIRRORED_COLUMNS, _MIRRORED_ROWS, _TRANSPOSED = frozenset({2, 3, 6, 7}), frozenset({3, 4, 7, 8}), 5


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a resize and crop.

    Attributes:
        source: Pixels at hand.
        resized: Pixels of the whole image after the resize.
        start: First of them that is kept.
        length: How many are kept.
        scale: Pixels at hand for each resized one. The last of those at hand may stand for a part of a pixel, where an
            image was shrunk that did not divide.
    """

    source: int
    resized: int
    start: int
    length: int
    scale: float

    @property
    def end(self) -> int:
        """First pixel of the resized image that is not kept any more."""
        return self.start + self.length

    def end_beside(self, source: int) -> int:
        """Return how much to resize of ``source`` pixels so as to have everything that is kept.

        The kernel takes an axis for finished when it is to grow as long as it is, whatever the scale: then
        one pixel more is asked for. There always is one, since only a whole axis ends where it is kept.
        """
        return self.end + (self.end == source and self.source != self.resized)

    def mirrored(self) -> Axis:
        """Return the same axis read from its other end."""
        return replace(self, start=self.resized - self.end)


@dataclass(frozen=True, slots=True)
class Window:
    """What of a resized image is kept, both axes as the image is stored."""

    columns: Axis
    rows: Axis

    @property
    def is_needle(self) -> bool:
        """Whether the image is so long that resizing all of it, 16 megapixels for 1 x 65500, is out of the question."""
        short, long = sorted((self.columns.source, self.rows.source))
        return long > _NEEDLE_ASPECT * short


def window_of(
    size: tuple[int, int], orientation: int, preprocess: Preprocess, decoded: tuple[int, int] | None = None
) -> Window:
    """Place the resize and crop on an image of a stored ``size`` (width, height).

    Args:
        size: Width and height as stored.
        orientation: EXIF orientation, 1 to 8.
        preprocess: What the model wants.
        decoded: Width and height of the pixels at hand, where the image was shrunk while it was decoded.
    """
    short, long = min(size), max(size)
    resized_long = int(preprocess.resize * long / short)
    width, height = (preprocess.resize if side == short else resized_long for side in size)
    wide, high = decoded or size
    columns, rows = _axis(size[0], wide, width, preprocess.crop), _axis(size[1], high, height, preprocess.crop)
    # The crop is centred in the upright image; where half a pixel is left over, a mirrored side differs.
    mirrors = _MIRRORED_COLUMNS, _MIRRORED_ROWS
    for_columns, for_rows = mirrors if orientation < _TRANSPOSED else mirrors[::-1]
    return Window(
        columns.mirrored() if orientation in for_columns else columns,
        rows.mirrored() if orientation in for_rows else rows,
    )


def _axis(stored: int, source: int, resized: int, crop: int) -> Axis:
    # Preprocess holds crop <= resize, so center_crop's padding cannot occur.
    shrunk_by = round(stored / source)
    return Axis(source, resized, round((resized - crop) / 2.0), crop, stored / shrunk_by / resized)


class Resizer:
    """Makes the model's input of a decoded image of any size.

    Args:
        preprocess: Short side, crop and interpolation of the model.
    """

    def __init__(self, preprocess: Preprocess) -> None:
        import torch  # takes seconds, and only workers need it

        self._preprocess = preprocess
        self._filter = _FILTER[preprocess.interpolation]
        self._support = _SUPPORT[preprocess.interpolation]
        self._from_numpy = torch.from_numpy
        kernels = {"bilinear": torch._C._nn._upsample_bilinear2d_aa, "bicubic": torch._C._nn._upsample_bicubic2d_aa}
        self._kernel: Callable[..., Any] = kernels[preprocess.interpolation]

    def from_array(self, pixels: Pixels, size: tuple[int, int], orientation: int) -> Pixels:
        """Resize and crop the RGB array (height, width, 3) of an image of ``size``, turning the result upright."""
        window = window_of(size, orientation, self._preprocess, (pixels.shape[1], pixels.shape[0]))
        if window.is_needle:
            return upright(self._from_part(Image.fromarray(pixels), window), orientation)
        return upright(self._with_torch(pixels, window), orientation)

    def from_planes(self, images: Tensor, orientation: int) -> Tensor:
        """Resize and crop uint8 (images, 3, height, width) on the device they lie on, and turn nothing.

        In floats, as devices have no other kernel, and rounded once: within a level or two of :meth:`from_array`.

        Returns:
            uint8 (images, crop, crop, 3) on that device.
        """
        window = window_of((images.shape[3], images.shape[2]), orientation, self._preprocess)
        kept = self._resized(images.float(), window)
        return kept.round_().clamp_(0, 255).byte().permute(0, 2, 3, 1)

    def from_image(self, image: Image.Image, orientation: int) -> Pixels:
        """Resize and crop a loaded RGB image exactly as the reference does, turning the result upright."""
        window = window_of(image.size, orientation, self._preprocess)
        if window.is_needle:
            return upright(self._from_part(image, window), orientation)
        columns, rows = window.columns, window.rows
        resized = image.resize((columns.resized, rows.resized), self._filter)
        return upright(np.asarray(resized.crop((columns.start, rows.start, columns.end, rows.end))), orientation)

    def _with_torch(self, pixels: Pixels, window: Window) -> Pixels:
        # As a batch before its axes are renamed: so torch sees that a pixel's colours lie together, and keeps them so.
        image = self._from_numpy(pixels).unsqueeze(0).permute(0, 3, 1, 2)
        kept: Pixels = self._resized(image, window)[0].permute(1, 2, 0).numpy()
        return kept

    def _resized(self, images: Tensor, window: Window) -> Tensor:
        """Resize (images, 3, height, width) up to the window's far corner: what is kept is as in a whole resize."""
        rows, columns = window.rows, window.columns
        needed = images[:, :, : math.ceil((rows.end + self._support) * rows.scale) + self._support + 1]
        size = [rows.end_beside(needed.shape[2]), columns.end_beside(needed.shape[3])]
        resized: Tensor = self._kernel(needed, size, False, 1 / rows.scale, 1 / columns.scale)
        return resized[:, :, rows.start : rows.end, columns.start : columns.end]

    def _from_part(self, image: Image.Image, window: Window) -> Pixels:
        """Resize the part of a needle under the window; within a level or two of resizing all of it."""
        columns, rows = window.columns, window.rows
        left, right = self._source_span(columns)
        top, bottom = self._source_span(rows)
        box = (
            columns.start * columns.scale - left,
            rows.start * rows.scale - top,
            columns.end * columns.scale - left,
            rows.end * rows.scale - top,
        )
        part = image.crop((left, top, right, bottom))
        return np.asarray(part.resize((columns.length, rows.length), self._filter, box=box))

    def _source_span(self, axis: Axis) -> tuple[int, int]:
        # Pillow keeps boxes in single precision, which is exact enough near the origin of a small part.
        margin = self._support * max(1.0, axis.scale) + 1
        first, last = math.floor(axis.start * axis.scale - margin), math.ceil(axis.end * axis.scale + margin)
        return max(0, first), min(axis.source, last)


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Turn (height, width, 3) as its EXIF orientation says, 1 to 8."""
    if orientation == 1:
        return pixels
    if orientation >= _TRANSPOSED:
        pixels = pixels.swapaxes(0, 1)
    if orientation in _MIRRORED_COLUMNS:
        pixels = pixels[:, ::-1]
    if orientation in _MIRRORED_ROWS:
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
