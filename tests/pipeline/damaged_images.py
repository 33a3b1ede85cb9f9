"""Files that are no image, of a kind nobody reads, or damaged: each with the exact code its row gets."""

from __future__ import annotations

import io
import json
import struct
import zlib

import numpy as np
from PIL import Image

from batchrec.errors import ErrorCode
from tests.pipeline.image_files import chunk, patched, png_head

SIZE = (96, 64)


def noise(format_: str, mode: str = "RGB", **options) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE[::-1], 3), np.uint8)
    stream = io.BytesIO()
    (Image.new("LAB", SIZE) if mode == "LAB" else Image.fromarray(pixels).convert(mode)).save(
        stream, format_, **options
    )
    return stream.getvalue()


JPEG, PROGRESSIVE = noise("JPEG"), noise("JPEG", progressive=True)
PNG, GIF, BMP, TIFF = noise("PNG"), noise("GIF"), noise("BMP"), noise("TIFF")
LZW, WEBP, LOSSLESS = noise("TIFF", compression="tiff_lzw"), noise("WEBP"), noise("WEBP", lossless=True)
GOOD = {"jpeg": JPEG, "progressive": PROGRESSIVE, "png": PNG, "gif": GIF, "bmp": BMP, "tiff": TIFF, "lzw": LZW}
GOOD |= {"webp": WEBP, "webp_lossless": LOSSLESS, "cmyk": noise("JPEG", "CMYK"), "palette": noise("PNG", "P")}


def jpeg_frame(marker: int = 0xC0, precision: int = 8, height: int = 64, width: int = 96) -> bytes:
    at = JPEG.index(b"\xff\xc0")
    return patched(JPEG, at, struct.pack(">BBHBHH", 0xFF, marker, 17, precision, height, width))


def png(width: int, height: int, *chunks: bytes, depth: int = 8, colour_type: int = 2) -> bytes:
    return png_head(width, height, depth, colour_type) + b"".join(chunks)


def tiff(**tags: int) -> bytes:
    """A TIFF of 8 x 8 grey pixels, some of its tags replaced: w, h, bits, packing, photo, format, offset, length."""
    numbers = {"w": 256, "h": 257, "bits": 258, "packing": 259, "photo": 262, "offset": 273, "spp": 277, "rows": 278}
    numbers |= {"length": 279, "tile_w": 322, "tile_h": 323, "format": 339}
    values = {"w": 8, "h": 8, "bits": 8, "packing": 1, "photo": 1, "offset": 200, "spp": 1, "rows": 8, "length": 64}
    values |= tags
    entries = sorted((numbers[name], value) for name, value in values.items())
    packed = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + packed + bytes(4)
    return head.ljust(200, b"\0") + b"\x7f" * 512


def vp8x(width: int, height: int) -> bytes:
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", 30) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + sides + bytes(8)


def text_bomb() -> bytes:
    packed = chunk(b"zTXt", b"bomb\0\0" + zlib.compress(bytes(40 * 2**20)))
    return png(4, 4, packed, chunk(b"IDAT", zlib.compress(bytes(13 * 4))), chunk(b"IEND"))


def scan_bomb() -> bytes:
    start = PROGRESSIVE.index(b"\xff\xda")
    return PROGRESSIVE[:start] + PROGRESSIVE[start:-2] * 50 + b"\xff\xd9"


