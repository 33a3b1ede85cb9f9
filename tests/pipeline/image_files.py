"""Files of images, written here byte by byte where no library writes them.

Most show four quadrants of one colour each, so that size, turn and colours are all seen in a decoded picture.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (64, 32)
COLOURS = ((200, 40, 40), (40, 160, 60), (30, 60, 200), (230, 210, 60))
#: Which colour each pixel has.
INDEX = np.repeat(np.repeat(np.array([[0, 1], [2, 3]], np.uint8), 16, 0), 32, 1)
RGB = np.array(COLOURS, np.uint8)[INDEX]
PALETTE = b"".join(bytes(colour) for colour in COLOURS)
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_OFFSETS, _LONGS = (273, 324), (273, 279, 324, 325, 513, 514)


def quadrants(mode: str = "RGB") -> Image.Image:
    return Image.fromarray(RGB).convert(mode)


def encoded(image: Image.Image, format_: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format_, **options)
    return stream.getvalue()


def patched(data: bytes, position: int, new: bytes) -> bytes:
    return data[:position] + new + data[position + len(new) :]


def rare_jpeg(name: str) -> bytes:
    return (Path(__file__).parent / "rare_jpegs" / f"{name}.jpg").read_bytes()


def exif(orientation: int, order: str = "<") -> bytes:
    magic = b"II*\x00" if order == "<" else b"MM\x00*"
    entry = struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0)
    return b"Exif\x00\x00" + magic + struct.pack(order + "IH", 8, 1) + entry + bytes(4)


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def with_segments(jpeg: bytes, *segments: bytes) -> bytes:
    """Put segments after the first one of a JPEG, which is its JFIF header."""
    end = 4 + int.from_bytes(jpeg[4:6])
    return jpeg[:end] + b"".join(segments) + jpeg[end:]


def chunk(name: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + name + data + zlib.crc32(name + data).to_bytes(4)


def png_head(width: int, height: int, depth: int = 8, colour_type: int = 2, interlace: int = 0) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, interlace)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)


def png(rows: bytes, depth: int, colour_type: int, *before: bytes, interlace: int = 0, pieces: int = 1) -> bytes:
    """A PNG of filtered rows, their deflated bytes in so many chunks."""
    packed = zlib.compress(rows)
    step = -(-len(packed) // pieces)
    body = [chunk(b"IDAT", packed[at : at + step]) for at in range(0, len(packed), step)]
    return png_head(*SIZE, depth, colour_type, interlace) + b"".join([*before, *body, chunk(b"IEND")])


def unfiltered(pixels: np.ndarray) -> bytes:
    return b"".join(b"\0" + row.tobytes() for row in pixels)


def every_filter(pixels: np.ndarray) -> bytes:
    """The rows of a picture of 3 bytes a pixel, filtered by each of the five filters in turn."""
    padded = np.pad(pixels.astype(int), ((1, 0), (1, 0), (0, 0)))
    here, left, up, corner = padded[1:, 1:], padded[1:, :-1], padded[:-1, 1:], padded[:-1, :-1]
    distances = [abs(left + up - corner - near) for near in (left, up, corner)]
    paeth = np.choose(np.argmin(distances, 0), [left, up, corner])
    guesses = [0 * left, left, up, (left + up) // 2, paeth]
    return b"".join(bytes([y % 5]) + (here - guesses[y % 5])[y].astype(np.uint8).tobytes() for y in range(len(pixels)))


def interlaced(pixels: np.ndarray) -> bytes:
    return b"".join(unfiltered(pixels[y::down, x::across]) for x, y, across, down in _ADAM7)


def packed_bits(bits: int, values: np.ndarray = INDEX) -> np.ndarray:
    """Rows of samples of less than a byte, the first in the high bits."""
    per_byte = 8 // bits
    shifts = np.arange(per_byte - 1, -1, -1, dtype=np.uint8) * bits
    return (values.reshape(len(values), -1, per_byte) << shifts).sum(2, dtype=np.uint8)


def bmp(
    rows: bytes, bits: int, *, height: int = 32, packing: int = 0, header: int = 40, masks: bytes = b"", colours=b""
) -> bytes:
    """A BMP of 64 x ``height`` pixels; a negative height is a picture stored from its top."""
    if header == 12:
        head = struct.pack("<IHHHH", 12, 64, height, 1, bits)
    else:
        head = struct.pack("<IiiHHIIiiII", header, 64, height, 1, bits, packing, len(rows), 0, 0, len(colours) // 4, 0)
        head = (head + masks).ljust(header, b"\0")
    start = 14 + len(head) + len(colours)
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + head + colours + rows


def run_lengths(bits: int) -> bytes:
    """The quadrants as BMP's run lengths of 4 or 8 bits, from the bottom."""
    times = 17 if bits == 4 else 1  # a run of 4 bits names two colours in turn
    lower, upper = (bytes([32, left * times, 32, right * times, 0, 0]) for left, right in ((2, 3), (0, 1)))
    return lower * 16 + upper * 16 + b"\0\1"


