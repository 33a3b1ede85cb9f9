"""All files that do not decode, each with the exact code its row gets: here those cut, wrapped and of rarer kinds."""

from __future__ import annotations

import base64
import gzip
import zlib
from typing import Literal

from PIL import Image

from batchrec.errors import ErrorCode
from tests.pipeline import image_files as files
from tests.pipeline.damaged_images import (
    BMP,
    DAMAGED,
    GIF,
    IDAT,
    JPEG,
    LOSSLESS,
    PNG,
    PROGRESSIVE,
    SIZE,
    WEBP,
    noise,
    png,
    tiff,
    vp8x,
)
from tests.pipeline.image_files import chunk, patched


def segment_starts(jpeg: bytes) -> dict[str, int]:
    """Where each marker of a JPEG stands, up to its first scan."""
    position, starts = 2, {}
    while True:
        starts[f"{jpeg[position + 1]:02X} at {position}"] = position
        if jpeg[position + 1] == 0xDA:
            return starts
        position += 2 + int.from_bytes(jpeg[position + 2 : position + 4])


def chunk_starts(data: bytes, first: int, order: Literal["big", "little"]) -> dict[str, int]:
    """Where each chunk of a PNG (length, name) or WebP (name, length) stands."""
    starts = {}
    while first < len(data):
        fields = data[first : first + 4], data[first + 4 : first + 8]
        length, name = fields if order == "big" else fields[::-1]
        starts[name.decode()] = first
        size = int.from_bytes(length, order)
        first += size + (12 if order == "big" else 8 + size % 2)
    return starts


def cuts() -> dict[str, bytes]:
    """Files that end where one of their parts would start, and two bytes later."""
    clear = noise("WEBP", "RGBA", exif=files.exif(6))
    palette = noise("PNG", "P", transparency=0, dpi=(72, 72))
    starts = {
        "jpeg": (JPEG, segment_starts(JPEG)),
        "progressive jpeg": (PROGRESSIVE, segment_starts(PROGRESSIVE)),
        "png": (palette, chunk_starts(palette, 8, "big")),
        "webp": (clear, chunk_starts(clear, 12, "little")),
    }
    return {
        f"{kind}: cut {more} bytes after the start of {name}": data[: start + more]
        for kind, (data, places) in starts.items()
        for name, start in places.items()
        for more in (0, 2)
        if name != "IEND"  # all pixels are there by then
    }


ANIMATED = noise("WEBP", "RGBA", save_all=True, append_images=[Image.new("RGBA", SIZE)])
FRAME = files.gif_frame(files.INDEX)
TILED = files.tiff(
    {
        256: (64,),
        257: (64,),
        258: (8,),
        259: (1,),
        262: (1,),
        277: (1,),
        322: (64,),
        323: (64,),
        324: (0,),
        325: (4096,),
    },
    bytes(300),
)
BIG = files.tiff({**files.strip(bytes(2048), (8,), 1), 256: (40000,), 257: (40000,)}, bytes(2048), big=True)
HALF_ROWS = zlib.compress(files.unfiltered(files.RGB))[:-40]


def strips(packing: int, data: bytes = b"nonsense" * 20, bits: tuple[int, ...] = (8,), **more: int) -> bytes:
    return files.tiff(files.strip(data, bits, more.pop("photometric", 1), packing, **more), data)