IDAT = chunk(b"IDAT", zlib.compress(bytes(4 * 13)))
SCAN = JPEG.index(b"\xff\xda")
DAMAGED: dict[str, tuple[bytes, ErrorCode]] = {
    # nothing, or something else
    "empty": (b"", ErrorCode.EMPTY),
    "one zero byte": (b"\0", ErrorCode.NOT_AN_IMAGE),
    "one byte of a JPEG": (b"\xff", ErrorCode.NOT_AN_IMAGE),
    "one byte of a PNG": (b"\x89", ErrorCode.NOT_AN_IMAGE),
    "zeros": (bytes(5000), ErrorCode.NOT_AN_IMAGE),
    "noise": (bytes(range(200, 100, -1)), ErrorCode.NOT_AN_IMAGE),
    "html": (b"<!DOCTYPE html><html><body>404</body></html>", ErrorCode.NOT_AN_IMAGE),
    "html after blanks": (b"\r\n\r\n  <html lang=en>", ErrorCode.NOT_AN_IMAGE),
    "xml": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", ErrorCode.NOT_AN_IMAGE),
    "xml without prologue": (b"<Error><Code>NoSuchKey</Code></Error>", ErrorCode.NOT_AN_IMAGE),
    "json": (json.dumps({"message": "Forbidden"}).encode(), ErrorCode.NOT_AN_IMAGE),
    "json list": (b"[1, 2, 3]", ErrorCode.NOT_AN_IMAGE),
    "text": ("Größe nicht verfügbar, bitte später".encode(), ErrorCode.NOT_AN_IMAGE),
    "text like a bitmap": (b"BMW recalls its cars for the third time", ErrorCode.NOT_AN_IMAGE),
    "lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", ErrorCode.NOT_AN_IMAGE),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3", ErrorCode.NOT_AN_IMAGE),
    "zip": (b"PK\x03\x04\x14\0\0\0", ErrorCode.NOT_AN_IMAGE),
    "wav": (b"RIFF\x24\0\0\0WAVEfmt ", ErrorCode.NOT_AN_IMAGE),
    "mp4": (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", ErrorCode.NOT_AN_IMAGE),
    "parquet": (b"PAR1\x15\x04", ErrorCode.NOT_AN_IMAGE),
    # images of other kinds
    "avif": (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1", ErrorCode.UNSUPPORTED_FORMAT),
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", ErrorCode.UNSUPPORTED_FORMAT),
    "jpeg xl": (b"\0\0\0\x0cJXL \r\n\x87\n", ErrorCode.UNSUPPORTED_FORMAT),
    "jpeg 2000": (b"\0\0\0\x0cjP  \r\n\x87\n", ErrorCode.UNSUPPORTED_FORMAT),
    "j2k": (b"\xff\x4f\xff\x51\0\x29", ErrorCode.UNSUPPORTED_FORMAT),
    "svg": (b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>", ErrorCode.UNSUPPORTED_FORMAT),
    "psd": (b"8BPS\0\x01" + bytes(20), ErrorCode.UNSUPPORTED_FORMAT),
    "ico": (noise("ICO"), ErrorCode.UNSUPPORTED_FORMAT),
    "tga": (noise("TGA"), ErrorCode.UNSUPPORTED_FORMAT),
    "sgi": (noise("SGI"), ErrorCode.UNSUPPORTED_FORMAT),
    "pcx": (noise("PCX"), ErrorCode.UNSUPPORTED_FORMAT),
    "ppm": (noise("PPM"), ErrorCode.UNSUPPORTED_FORMAT),
    "dds": (noise("DDS"), ErrorCode.UNSUPPORTED_FORMAT),
    "qoi": (b"qoif" + bytes(20), ErrorCode.UNSUPPORTED_FORMAT),
    "eps": (noise("EPS"), ErrorCode.UNSUPPORTED_FORMAT),
    "xbm": (b"#define a_width 8\n#define a_height 8\n", ErrorCode.UNSUPPORTED_FORMAT),
    # JPEG
    "jpeg: magic only": (b"\xff\xd8\xff", ErrorCode.TRUNCATED),
    "jpeg: start marker only": (b"\xff\xd8", ErrorCode.TRUNCATED),
    "jpeg: cut in its tables": (JPEG[:100], ErrorCode.TRUNCATED),
    "jpeg: cut before its scan": (JPEG[:SCAN], ErrorCode.TRUNCATED),
    "jpeg: cut after its scan header": (JPEG[: SCAN + 14], ErrorCode.TRUNCATED),
    "jpeg: cut in half": (JPEG[: len(JPEG) // 2], ErrorCode.TRUNCATED),
    "jpeg: cut between scans": (PROGRESSIVE[: PROGRESSIVE.rindex(b"\xff\xda")], ErrorCode.TRUNCATED),
    "jpeg: nothing but markers": (b"\xff\xd8\xff\xd9", ErrorCode.CORRUPT),
    "jpeg: no frame": (JPEG[:20] + JPEG[SCAN:], ErrorCode.CORRUPT),
    "jpeg: 0 x 64": (jpeg_frame(width=0), ErrorCode.BAD_DIMENSIONS),
    "jpeg: 96 x 0": (jpeg_frame(height=0), ErrorCode.BAD_DIMENSIONS),
    "jpeg: 65535 wide": (jpeg_frame(width=65535), ErrorCode.BAD_DIMENSIONS),
    "jpeg: 65500 x 65500": (jpeg_frame(width=65500, height=65500), ErrorCode.TOO_MANY_PIXELS),
    "jpeg: 12-bit": (jpeg_frame(0xC1, precision=12), ErrorCode.UNSUPPORTED_FORMAT),
    "jpeg: hierarchical": (jpeg_frame(0xC5), ErrorCode.UNSUPPORTED_FORMAT),
    "jpeg: lossless arithmetic": (jpeg_frame(0xCB), ErrorCode.UNSUPPORTED_FORMAT),
    "jpeg: two components": (patched(JPEG, JPEG.index(b"\xff\xc0") + 9, b"\x02"), ErrorCode.UNSUPPORTED_FORMAT),
    "jpeg: thousands of scans": (scan_bomb(), ErrorCode.CORRUPT),
    # PNG
    "png: magic only": (PNG[:8], ErrorCode.TRUNCATED),
    "png: cut in its header": (PNG[:20], ErrorCode.TRUNCATED),
    "png: header only": (PNG[:33], ErrorCode.TRUNCATED),
    "png: cut in half": (PNG[: len(PNG) // 2], ErrorCode.TRUNCATED),
    "png: 0 x 4": (png(0, 4, IDAT, chunk(b"IEND")), ErrorCode.BAD_DIMENSIONS),
    "png: 4 x 0": (png(4, 0, IDAT, chunk(b"IEND")), ErrorCode.BAD_DIMENSIONS),
    "png: 16000 x 16000": (png(16000, 16000, IDAT, chunk(b"IEND")), ErrorCode.TOO_MANY_PIXELS),
    "png: 2**31 - 1 wide": (png(2**31 - 1, 1, IDAT, chunk(b"IEND")), ErrorCode.TOO_MANY_PIXELS),
    "png: no data": (png(4, 4, chunk(b"IEND")), ErrorCode.CORRUPT),
    "png: too little data": (png(40, 40, IDAT, chunk(b"IEND")), ErrorCode.TRUNCATED),
    "png: data not deflated": (png(4, 4, chunk(b"IDAT", b"nonsense"), chunk(b"IEND")), ErrorCode.CORRUPT),
    "png: filter 9": (png(4, 4, chunk(b"IDAT", zlib.compress(b"\x09" * 52)), chunk(b"IEND")), ErrorCode.CORRUPT),
    "png: depth 3": (png(4, 4, IDAT, chunk(b"IEND"), depth=3), ErrorCode.CORRUPT),
    "png: colour type 5": (png(4, 4, IDAT, chunk(b"IEND"), colour_type=5), ErrorCode.CORRUPT),
    "png: header checksum": (patched(PNG, 29, b"\0\0\0\0"), ErrorCode.CORRUPT),
    "png: text mode transfer": (PNG.replace(b"\r\n", b"\n"), ErrorCode.CORRUPT),
    "png: first chunk unknown": (PNG[:8] + chunk(b"CgBI", bytes(4)) + PNG[8:], ErrorCode.CORRUPT),
    "png: text bomb": (text_bomb(), ErrorCode.CORRUPT),
    # GIF
    "gif: magic only": (GIF[:6], ErrorCode.TRUNCATED),
    "gif: header only": (GIF[:13], ErrorCode.TRUNCATED),
    "gif: cut in half": (GIF[: len(GIF) // 2], ErrorCode.TRUNCATED),
    "gif: 0 x 64": (patched(GIF, 6, b"\0\0"), ErrorCode.BAD_DIMENSIONS),
    "gif: canvas of 65535 x 65535": (patched(GIF, 6, b"\xff" * 4), ErrorCode.TOO_MANY_PIXELS),
    "gif: frame of 65535 x 65535": (
        patched(GIF, GIF.index(b"\x2c\0\0\0\0\x60\0") + 5, b"\xff" * 4),
        ErrorCode.TOO_MANY_PIXELS,
    ),
    "gif: frame of 8 gigapixels, 44 bytes": (
        b"GIF89a \0 \0\xf1\3\0\0" + bytes(11) + b"!\xf9\4\xc9\0\0\0\0,\0\0\x80\xfd\xff\xff\xff\xff\0",
        ErrorCode.TOO_MANY_PIXELS,
    ),
    "gif: blocks without end": (GIF[:10] + b"\0\0\0" + b"!\1\0" * 20_000, ErrorCode.CORRUPT),
    "gif: no frame": (GIF[:10] + b"\0\0\0;", ErrorCode.CORRUPT),
    # WebP
    "webp: magic only": (WEBP[:12], ErrorCode.TRUNCATED),
    "webp: cut in its header": (WEBP[:26], ErrorCode.TRUNCATED),
    "webp: cut in half": (WEBP[: len(WEBP) // 2], ErrorCode.TRUNCATED),
    "webp: lossless, cut in half": (LOSSLESS[: len(LOSSLESS) // 2], ErrorCode.TRUNCATED),
    "webp: no picture": (b"RIFF\x10\0\0\0WEBPJUNK\x04\0\0\0\0\0\0\0", ErrorCode.CORRUPT),
    "webp: canvas of 16384 x 16384": (vp8x(16384, 16384), ErrorCode.TOO_MANY_PIXELS),
    "webp: canvas without frames": (vp8x(16, 16), ErrorCode.CORRUPT),
    "webp: 0 wide": (patched(WEBP, 26, b"\0\0"), ErrorCode.BAD_DIMENSIONS),
    "webp: no key frame": (patched(WEBP, 23, b"\0\0\0"), ErrorCode.CORRUPT),
    # BMP
    "bmp: magic only": (BMP[:2], ErrorCode.TRUNCATED),
    "bmp: header only": (BMP[:54], ErrorCode.TRUNCATED),
    "bmp: cut in half": (BMP[: len(BMP) // 2], ErrorCode.TRUNCATED),
    "bmp: 0 wide": (patched(BMP, 18, bytes(4)), ErrorCode.BAD_DIMENSIONS),
    "bmp: negative width": (patched(BMP, 18, b"\xff\xff\xff\xff"), ErrorCode.BAD_DIMENSIONS),
    "bmp: 2**31 - 1 square": (patched(BMP, 18, b"\xff\xff\xff\x7f" * 2), ErrorCode.TOO_MANY_PIXELS),
    "bmp: compression 77": (patched(BMP, 30, b"\x4d"), ErrorCode.UNSUPPORTED_FORMAT),
    "bmp: 7 bits": (patched(BMP, 28, b"\x07"), ErrorCode.UNSUPPORTED_FORMAT),
    # TIFF
    "tiff: magic only": (b"II*\0", ErrorCode.TRUNCATED),
    "tiff: no directory": (b"II*\0\x08\0\0\0", ErrorCode.TRUNCATED),
    "tiff: directory beyond the end": (b"II*\0\0\0\0\x10" + bytes(100), ErrorCode.TRUNCATED),
    "tiff: empty directory": (b"II*\0\x08\0\0\0" + bytes(40), ErrorCode.CORRUPT),
    "tiff: cut in half": (tiff()[:240], ErrorCode.TRUNCATED),
    "tiff: lzw, cut in half": (LZW[: len(LZW) // 2], ErrorCode.TRUNCATED),
    "tiff: 0 x 8": (tiff(w=0), ErrorCode.BAD_DIMENSIONS),
    "tiff: 8 x 0": (tiff(h=0), ErrorCode.BAD_DIMENSIONS),
    "tiff: 40000 x 40000": (tiff(w=40000, h=40000), ErrorCode.TOO_MANY_PIXELS),
    "tiff: enormous tiles": (tiff(tile_w=10**5, tile_h=10**5), ErrorCode.CORRUPT),
    "tiff: unknown compression": (tiff(packing=7777), ErrorCode.UNSUPPORTED_FORMAT),
    "tiff: 32-bit integers": (tiff(bits=32, length=256), ErrorCode.UNSUPPORTED_FORMAT),
    "tiff: signed 16-bit": (tiff(bits=16, format=2, length=128), ErrorCode.UNSUPPORTED_FORMAT),
    "tiff: floats beyond one": (tiff(bits=32, format=3, length=256), ErrorCode.UNSUPPORTED_FORMAT),
    "tiff: lab": (noise("TIFF", "LAB"), ErrorCode.UNSUPPORTED_FORMAT),
}
