"""What a good file is, and those of GIF, BMP and TIFF; the others, and all together, are in good_images.py."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from tests.pipeline import image_files as files
from tests.pipeline.image_files import COLOURS, INDEX, PALETTE, RGB, SIZE, encoded, quadrants

WHITE = (255, 255, 255)
GREYS = ((88, 88, 88), (113, 113, 113), (67, 67, 67), (199, 199, 199))  # 0.299 R + 0.587 G + 0.114 B
EIGHTHS = ((0, 0, 0), (85, 85, 85), (170, 170, 170), WHITE)
PURPLE = (120, 30, 160)
LAST_TRANSPARENT = (*COLOURS[:3], WHITE)
CLEAR_CORNER = Image.fromarray(np.dstack([RGB, np.where(INDEX == 3, 0, 255).astype(np.uint8)]))


@dataclass(frozen=True)
class Good:
    """A file, and its upright size and colours: of the quadrants (left above, right above, ...), or of all of it."""

    data: bytes
    colours: tuple[tuple[int, ...], ...] = COLOURS
    within: int = 0
    size: tuple[int, int] = SIZE


def other() -> Image.Image:
    """A picture of its own each time: saving one as a JPEG leaves something behind that other formats trip over."""
    return Image.new("RGB", SIZE, PURPLE)


def colour(image: Image.Image, format_: str, expected: tuple[int, ...], within: int = 0, **options) -> Good:
    return Good(encoded(image, format_, **options), (expected,) * 4, within, image.size)


JPEG = encoded(quadrants(), "JPEG", quality=95, subsampling=0)
GIF = files.gif(files.gif_frame(INDEX))
BMP = files.bmp(np.ascontiguousarray(RGB[::-1, :, ::-1]).tobytes(), 24)
TIFF = files.tiff(files.strip(RGB.tobytes()), RGB.tobytes())

LACED = np.concatenate([INDEX[0::8], INDEX[4::8], INDEX[2::4], INDEX[1::2]])
RIGHT = INDEX[:, 32:].copy()
GIFS = {
    "87a": Good(files.gif(files.gif_frame(INDEX), version=b"GIF87a")),
    "89a": Good(GIF),
    "interlaced": Good(files.gif(files.gif_frame(LACED, flags=0x40))),
    "a palette of the frame's own": Good(
        files.gif(
            files.gif_frame(
                3 - INDEX, flags=0x86, colours=PALETTE[9:] + PALETTE[6:9] + PALETTE[3:6] + PALETTE[:3] + bytes(3 * 124)
            )
        )
    ),
    "a transparent colour": Good(files.gif(files.gif_control(1, 3), files.gif_frame(INDEX)), LAST_TRANSPARENT),
    "an offset frame, the rest transparent": Good(
        files.gif(files.gif_control(1, 9), files.gif_frame(RIGHT, left=32)), (WHITE, COLOURS[1], WHITE, COLOURS[3])
    ),
    "animated": Good(
        files.gif(
            b"!\xff\x0bNETSCAPE2.0\x03\1\0\0\0",
            files.gif_control(4),
            files.gif_frame(INDEX),
            files.gif_frame(INDEX * 0),
        )
    ),
    "10,000 frames": Good(files.gif(files.gif_frame(INDEX), *[files.gif_frame(INDEX[:1, :1])] * 10_000)),
    "a comment of JavaScript": Good(files.gif(b"!\xfe\x0b=1;alert();\0", files.gif_frame(INDEX))),
    "without its trailer": Good(GIF[:-1]),
    "followed by a ZIP archive": Good(GIF + b"PK\x05\x06" + bytes(18)),
}

BGR = np.ascontiguousarray(RGB[::-1, :, ::-1])
BGRX = np.dstack([BGR, np.zeros((32, 64, 1), np.uint8)])
HALF = np.where(INDEX[::-1] == 3, 0, 255).astype(np.uint8)
BGRA = np.dstack([BGR, HALF])
FIVES = (RGB[::-1].astype(np.uint16) + 4) * 31 // 255
SIXES = (FIVES[..., 0] << 11 | ((RGB[::-1, :, 1].astype(np.uint16) * 63) // 255) << 5 | FIVES[..., 2]).astype("<u2")
FOUR_COLOURS = b"".join(bytes(colour[::-1]) + b"\0" for colour in COLOURS)
FLIPPED = np.ascontiguousarray(INDEX[::-1])
MASKS = b"\0\0\xff\0\0\xff\0\0\xff\0\0\0"
BMPS = {
    "24 bits": Good(BMP),
    "stored from the top": Good(files.bmp(BGR[::-1].tobytes(), 24, height=-32)),
    "OS/2": Good(files.bmp(BGR.tobytes(), 24, header=12)),
    "8 bits": Good(files.bmp(FLIPPED.tobytes(), 8, colours=FOUR_COLOURS)),
    "4 bits": Good(files.bmp(files.packed_bits(4, FLIPPED).tobytes(), 4, colours=FOUR_COLOURS)),
    "1 bit": Good(files.bmp(files.packed_bits(1, FLIPPED & 1).tobytes(), 1, colours=FOUR_COLOURS[:8]), COLOURS[:2] * 2),
    "run lengths of 8 bits": Good(files.bmp(files.run_lengths(8), 8, packing=1, colours=FOUR_COLOURS)),
    "run lengths of 4 bits": Good(files.bmp(files.run_lengths(4), 4, packing=2, colours=FOUR_COLOURS)),
    "15 bits": Good(
        files.bmp((FIVES[..., 0] << 10 | FIVES[..., 1] << 5 | FIVES[..., 2]).astype("<u2").tobytes(), 16), within=8
    ),
    "16 bits by masks": Good(
        files.bmp(SIXES.tobytes(), 16, packing=3, header=56, masks=b"\0\xf8\0\0\xe0\7\0\0\x1f\0\0\0"), within=8
    ),
    "32 bits, the fourth byte unused": Good(files.bmp(BGRX.tobytes(), 32)),
    "32 bits by masks": Good(files.bmp(BGRX.tobytes(), 32, packing=3, header=56, masks=MASKS)),
    "32 bits with alpha": Good(
        files.bmp(BGRA.tobytes(), 32, packing=3, header=124, masks=MASKS + b"\0\0\0\xff"), LAST_TRANSPARENT
    ),
}


def tiff(pixels: np.ndarray, colours=COLOURS, order: str = "<", big: bool = False, **more) -> Good:
    data = pixels.tobytes()
    return Good(files.tiff(files.strip(data, **more), data, order, big), colours)


def packed_tiff(image: Image.Image, packing: str, colours=COLOURS, within: int = 0, **options) -> Good:
    return Good(encoded(image, "TIFF", compression=packing, **options), colours, within)


TILES = np.concatenate([RGB[y : y + 16, x : x + 16].reshape(-1) for y in (0, 16) for x in (0, 16, 32, 48)]).tobytes()
TILED = {256: (64,), 257: (32,), 258: (8, 8, 8), 259: (1,), 262: (2,), 277: (3,), 322: (16,), 323: (16,)}
TILED |= {324: tuple(range(0, 8 * 768, 768)), 325: (768,) * 8}
PLANES = np.ascontiguousarray(RGB.transpose(2, 0, 1)).tobytes()
PLANAR = files.strip(PLANES, t284=2) | {273: (0, 2048, 4096), 279: (2048,) * 3}
PALETTE_TAGS = {320: tuple(257 * colour[plane] for plane in range(3) for colour in [*COLOURS, *[(0, 0, 0)] * 252])}
OLD_JPEG = files.strip(JPEG, photometric=6, packing=6) | {513: (0,), 514: (len(JPEG),)}
TIFFS = {
    "little-endian": Good(TIFF),
    "big-endian": tiff(RGB, order=">"),
    "BigTIFF": tiff(RGB, big=True),
    "tiled": Good(files.tiff(TILED, TILES)),
    "planes one after another": Good(files.tiff(PLANAR, PLANES)),
    "palette": Good(files.tiff(files.strip(INDEX.tobytes(), (8,), 3) | PALETTE_TAGS, INDEX.tobytes())),
    "1-bit, white is zero": tiff(files.packed_bits(1, INDEX & 1), (WHITE, (0, 0, 0)) * 2, bits=(1,), photometric=0),
    "8-bit, white is zero": tiff(INDEX * 85, EIGHTHS[::-1], bits=(8,), photometric=0),
    "16-bit grey, big-endian": tiff((INDEX * np.uint16(21845)).astype(">u2"), EIGHTHS, ">", bits=(16,), photometric=1),
    "16-bit RGB": tiff((RGB * np.uint16(257)).astype("<u2"), bits=(16, 16, 16)),
    "float": tiff((INDEX / np.float32(3)).astype("<f4"), EIGHTHS, bits=(32,), photometric=1, t339=3),
    "alpha": packed_tiff(CLEAR_CORNER, "raw", LAST_TRANSPARENT),
    "CMYK": packed_tiff(quadrants("CMYK"), "raw"),
    "LZW": packed_tiff(quadrants(), "tiff_lzw"),
    "LZW, predicted": packed_tiff(quadrants(), "tiff_lzw", tiffinfo={317: 2}),
    "deflate": packed_tiff(quadrants(), "tiff_adobe_deflate"),
    "PackBits": packed_tiff(quadrants(), "packbits"),
    "fax group 4": packed_tiff(Image.fromarray(INDEX & 1 == 1), "group4", ((0, 0, 0), WHITE) * 2),
    "JPEG": packed_tiff(quadrants(), "jpeg", within=3, quality=95),
    "JPEG, the old way": Good(files.tiff(OLD_JPEG, JPEG), within=2),
    "several pages": Good(encoded(quadrants(), "TIFF", save_all=True, append_images=[other()])),
    "followed by a PDF": Good(TIFF + b"%PDF-1.4"),
}
