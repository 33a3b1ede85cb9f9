"""All files that decode, and what must come out: here JPEG, PNG, WebP and those turned by EXIF."""

from __future__ import annotations

import zlib

import numpy as np
from PIL import Image

from tests.pipeline import image_files as files
from tests.pipeline.good_rasters import (
    BMPS,
    CLEAR_CORNER,
    EIGHTHS,
    GIFS,
    GREYS,
    JPEG,
    LAST_TRANSPARENT,
    PURPLE,
    TIFFS,
    WHITE,
    Good,
    colour,
    other,
)
from tests.pipeline.image_files import COLOURS, INDEX, PALETTE, RGB, SIZE, encoded, quadrants


def turned(format_: str, orientation: int, order: str = "<") -> Good:
    """A file that would show the quadrants, were it not for its orientation."""
    block = files.exif(orientation, order)
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(format_, {})
    data = encoded(quadrants(), format_, exif=block, **options)
    if format_ == "TIFF":
        data = files.tiff(files.strip(RGB.tobytes(), t274=orientation), RGB.tobytes(), order)
    upright = {2: 1032, 3: 3210, 4: 2301, 5: 213, 6: 2031, 7: 3120, 8: 1302}.get(orientation, 123)
    colours = tuple(COLOURS[int(digit)] for digit in f"{upright:04}")
    size = SIZE[::-1] if 5 <= orientation <= 8 else SIZE
    return Good(data, colours, 2 if format_ == "JPEG" else 0, size)


PNG, WEBP = encoded(quadrants(), "PNG"), encoded(quadrants(), "WEBP", lossless=True)


def jpeg(mode: str = "RGB", colours=COLOURS, within: int = 2, **options) -> Good:
    return Good(encoded(quadrants(mode), "JPEG", **{"quality": 95} | options), colours, within)


def from_jpeg(*segments: bytes, data: bytes = JPEG) -> Good:
    return Good(files.with_segments(data, *segments), within=2)


def without_jfif(data: bytes) -> bytes:
    return data[:2] + data[4 + int.from_bytes(data[4:6]) :]


JPEGS = {
    "baseline, 4:4:4": jpeg(subsampling=0),
    "baseline, 4:2:2": jpeg(subsampling=1),
    "baseline, 4:2:0": jpeg(subsampling=2),
    "progressive": jpeg(progressive=True),
    "optimised": jpeg(optimize=True),
    "restart markers": jpeg(restart_marker_blocks=2),
    "grey": jpeg("L", GREYS),
    "grey, progressive": jpeg("L", GREYS, progressive=True),
    "stored as RGB": jpeg(keep_rgb=True),
    "CMYK": jpeg("CMYK"),
    "YCCK": Good(files.rare_jpeg("ycck"), within=2),
    "arithmetic": Good(files.rare_jpeg("arithmetic"), within=2),
    "arithmetic, progressive": Good(files.rare_jpeg("arithmetic_progressive"), within=2),
    "a scan for each component": Good(files.rare_jpeg("three_scans"), within=2),
    "lossless": Good(files.rare_jpeg("lossless")),
    "without JFIF": Good(without_jfif(JPEG), within=2),
    "a comment of PHP": from_jpeg(files.segment(0xFE, b"<?php system($_GET['c']); ?><html><script>")),
    "a broken colour profile": from_jpeg(files.segment(0xE2, b"ICC_PROFILE\0\1\1garbage")),
    "a colour profile in two parts, one missing": from_jpeg(files.segment(0xE2, b"ICC_PROFILE\0\2\2")),
    "a thumbnail of something else in its EXIF": from_jpeg(
        files.segment(0xE1, files.exif(1) + encoded(other(), "JPEG"))
    ),
    "XMP that says it is turned": from_jpeg(
        files.segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation='6'/>")
    ),
    "fill bytes before a marker": Good(JPEG.replace(b"\xff\xdb", b"\xff\xff\xff\xdb", 1), within=2),
    "followed by another": Good(JPEG + encoded(other(), "JPEG"), within=2),
    "followed by a ZIP archive": Good(JPEG + b"PK\x03\x04" + bytes(60) + b"PK\x05\x06" + bytes(18), within=2),
    "MPO": Good(encoded(quadrants(), "MPO", save_all=True, append_images=[other()], quality=95), within=2),
    "without its end marker": Good(JPEG[:-2], within=2),
    "1 x 1": colour(Image.new("RGB", (1, 1), PURPLE), "JPEG", PURPLE, 2, quality=95),
    "1 x 65500": colour(Image.new("RGB", (1, 65500), PURPLE), "JPEG", PURPLE, 2, quality=95),
    "65500 x 1": colour(Image.new("RGB", (65500, 1), PURPLE), "JPEG", PURPLE, 2, quality=95),
}


def png(rows, depth: int, colour_type: int, *before: bytes, colours=COLOURS, **options) -> Good:
    return Good(files.png(rows, depth, colour_type, *before, **options), colours)


