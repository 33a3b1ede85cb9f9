"""Bytes that are no good image, each with the exact code its row gets."""

from __future__ import annotations

import io
import json
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from batchrec.errors import ErrorCode, ImageError
from batchrec.models.preprocessing import Preprocess
from batchrec.pipeline.decoding import Decoder
from batchrec.spec import ImageLimits

SIZE = (96, 64)


def encoded(format_: str, mode: str = "RGB", **options) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE[::-1], 3), np.uint8)
    stream = io.BytesIO()
    (Image.new("LAB", SIZE) if mode == "LAB" else Image.fromarray(pixels).convert(mode)).save(
        stream, format_, **options
    )
    return stream.getvalue()


JPEG, PROGRESSIVE = encoded("JPEG"), encoded("JPEG", progressive=True)
PNG, GIF, BMP, TIFF = encoded("PNG"), encoded("GIF"), encoded("BMP"), encoded("TIFF")
LZW, WEBP, LOSSLESS = encoded("TIFF", compression="tiff_lzw"), encoded("WEBP"), encoded("WEBP", lossless=True)
GOOD = {"jpeg": JPEG, "progressive": PROGRESSIVE, "png": PNG, "gif": GIF, "bmp": BMP, "tiff": TIFF, "lzw": LZW}
GOOD |= {"webp": WEBP, "webp_lossless": LOSSLESS, "cmyk": encoded("JPEG", "CMYK"), "palette": encoded("PNG", "P")}


def patched(data: bytes, position: int, new: bytes) -> bytes:
    return data[:position] + new + data[position + len(new) :]


def jpeg_frame(marker: int = 0xC0, precision: int = 8, height: int = 64, width: int = 96) -> bytes:
    at = JPEG.index(b"\xff\xc0")
    return patched(JPEG, at, struct.pack(">BBHBHH", 0xFF, marker, 17, precision, height, width))


def chunk(name: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + name + data + zlib.crc32(name + data).to_bytes(4)


def png(width: int, height: int, *chunks: bytes, depth: int = 8, colour_type: int = 2) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks)


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
CASES: dict[str, tuple[bytes, ErrorCode]] = {
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
    "ico": (encoded("ICO"), ErrorCode.UNSUPPORTED_FORMAT),
    "tga": (encoded("TGA"), ErrorCode.UNSUPPORTED_FORMAT),
    "sgi": (encoded("SGI"), ErrorCode.UNSUPPORTED_FORMAT),
    "pcx": (encoded("PCX"), ErrorCode.UNSUPPORTED_FORMAT),
    "ppm": (encoded("PPM"), ErrorCode.UNSUPPORTED_FORMAT),
    "dds": (encoded("DDS"), ErrorCode.UNSUPPORTED_FORMAT),
    "qoi": (b"qoif" + bytes(20), ErrorCode.UNSUPPORTED_FORMAT),
    "eps": (encoded("EPS"), ErrorCode.UNSUPPORTED_FORMAT),
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
    "tiff: lab": (encoded("TIFF", "LAB"), ErrorCode.UNSUPPORTED_FORMAT),
}


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return Decoder(Preprocess(resize=32, crop=28), ImageLimits())


@pytest.mark.parametrize("name", CASES)
def test_bad_bytes_have_their_code(decoder, name):
    data, code = CASES[name]
    with pytest.raises(ImageError) as caught:
        decoder.decode(data)
    assert (caught.value.code, len(caught.value.detail) <= 200) == (code, True), caught.value.detail
    assert " at 0x" not in caught.value.detail


@pytest.mark.parametrize(
    "data",
    [
        JPEG[:-2],  # no end marker, every pixel is there
        PNG[:-12],  # no end chunk
        GIF[:-1],  # no trailer
        jpeg_frame(height=80),  # the rest stays grey, and libjpeg only warns
        patched(JPEG, SCAN + 1000, bytes(40)),
        JPEG[:20] + b"garbage" + JPEG[20:],
        patched(PNG, len(PNG) - 16, b"\0\0\0\0"),  # a checksum nobody looks at; zlib has its own
    ],
)
def test_damage_that_pillow_forgives_is_no_error(decoder, data):
    assert decoder.decode(data)[0].shape == (28, 28, 3)


