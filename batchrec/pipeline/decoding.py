"""Bytes of an image to the model's input, or the one code that says why not."""

from __future__ import annotations

import ctypes
import logging
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

import simplejpeg
from PIL import Image, _imaging
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from batchrec.errors import ErrorCode, ImageError
from batchrec.pipeline.colours import orientation_after_loading, to_rgb
from batchrec.pipeline.headers import Header, ends_early, read_header
from batchrec.pipeline.jpeg import END_MARKER, JpegHeader
from batchrec.pipeline.resizing import Pixels, Resizer
from batchrec.pipeline.sniffing import kind_of

if TYPE_CHECKING:
    from batchrec.models.preprocessing import Preprocess
    from batchrec.spec import ImageLimits

# The classes themselves, not Image.open: no other format can be reached, whatever the bytes say, and no
# file is ever handed to an external program.
_READERS: dict[str, Callable[[BytesIO], ImageFile]] = {
    "jpeg": JpegImageFile,
    "png": PngImageFile,
    "webp": WebPImageFile,
    "gif": GifImageFile,
    "bmp": BmpImageFile,
    "tiff": TiffImageFile,
}
_PILLOW = r"PIL\."
_WARNING_RULE = ("ignore", None, Warning, re.compile(_PILLOW), 0)
_NO_LOG = logging.NullHandler()  # keeps logging from falling back to stderr; handlers of the user's still hear
_DETAIL_CHARACTERS = 200
_UNSUPPORTED_WORDS = ("unsupported", "cannot handle", "unknown pixel mode")
_MEMORY_WORDS = ("allocate memory", "out of memory")
_TRUNCATION_WORDS = ("truncat", "not enough", "unexpected end", "premature", "no more data", "end of file")


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What is worth knowing of an image beside its pixels.

    Attributes:
        width: Pixels from left to right, upright.
        height: Pixels from top to bottom, upright.
    """

    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded image as it is stored: not yet turned upright, resized and cropped.

    Attributes:
        rgb: Array (height, width, 3) of a plain JPEG, Pillow image of any other: each is resized its own way.
        orientation: EXIF orientation, 1 to 8.
        size: Width and height as stored; those of the array are smaller where it was shrunk while decoding.
    """

    rgb: Pixels | Image.Image
    orientation: int
    size: tuple[int, int]

    @property
    def facts(self) -> ImageFacts:
        """What is worth knowing of it, upright."""
        return facts_of(self.size, self.orientation)


def facts_of(size: tuple[int, int], orientation: int) -> ImageFacts:
    """Return the facts of an image by its stored width and height and its EXIF orientation, 1 to 8."""
    return ImageFacts(*(size if orientation < 5 else size[::-1]))


class PictureReader:
    """Decodes. One instance serves any number of threads.

    Args:
        limits: What is refused from its header.
        shrink_to: A plain JPEG may be shrunk while it is decoded, to no less than so many pixels on either side;
            never when None.
    """

    def __init__(self, limits: ImageLimits, shrink_to: int | None = None) -> None:
        self._limits, self._shrink_to = limits, shrink_to or 0
        _take_pillow_in_hand(limits)

    def read(self, data: bytes) -> Picture:
        """Decode one image.

        Raises:
            ImageError: Whatever is wrong with the image, and nothing else.
        """
        if not data:
            raise ImageError(ErrorCode.EMPTY)
        header = read_header(kind_of(data), data)
        try:
            return self._read(data, header)
        except ImageError:
            raise
        except Exception as error:
            # The border that isolates one image: decoders answer bad bytes with OSError, ValueError,
            # SyntaxError, KeyError, ZeroDivisionError and more, and no list of them has ever been complete.
            raise _image_error(error, header, data) from error

    def _read(self, data: bytes, header: Header) -> Picture:
        self._check_size(header.size)
        orientation = header.jpeg.orientation if header.jpeg else 1
        pixels = _decode_plain_jpeg(data, header.jpeg, self._shrink_to) if header.jpeg else None
        if pixels is not None and header.jpeg:
            return Picture(pixels, orientation, header.jpeg.size)
        _ignore_warnings()
        image = _READERS[header.kind](BytesIO(data))
        self._check_size(image.size)  # where only the decoder could tell, as for BigTIFF
        image.load()
        if not header.jpeg:
            orientation = orientation_after_loading(image)
        rgb = to_rgb(image, header.depth)
        return Picture(rgb, orientation, rgb.size)

    def _check_size(self, size: tuple[int, int] | None) -> None:
        if size and size[0] * size[1] > self._limits.max_pixels:
            raise ImageError(
                ErrorCode.TOO_MANY_PIXELS, f"{size[0]} x {size[1]} pixels, the limit is {self._limits.max_pixels}"
            )