CASES: dict[str, tuple[bytes, ErrorCode]] = DAMAGED | {
    name: (data, ErrorCode.TRUNCATED) for name, data in cuts().items()
}
CASES |= {
    # an image, wrapped or mangled on its way
    "gzipped JPEG": (gzip.compress(JPEG), ErrorCode.NOT_AN_IMAGE),
    "JPEG as base64": (base64.b64encode(JPEG), ErrorCode.NOT_AN_IMAGE),
    "data URI": (b"data:image/jpeg;base64," + base64.b64encode(JPEG), ErrorCode.NOT_AN_IMAGE),
    "JPEG after a byte order mark": (b"\xef\xbb\xbf" + JPEG, ErrorCode.NOT_AN_IMAGE),
    "JPEG after a line break": (b"\r\n" + JPEG, ErrorCode.NOT_AN_IMAGE),
    "JPEG after 512 zeros": (bytes(512) + JPEG, ErrorCode.NOT_AN_IMAGE),
    "JPEG with the header of its answer": (
        b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n\r\n" + JPEG,
        ErrorCode.NOT_AN_IMAGE,
    ),
    "JPEG read as UTF-8 and written again": (JPEG.decode(errors="replace").encode(), ErrorCode.NOT_AN_IMAGE),
    "JPEG, its bytes in pairs swapped": (bytes(JPEG[at ^ 1] for at in range(len(JPEG) & ~1)), ErrorCode.NOT_AN_IMAGE),
    "PNG without its high bits": (bytes(byte & 0x7F for byte in PNG), ErrorCode.NOT_AN_IMAGE),
    "JPEG from its second byte": (JPEG[1:], ErrorCode.NOT_AN_IMAGE),
    "HTML in UTF-16": ("<html>not here</html>".encode("utf-16"), ErrorCode.NOT_AN_IMAGE),
    "PHP": (b"<?php header('Location: /'); ?>", ErrorCode.NOT_AN_IMAGE),
    "Word document": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500), ErrorCode.NOT_AN_IMAGE),
    "QuickTime": (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", ErrorCode.NOT_AN_IMAGE),
    "Matroska": (b"\x1a\x45\xdf\xa3" + bytes(40), ErrorCode.NOT_AN_IMAGE),
    "a GIF of 1988": (b"GIF88a" + GIF[6:], ErrorCode.NOT_AN_IMAGE),
    # whole images of other kinds
    "avif, whole": (noise("AVIF"), ErrorCode.UNSUPPORTED_FORMAT),
    "jpeg 2000, whole": (noise("JPEG2000"), ErrorCode.UNSUPPORTED_FORMAT),
    "j2k, whole": (noise("JPEG2000", no_jp2=True), ErrorCode.UNSUPPORTED_FORMAT),
    "jpeg xl without a box": (b"\xff\x0a\xfa\x1f\x01\x90\xe1\x4c", ErrorCode.UNSUPPORTED_FORMAT),
    "icns": (noise("ICNS"), ErrorCode.UNSUPPORTED_FORMAT),
    "pgm": (noise("PPM", "L"), ErrorCode.UNSUPPORTED_FORMAT),
    "pbm": (noise("PPM", "1"), ErrorCode.UNSUPPORTED_FORMAT),
    "msp": (noise("MSP", "1"), ErrorCode.UNSUPPORTED_FORMAT),
    "svg after a comment": (b"<!-- drawn -->\n<svg viewBox='0 0 1 1'></svg>", ErrorCode.UNSUPPORTED_FORMAT),
    "svg after a byte order mark": (b"\xef\xbb\xbf<SVG></SVG>", ErrorCode.UNSUPPORTED_FORMAT),
    "heic, a sequence": (b"\0\0\0\x18ftyphevc\0\0\0\0mif1hevc", ErrorCode.UNSUPPORTED_FORMAT),
    "jpeg xr": (b"II\xbc\x01\x20\0\0\0", ErrorCode.UNSUPPORTED_FORMAT),
    # JPEG
    "jpeg: 12-bit, whole": (files.rare_jpeg("twelve_bits"), ErrorCode.UNSUPPORTED_FORMAT),
    "jpeg: arithmetic, cut": (files.rare_jpeg("arithmetic")[:-20], ErrorCode.TRUNCATED),
    "jpeg: lossless, cut": (files.rare_jpeg("lossless")[:-200], ErrorCode.TRUNCATED),
    "jpeg: the last of three scans missing": (
        files.rare_jpeg("three_scans")[: files.rare_jpeg("three_scans").rindex(b"\xff\xda")],
        ErrorCode.TRUNCATED,
    ),
    "jpeg: no quantisation tables": (JPEG.replace(b"\xff\xdb", b"\xff\xfe"), ErrorCode.CORRUPT),
    "jpeg: two frames": (files.with_segments(JPEG, JPEG[JPEG.index(b"\xff\xc0") :][:19]), ErrorCode.CORRUPT),
    "jpeg: sampled 5 times": (patched(JPEG, JPEG.index(b"\xff\xc0") + 11, b"\x55"), ErrorCode.CORRUPT),
    "jpeg: a table of no length": (files.with_segments(JPEG, b"\xff\xdb\0\0"), ErrorCode.CORRUPT),
    # PNG
    "png: interlaced, cut": (
        files.png(files.interlaced(files.RGB)[:-900], 8, 2, interlace=1),
        ErrorCode.TRUNCATED,
    ),
    "png: palette missing": (files.png(files.unfiltered(files.INDEX), 8, 3), ErrorCode.CORRUPT),
    "png: deflate stream cut, file whole": (
        png(*files.SIZE, chunk(b"IDAT", HALF_ROWS), chunk(b"IEND")),
        ErrorCode.TRUNCATED,
    ),
    "png: deflate checksum": (
        png(4, 4, chunk(b"IDAT", zlib.compress(bytes(52))[:-4] + b"\1\2\3\4"), chunk(b"IEND")),
        ErrorCode.CORRUPT,
    ),
    "png: a chunk of 2 GiB that is not there": (
        PNG[:33] + b"\x7f\xff\xff\xffaaAa" + PNG[33:],
        ErrorCode.TRUNCATED,
    ),
    "png: compressed international text bomb": (
        png(4, 4, chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(40 * 2**20))), IDAT, chunk(b"IEND")),
        ErrorCode.CORRUPT,
    ),
    # GIF
    "gif: codes of 13 bits": (GIF.replace(b"\x60\0\x40\0\x40\x08", b"\x60\0\x40\0\x40\x0d"), ErrorCode.CORRUPT),
    "gif: codes nobody defined": (
        files.gif(FRAME[:11] + b"\x04\xff\xff\xff\xff\0"),
        ErrorCode.CORRUPT,
    ),
    "gif: cut in its palette": (files.gif(FRAME)[:40], ErrorCode.TRUNCATED),
    "gif: cut in its frame header": (files.gif(FRAME)[:402], ErrorCode.TRUNCATED),
    "gif: an empty frame": (files.gif(files.gif_frame(files.INDEX[:0])), ErrorCode.CORRUPT),
    # WebP
    "webp: animated, cut in its first frame": (ANIMATED[:3000], ErrorCode.TRUNCATED),
    "webp: lossless, wrong signature": (patched(LOSSLESS, 20, b"\x2e"), ErrorCode.CORRUPT),
    "webp: lossless of 16384 x 16384": (patched(LOSSLESS, 21, b"\xff\xff\xff\x0f"), ErrorCode.TOO_MANY_PIXELS),
    "webp: says it has 4 GiB": (patched(WEBP, 4, b"\xf0\xff\xff\xff"), ErrorCode.TRUNCATED),
    "webp: canvas and picture of two sizes": (vp8x(16, 16) + WEBP[12:], ErrorCode.CORRUPT),
    # BMP
    "bmp: a JPEG inside": (files.bmp(JPEG, 0, packing=4), ErrorCode.UNSUPPORTED_FORMAT),
    "bmp: a PNG inside": (files.bmp(PNG, 0, packing=5), ErrorCode.UNSUPPORTED_FORMAT),
    "bmp: a header of 99 bytes": (files.bmp(bytes(6144), 24, header=99), ErrorCode.UNSUPPORTED_FORMAT),
    "bmp: odd masks": (
        files.bmp(bytes(8192), 32, packing=3, header=56, masks=b"\x01\0\0\0\x02\0\0\0\x04\0\0\0"),
        ErrorCode.UNSUPPORTED_FORMAT,
    ),
    "bmp: 2**31 high, from the top": (patched(BMP, 22, b"\0\0\0\x80"), ErrorCode.TOO_MANY_PIXELS),
    "bmp: run lengths, cut": (files.bmp(files.run_lengths(8), 8, packing=1)[:-90], ErrorCode.TRUNCATED),
    # TIFF
    "tiff: BigTIFF of 40000 x 40000": (BIG, ErrorCode.TOO_MANY_PIXELS),
    "tiff: BigTIFF, cut": (BIG[:100], ErrorCode.TRUNCATED),
    "tiff: BigTIFF, big-endian": (
        files.tiff(files.strip(files.RGB.tobytes()), files.RGB.tobytes(), ">", True),
        ErrorCode.UNSUPPORTED_FORMAT,
    ),
    "tiff: tiled, cut": (TILED, ErrorCode.TRUNCATED),
    "tiff: strip beyond the end": (tiff(offset=10**6), ErrorCode.TRUNCATED),
    "tiff: LZW of nonsense": (strips(5), ErrorCode.CORRUPT),
    "tiff: deflate of nonsense": (strips(8), ErrorCode.CORRUPT),
    "tiff: JPEG of nonsense": (strips(7), ErrorCode.CORRUPT),
    "tiff: the old JPEG, of nonsense": (strips(6, photometric=6, bits=(8, 8, 8)), ErrorCode.CORRUPT),
    "tiff: JPEG 2000 inside": (strips(34712), ErrorCode.UNSUPPORTED_FORMAT),
    "tiff: LERC inside": (strips(34887), ErrorCode.UNSUPPORTED_FORMAT),
    "tiff: raw of a camera": (strips(1, bytes(4096), (16,), photometric=32803), ErrorCode.UNSUPPORTED_FORMAT),
    "tiff: logarithms": (strips(34676, photometric=32845), ErrorCode.UNSUPPORTED_FORMAT),
    "tiff: NaN": (strips(1, b"\0\0\xc0\x7f" * 2048, (32,), t339=3), ErrorCode.UNSUPPORTED_FORMAT),
    "tiff: floats of 64 bits": (strips(1, bytes(16384), (64,), t339=3), ErrorCode.UNSUPPORTED_FORMAT),
    "tiff: floats of 16 bits": (strips(1, bytes(4096), (16,), t339=3), ErrorCode.UNSUPPORTED_FORMAT),
    "tiff: RGB of 32 bits": (
        strips(1, bytes(24576), (32, 32, 32), photometric=2),
        ErrorCode.UNSUPPORTED_FORMAT,
    ),
}