def test_a_limit_is_kept_to_the_pixel():
    preprocess = Preprocess(resize=32, crop=28)
    for data in GOOD.values():
        Decoder(preprocess, ImageLimits(max_pixels=96 * 64)).decode(data)
        with pytest.raises(ImageError) as caught:
            Decoder(preprocess, ImageLimits(max_pixels=96 * 64 - 1)).decode(data)
        assert caught.value.code == ErrorCode.TOO_MANY_PIXELS


@pytest.mark.parametrize(
    "name", [name for name in CASES if "65" in name or "000" in name or "giga" in name or "bomb" in name]
)
def test_bombs_are_refused_in_little_memory(decoder, name):
    tracemalloc.start()
    try:
        with pytest.raises(ImageError):
            decoder.decode(CASES[name][0])
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 16 * 2**20


def test_memory_that_runs_out_has_its_code(decoder, monkeypatch):
    def load(self: object) -> None:
        raise MemoryError

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load)
    with pytest.raises(ImageError) as caught:
        decoder.decode(PNG)
    assert caught.value.code == ErrorCode.OUT_OF_MEMORY


def test_an_interrupt_passes_the_border_that_isolates_images(decoder):
    with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
        patch.setattr(PngImagePlugin.PngImageFile, "load", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        decoder.decode(PNG)


def outcome(decoder: Decoder, data: bytes) -> ErrorCode | None:
    try:
        pixels, facts = decoder.decode(data)
    except ImageError as error:
        assert len(error.detail) <= 200
        assert error.detail.isprintable()
        return error.code
    assert pixels.shape == (28, 28, 3)
    assert pixels.dtype == np.uint8
    assert min(facts.width, facts.height) > 0
    return None


@given(name=st.sampled_from(sorted(GOOD)), data=st.data())
@settings(max_examples=250, deadline=None)
def test_any_truncation_gives_a_picture_or_a_code(decoder, name, data):
    length = data.draw(st.integers(0, len(GOOD[name])))
    outcome(decoder, GOOD[name][:length])


@given(name=st.sampled_from(sorted(GOOD)), data=st.data())
@settings(max_examples=400, deadline=None)
def test_any_flipped_bytes_give_a_picture_or_a_code(decoder, name, data):
    damaged = bytearray(GOOD[name])
    # Headers are short and decide most: half of the damage goes there.
    where = st.one_of(st.integers(0, min(400, len(damaged) - 1)), st.integers(0, len(damaged) - 1))
    for position, value in data.draw(st.lists(st.tuples(where, st.integers(0, 255)), min_size=1, max_size=4)):
        damaged[position] = value
    outcome(decoder, bytes(damaged))


@given(
    magic=st.sampled_from([data[:length] for data in GOOD.values() for length in (0, 2, 4, 8, 12, 16, 30)]),
    rest=st.binary(max_size=300),
)
@settings(max_examples=300, deadline=None)
def test_any_bytes_after_a_magic_give_a_code(decoder, magic, rest):
    outcome(decoder, magic + rest)


@pytest.mark.parametrize("name", GOOD)
def test_a_cut_at_every_marker_gives_a_code(decoder, name):
    good = GOOD[name]
    marks = (b"\xff", b"IDAT", b"IEND", b"VP8", b"\x2c", b"\x21")
    cuts = {at for mark in marks for at in range(len(good)) if good.startswith(mark, at) and at < len(good) * 0.9}
    codes = {outcome(decoder, good[:cut]) for cut in sorted(cuts)[:150]}
    assert codes <= {ErrorCode.TRUNCATED, ErrorCode.NOT_AN_IMAGE, ErrorCode.EMPTY}