class Decoder:
    """Decodes, turns upright, resizes and crops. One instance serves any number of threads.

    Args:
        preprocess: What the model wants.
        limits: What is refused from its header.
        read: Decodes, where it is not to happen in this process; see :class:`PictureReader`.
    """

    def __init__(
        self, preprocess: Preprocess, limits: ImageLimits, read: Callable[[bytes], Picture] | None = None
    ) -> None:
        self._read = read or PictureReader(limits).read
        self._resizer = Resizer(preprocess)

    def decode(self, data: bytes) -> tuple[Pixels, ImageFacts]:
        """Decode one image.

        Returns:
            RGB pixels of shape (crop, crop, 3), not always contiguous, and the facts of the whole image.

        Raises:
            ImageError: Whatever is wrong with the image, and nothing else.
        """
        picture = self._read(data)
        try:
            return self._resize(picture), picture.facts
        except Exception as error:
            # The same border as in PictureReader: what is left to fail here is memory.
            detail = _detail(error)
            no_memory = isinstance(error, MemoryError) or _says(detail, _MEMORY_WORDS)
            raise ImageError(ErrorCode.OUT_OF_MEMORY if no_memory else ErrorCode.CORRUPT, detail) from error

    def _resize(self, picture: Picture) -> Pixels:
        if isinstance(picture.rgb, Image.Image):
            return self._resizer.from_image(picture.rgb, picture.orientation)
        return self._resizer.from_array(picture.rgb, picture.size, picture.orientation)


def _decode_plain_jpeg(data: bytes, jpeg: JpegHeader, shrink_to: int) -> Pixels | None:
    """Decode with libjpeg-turbo directly; None leaves the verdict to Pillow, which forgives more."""
    if not jpeg.is_plain:
        return None
    size = _shrunk(jpeg.size, shrink_to)
    pixels = _decode_strictly(data, size)
    if pixels is None and jpeg.has_one_scan and data.find(END_MARKER, jpeg.scan_start) < 0:
        # Every pixel may be there all the same: strict decoding with the end marker put back tells.
        pixels = _decode_strictly(data + END_MARKER, size)
    return pixels


def _shrunk(size: tuple[int, int], shrink_to: int) -> tuple[int, int]:
    """Return the size to decode to: whole, or a half, quarter or eighth of no less than ``shrink_to``."""
    factor = min(8, 1 << max(0, (min(size) // shrink_to).bit_length() - 1)) if shrink_to else 1
    return -(-size[0] // factor), -(-size[1] // factor)  # libjpeg-turbo rounds up


def _decode_strictly(data: bytes, size: tuple[int, int]) -> Pixels | None:
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB", min_width=size[0], min_height=size[1])
    except ValueError:
        return None
    return pixels


def _image_error(error: Exception, header: Header, data: bytes) -> ImageError:
    detail = _detail(error)
    if isinstance(error, MemoryError) or _says(detail, _MEMORY_WORDS):
        return ImageError(ErrorCode.OUT_OF_MEMORY, detail)
    if isinstance(error, Image.DecompressionBombError):
        return ImageError(ErrorCode.TOO_MANY_PIXELS, detail)
    if _says(detail, _TRUNCATION_WORDS) or ends_early(header, data):
        return ImageError(ErrorCode.TRUNCATED, detail)
    if header.jpeg and header.jpeg.rarity:
        return ImageError(ErrorCode.UNSUPPORTED_FORMAT, header.jpeg.rarity)
    # Pillow's plugins look modes and compressions up in tables; a KeyError is one that is not there.
    is_unknown = isinstance(error.__cause__, KeyError) or _says(detail, _UNSUPPORTED_WORDS)
    return ImageError(ErrorCode.UNSUPPORTED_FORMAT if is_unknown else ErrorCode.CORRUPT, detail)


def _says(detail: str, words: tuple[str, ...]) -> bool:
    return any(word in detail.lower() for word in words)


def _detail(error: Exception) -> str:
    text = re.sub(r"<[^<>]* at 0x[0-9a-f]+>|0x[0-9a-f]{6,}", "...", f"{type(error).__name__}: {error}")
    return "".join(letter if letter.isprintable() else " " for letter in text)[:_DETAIL_CHARACTERS]


def _take_pillow_in_hand(limits: ImageLimits) -> None:
    """Set, for the whole process, what Pillow has only global switches for."""
    # Sizes are checked here, from the header. Pillow's own check stays behind, for what a header does not show.
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, limits.max_pixels)
    logging.getLogger("PIL").addHandler(_NO_LOG)
    _ignore_warnings()
    # libtiff prints a line for every tag it dislikes, thousands for one file; Pillow leaves that on.
    libtiff = ctypes.CDLL(_imaging.__file__)
    if hasattr(libtiff, "TIFFSetErrorHandler"):
        libtiff.TIFFSetErrorHandler(None)
        libtiff.TIFFSetWarningHandler(None)


def _ignore_warnings() -> None:
    """Put the rule against Pillow's warnings in front, unless it is there.

    They speak of one image, whose row says it better; where warnings are errors they would turn readable
    images into failures. ``warnings.catch_warnings`` is no way here: decoders run in threads.
    """
    if not warnings.filters or warnings.filters[0] != _WARNING_RULE:
        warnings.filterwarnings("ignore", module=_PILLOW)