def gif(*blocks: bytes, size: tuple[int, int] = SIZE, version: bytes = b"GIF89a", background: int = 0) -> bytes:
    head = struct.pack("<HHBBB", *size, 0xF6, background, 0)
    return version + head + PALETTE.ljust(3 * 128, b"\x7f") + b"".join(blocks) + b";"


def gif_frame(pixels: np.ndarray, left: int = 0, top: int = 0, flags: int = 0, colours: bytes = b"") -> bytes:
    """A frame whose codes are bytes: of 7 bits a pixel, and cleared before codes would grow."""
    height, width = pixels.shape
    runs = [pixels.tobytes()[at : at + 100] for at in range(0, width * height, 100)]
    codes = b"".join(b"\x80" + run for run in runs) + b"\x81"
    blocks = [codes[at : at + 255] for at in range(0, len(codes), 255)]
    head = struct.pack("<cHHHHB", b",", left, top, width, height, flags) + colours + b"\x07"
    return head + b"".join(bytes([len(block)]) + block for block in blocks) + b"\0"


def gif_control(flags: int, transparent: int = 0) -> bytes:
    return b"!\xf9\x04" + struct.pack("<BHBB", flags, 10, transparent, 0)


def tiff(tags: Mapping[int, Sequence[int]], data: bytes, order: str = "<", big: bool = False) -> bytes:
    """A TIFF of one directory and the data after it; offsets count from the data's start."""
    count, entry, word = ("Q", "HHQ", 8) if big else ("H", "HHI", 4)
    head = 16 if big else 8
    values = {tag: (4, "I") if tag in _LONGS else (3, "H") for tag in tags}
    aside_at = head + struct.calcsize("=" + count) + len(tags) * (4 + 2 * word) + word
    sizes = {tag: struct.calcsize(f"={len(tags[tag])}{values[tag][1]}") for tag in tags}
    start = aside_at + sum(size for size in sizes.values() if size > word)
    directory, aside = struct.pack(order + count, len(tags)), b""
    for tag, numbers in sorted(tags.items()):
        shifted = [number + start for number in numbers] if tag in (*_OFFSETS, 513) else numbers
        packed = struct.pack(f"{order}{len(numbers)}{values[tag][1]}", *shifted)
        directory += struct.pack(order + entry, tag, values[tag][0], len(numbers))
        if len(packed) <= word:
            directory += packed.ljust(word, b"\0")
            continue
        directory += struct.pack(order + ("Q" if big else "I"), aside_at + len(aside))
        aside += packed
    mark = b"II" if order == "<" else b"MM"
    first = struct.pack(order + ("HHHQ" if big else "HI"), *((43, 8, 0, 16) if big else (42, 8)))
    return mark + first + directory + bytes(word) + aside + data


def strip(
    data: bytes, bits: Iterable[int] = (8, 8, 8), photometric: int = 2, packing: int = 1, **more: int
) -> dict[int, Sequence[int]]:
    """The tags of 64 x 32 pixels in one strip."""
    bits = tuple(bits)
    tags = {256: (64,), 257: (32,), 258: bits, 259: (packing,), 262: (photometric,), 273: (0,), 277: (len(bits),)}
    return tags | {278: (32,), 279: (len(data),)} | {int(name[1:]): (value,) for name, value in more.items()}
