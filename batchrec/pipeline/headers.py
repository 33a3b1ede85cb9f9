"""The headers of images, read before any decoder sees them.

A few dozen byte reads on data nobody vouches for: running off their end is a truncated image,
never an exception of another kind.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from batchrec.errors import ErrorCode, ImageError
from batchrec.pipeline.exif import directory_end, directory_of
from batchrec.pipeline.jpeg import END_MARKER, JpegHeader, read_jpeg_header

_GIF_EXTENSION, _GIF_FRAME, _GIF_END = b"!,;"
_MAX_GIF_BLOCKS = 10_000
_BIG_ENDIAN_BIGTIFF = b"MM\x00+"
_TIFF_WIDTH, _TIFF_HEIGHT = 0x0100, 0x0101
_TILE_WIDTH, _TILE_HEIGHT = 0x0142, 0x0143
_LARGEST_TILE = 4096 * 4096
_TIFF_DATA = ((0x0111, 0x0117), (0x0144, 0x0145))


@dataclass(frozen=True, slots=True)
class Header:
    """What a header says.

    Attributes:
        kind: ``jpeg``, ``png``, ``webp``, ``gif``, ``bmp`` or ``tiff``.
        size: Width and height as stored; None where only the decoder can tell.
        depth: Bits of a sample, for PNG.
        jpeg: The rest of what a JPEG says.
    """

    kind: str
    size: tuple[int, int] | None
    depth: int = 8
    jpeg: JpegHeader | None = None


def read_header(kind: str, data: bytes) -> Header:
    """Read the header of an image of a known kind.

    Raises:
        ImageError: ``truncated`` when the header does not end, ``corrupt`` when it makes no sense,
            ``bad_dimensions`` when a side is zero or beyond what the format holds.
    """
    try:
        header = _READERS[kind](data)
    except (IndexError, struct.error):
        raise ImageError(ErrorCode.TRUNCATED, f"the {kind} header ends early") from None
    if header.size and min(header.size) <= 0:
        raise ImageError(ErrorCode.BAD_DIMENSIONS, "{} x {} pixels".format(*header.size))
    return header


def ends_early(header: Header, data: bytes) -> bool:
    """Whether the structure of an image that would not decode shows that its end is missing."""
    try:
        return _END_CHECKS[header.kind](header, data)
    except struct.error:
        return True


def _jpeg(data: bytes) -> Header:
    jpeg = read_jpeg_header(data)
    return Header("jpeg", jpeg.size, jpeg=jpeg)


def _png(data: bytes) -> Header:
    width, height, depth = struct.unpack_from(">IIB", data, 16)
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        raise ImageError(ErrorCode.CORRUPT, "PNG signature damaged, as by a transfer in text mode")
    if data[12:16] != b"IHDR":
        raise ImageError(ErrorCode.CORRUPT, "PNG does not start with IHDR")
    return Header("png", (width, height), depth=depth)


def _webp(data: bytes) -> Header:
    chunk = data[12:16]
    if chunk == b"VP8X":
        low_width, high_width, low_height, high_height = struct.unpack_from("<HBHB", data, 24)
        return Header("webp", ((high_width << 16 | low_width) + 1, (high_height << 16 | low_height) + 1))
    if chunk == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return Header("webp", ((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1))
    if chunk == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return Header("webp", (width & 0x3FFF, height & 0x3FFF))
    if len(data) < 16:
        raise IndexError
    raise ImageError(ErrorCode.CORRUPT, "WebP without a picture chunk")


def _gif(data: bytes) -> Header:
    """Take the first frame into account, for which decoders enlarge the canvas before they look at the data."""
    width, height = struct.unpack_from("<HH", data, 6)
    if min(width, height) == 0:
        return Header("gif", (width, height))
    flags = data[10]
    position = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    for _ in range(_MAX_GIF_BLOCKS):
        block = data[position]
        if block == _GIF_FRAME:
            left, top, frame_width, frame_height = struct.unpack_from("<HHHH", data, position + 1)
            return Header("gif", (max(width, left + frame_width), max(height, top + frame_height)))
        if block == _GIF_END:
            break
        position += 1
        if block == _GIF_EXTENSION:
            position = _after_sub_blocks(data, position + 1)
    raise ImageError(ErrorCode.CORRUPT, "GIF without a frame")


def _after_sub_blocks(data: bytes, position: int) -> int:
    while length := data[position]:
        position += length + 1
    return position + 1


def _bmp(data: bytes) -> Header:
    (header_bytes,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header_bytes == 12 else "<ii", data, 18)
    return Header("bmp", (width, abs(height)))


def _tiff(data: bytes) -> Header:
    if len(data) < 8:
        raise IndexError
    if data.startswith(_BIG_ENDIAN_BIGTIFF):  # Pillow would take its directory for a classic one
        raise ImageError(ErrorCode.UNSUPPORTED_FORMAT, "BigTIFF in big-endian byte order")
    tags = directory_of(data)
    if _TIFF_WIDTH not in tags or _TIFF_HEIGHT not in tags:  # BigTIFF, or a directory only Pillow can make sense of
        return Header("tiff", None)
    width, height = tags[_TIFF_WIDTH][0], tags[_TIFF_HEIGHT][0]
    tile = tags.get(_TILE_WIDTH, (0,))[0] * tags.get(_TILE_HEIGHT, (0,))[0]
    if tile > max(_LARGEST_TILE, width * height):  # the decoder would allocate one before it looks
        raise ImageError(ErrorCode.CORRUPT, f"TIFF of {width} x {height} pixels with tiles of {tile} pixels")
    return Header("tiff", (width, height))


_READERS: dict[str, Callable[[bytes], Header]] = {
    "jpeg": _jpeg,
    "png": _png,
    "webp": _webp,
    "gif": _gif,
    "bmp": _bmp,
    "tiff": _tiff,
}


def _jpeg_ends_early(header: Header, data: bytes) -> bool:
    start = header.jpeg.scan_start if header.jpeg else 0
    return data.rfind(END_MARKER) < start


def _png_ends_early(header: Header, data: bytes) -> bool:
    position = 8
    while True:
        length, name = struct.unpack_from(">I4s", data, position)
        if length > 0x7FFFFFFF or not name.isalpha():
            return False
        position += 12 + length
        if name == b"IEND":
            return bool(position > len(data))


def _webp_ends_early(header: Header, data: bytes) -> bool:
    (length,) = struct.unpack_from("<I", data, 4)
    return bool(8 + length > len(data))


def _gif_ends_early(header: Header, data: bytes) -> bool:
    return not data.rstrip(b"\x00").endswith(b";")


def _bmp_ends_early(header: Header, data: bytes) -> bool:
    (length,) = struct.unpack_from("<I", data, 2)
    return bool(length > len(data))


def _tiff_ends_early(header: Header, data: bytes) -> bool:
    if directory_end(data) > len(data):
        return True
    tags = directory_of(data)
    return any(
        offset + length > len(data)
        for offsets, lengths in _TIFF_DATA
        for offset, length in zip(tags.get(offsets, ()), tags.get(lengths, ()), strict=False)
    )


_END_CHECKS: dict[str, Callable[[Header, bytes], bool]] = {
    "jpeg": _jpeg_ends_early,
    "png": _png_ends_early,
    "webp": _webp_ends_early,
    "gif": _gif_ends_early,
    "bmp": _bmp_ends_early,
    "tiff": _tiff_ends_early,
}