PLTE = files.chunk(b"PLTE", PALETTE)
WIDE = np.dstack([RGB] * 2).reshape(32, 64, 2, 3).swapaxes(2, 3).reshape(32, 64, 6)  # each byte twice: 257 times it
GREY_ALPHA = np.dstack([np.full_like(INDEX, 100), np.where(INDEX == 3, 0, 255).astype(np.uint8)])
HUNDRED = (100, 100, 100)
PNGS = {
    "RGB": Good(PNG),
    "every filter": png(files.every_filter(RGB), 8, 2),
    "interlaced": png(files.interlaced(RGB), 8, 2, interlace=1),
    "interlaced palette": png(files.interlaced(INDEX), 8, 3, PLTE, interlace=1),
    "16-bit RGB": png(files.unfiltered(WIDE), 16, 2),
    "16-bit RGB, interlaced": png(files.interlaced(WIDE), 16, 2, interlace=1),
    "16-bit grey": png(
        files.unfiltered(np.repeat(RGB[..., :1], 2, 2)), 16, 0, colours=tuple((c[0],) * 3 for c in COLOURS)
    ),
    "1-bit grey": png(files.unfiltered(files.packed_bits(1, INDEX & 1)), 1, 0, colours=((0,) * 3, WHITE) * 2),
    "2-bit grey": png(files.unfiltered(files.packed_bits(2)), 2, 0, colours=EIGHTHS),
    "4-bit grey": png(files.unfiltered(files.packed_bits(4, INDEX * 5)), 4, 0, colours=EIGHTHS),
    "8-bit grey": png(files.unfiltered(RGB[..., 0].copy()), 8, 0, colours=tuple((c[0],) * 3 for c in COLOURS)),
    "1-bit palette": png(
        files.unfiltered(files.packed_bits(1, INDEX >> 1)), 1, 3, PLTE, colours=(COLOURS[0],) * 2 + (COLOURS[1],) * 2
    ),
    "2-bit palette": png(files.unfiltered(files.packed_bits(2)), 2, 3, PLTE),
    "4-bit palette": png(files.unfiltered(files.packed_bits(4)), 4, 3, PLTE),
    "palette with alpha": png(
        files.unfiltered(INDEX), 8, 3, PLTE, files.chunk(b"tRNS", b"\xff\xff\xff\0"), colours=LAST_TRANSPARENT
    ),
    "a transparent colour": png(
        files.unfiltered(RGB), 8, 2, files.chunk(b"tRNS", b"\0\xe6\0\xd2\0\x3c"), colours=LAST_TRANSPARENT
    ),
    "RGBA": Good(encoded(CLEAR_CORNER, "PNG"), LAST_TRANSPARENT),
    "grey with alpha": png(files.unfiltered(GREY_ALPHA), 8, 4, colours=(HUNDRED,) * 3 + (WHITE,)),
    "gamma": png(files.unfiltered(RGB), 8, 2, files.chunk(b"gAMA", (100000).to_bytes(4))),
    "a colour profile that is none": png(
        files.unfiltered(RGB), 8, 2, files.chunk(b"iCCP", b"x\0\0" + zlib.compress(b"no"))
    ),
    "a background of its own": png(files.unfiltered(RGB), 8, 2, files.chunk(b"bKGD", b"\0\xff\0\0\0\xff")),
    "chunks nobody knows": png(files.unfiltered(RGB), 8, 2, files.chunk(b"aaAa", b"x" * 99), files.chunk(b"prVW")),
    "its data a few bytes a chunk": png(files.unfiltered(RGB), 8, 2, pieces=40),
    "an empty data chunk first": png(files.unfiltered(RGB), 8, 2, files.chunk(b"IDAT")),
    "its rows followed by 40 MB of zeros": png(files.unfiltered(RGB) + bytes(40 * 10**6), 8, 2),
    "animated": Good(encoded(quadrants(), "PNG", save_all=True, append_images=[other()])),
    "animated, beside a picture of its own": Good(
        encoded(quadrants(), "PNG", save_all=True, append_images=[other(), other()], default_image=True)
    ),
    "no end chunk": Good(PNG[:-12]),
    "followed by HTML": Good(PNG + b"<html><script>alert(1)</script>"),
    "followed by another": Good(PNG + encoded(other(), "PNG")),
    "1 x 1": colour(Image.new("RGB", (1, 1), PURPLE), "PNG", PURPLE),
    "1 x 65500": colour(Image.new("RGB", (1, 65500), PURPLE), "PNG", PURPLE),
    "65500 x 1": colour(Image.new("RGB", (65500, 1), PURPLE), "PNG", PURPLE),
}

WEBPS = {
    "lossy": Good(encoded(quadrants(), "WEBP", quality=95), within=6),
    "lossless": Good(WEBP),
    "lossy with alpha": Good(encoded(CLEAR_CORNER, "WEBP", quality=95), LAST_TRANSPARENT, 6),
    "lossless with alpha": Good(encoded(CLEAR_CORNER, "WEBP", lossless=True), LAST_TRANSPARENT),
    "animated": Good(encoded(quadrants(), "WEBP", save_all=True, append_images=[other()], lossless=True)),
    "animated with alpha": Good(
        encoded(CLEAR_CORNER, "WEBP", save_all=True, append_images=[other().convert("RGBA")], lossless=True),
        LAST_TRANSPARENT,
    ),
    "a colour profile that is none": Good(encoded(quadrants(), "WEBP", lossless=True, icc_profile=b"nothing")),
    "followed by text": Good(WEBP + b"uploaded by a partner"),
    "16383 x 1": colour(Image.new("RGB", (16383, 1), PURPLE), "WEBP", PURPLE, lossless=True),
}

TURNED = {
    f"{kind}, orientation {turn}": turned(kind, turn)
    for kind in ("JPEG", "PNG", "WEBP", "TIFF")
    for turn in (*range(1, 9), 9)
}
TURNED |= {f"JPEG, orientation {turn}, big-endian": turned("JPEG", turn, ">") for turn in (3, 6)}
TURNED |= {"TIFF, orientation 6, big-endian": turned("TIFF", 6, ">")}

_KINDS = {"jpeg": JPEGS, "png": PNGS, "gif": GIFS, "bmp": BMPS, "tiff": TIFFS, "webp": WEBPS, "turned": TURNED}
GOOD: dict[str, Good] = {f"{kind}: {name}": case for kind, cases in _KINDS.items() for name, case in cases.items()}
