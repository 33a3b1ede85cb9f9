"""What comes out for every kind of good image."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import threading
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from batchrec.errors import ErrorCode, ImageError
from batchrec.models.preprocessing import Preprocess
from batchrec.pipeline.decoding import Decoder, ImageFacts
from batchrec.spec import ImageLimits

SIZE = (60, 40)


@pytest.fixture
def decoder() -> Decoder:
    return Decoder(Preprocess(resize=32, crop=28), ImageLimits())


def encoded(image: Image.Image, format_: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format_, **options)
    return stream.getvalue()


def picture(size: tuple[int, int] = SIZE) -> Image.Image:
    """A smooth picture without any symmetry."""
    across, down = np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1])[:, None]
    planes = [across * 200 + down * 40, down * 220 + across**2 * 20, (1 - across) * (1 - down) * 250]
    return Image.fromarray(np.stack([np.broadcast_to(p, size[::-1]) for p in planes], -1).astype(np.uint8))


def exif(orientation: int, order: str = "<") -> bytes:
    magic = b"II*\x00" if order == "<" else b"MM\x00*"
    entry = struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0)
    return b"Exif\x00\x00" + magic + struct.pack(order + "IH", 8, 1) + entry + bytes(4)


def difference(left: np.ndarray, right: np.ndarray) -> int:
    return int(np.abs(left.astype(int) - right.astype(int)).max())


def flat(decoder: Decoder, data: bytes) -> tuple[int, ...]:
    """The colour of a picture of one colour."""
    pixels, _ = decoder.decode(data)
    assert difference(pixels, np.broadcast_to(pixels[0, 0], pixels.shape)) <= 1
    return tuple(int(value) for value in pixels[14, 14])


@pytest.mark.parametrize(
    ("format_", "options", "tolerance"),
    [
        ("PNG", {}, 1),
        ("BMP", {}, 1),
        ("TIFF", {}, 1),
        ("TIFF", {"compression": "tiff_lzw"}, 1),
        ("TIFF", {"compression": "jpeg", "quality": 98}, 12),
        ("WEBP", {"lossless": True}, 1),
        ("WEBP", {"quality": 95}, 16),
        ("JPEG", {"quality": 98, "subsampling": 0}, 6),
        ("JPEG", {"quality": 98, "progressive": True, "subsampling": 0}, 6),
        ("MPO", {"save_all": True, "quality": 98, "subsampling": 0}, 6),
    ],
)
def test_every_format_gives_the_same_picture(decoder, format_, options, tolerance):
    expected, _ = decoder.decode(encoded(picture(), "PNG"))
    pixels, facts = decoder.decode(encoded(picture(), format_, **options))
    assert pixels.shape == (28, 28, 3)
    assert pixels.dtype == np.uint8
    assert facts == ImageFacts(60, 40)
    assert difference(pixels, expected) <= tolerance


def test_a_gif_gives_its_picture_within_its_palette(decoder):
    expected, _ = decoder.decode(encoded(picture(), "PNG"))
    pixels, _ = decoder.decode(encoded(picture().quantize(256), "GIF"))
    assert difference(pixels, expected) <= 40


@pytest.mark.parametrize("format_", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation_counts(decoder, format_):
    frames = [Image.new("RGB", SIZE, colour) for colour in ((200, 0, 0), (0, 200, 0))]
    lossless = {"lossless": True} if format_ == "WEBP" else {}
    data = encoded(frames[0], format_, save_all=True, append_images=frames[1:], **lossless)
    assert flat(decoder, data) == (200, 0, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_", ["JPEG", "CMYK", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("size", [(60, 40), (40, 61), (33, 33)])
def test_a_turned_picture_comes_out_upright(decoder, format_, orientation, size):
    upright = picture(size)
    undo = [None, None, 0, 3, 1, 5, 2, 6, 4][orientation]
    stored = upright if undo is None else upright.transpose(Image.Transpose(undo))
    options = {"JPEG": {"quality": 98, "subsampling": 0}, "CMYK": {"quality": 98}, "WEBP": {"lossless": True}}
    if format_ == "TIFF":
        data = encoded(stored, "TIFF", tiffinfo={0x0112: orientation})
    elif format_ == "CMYK":
        data = encoded(stored.convert("CMYK"), "JPEG", quality=98, exif=exif(orientation))
    else:
        data = encoded(stored, format_, exif=exif(orientation), **options.get(format_, {}))
    pixels, facts = decoder.decode(data)
    expected, _ = decoder.decode(encoded(upright, "PNG"))
    assert facts == ImageFacts(*size)
    assert difference(pixels, expected) <= (9 if format_ in {"JPEG", "CMYK"} else 1)


@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_is_read_in_both_byte_orders(decoder, order):
    _, facts = decoder.decode(encoded(picture(), "JPEG", exif=exif(6, order)))
    assert facts == ImageFacts(40, 60)


@pytest.mark.parametrize(
    "block",
    [
        exif(0),
        exif(9),
        exif(65535),
        exif(6)[:-10],
        exif(6)[:12],
        b"Exif\x00\x00",
        b"Exif\x00\x00II*\x00\xff\xff\xff\xff",
        b"Exif\x00\x00XX*\x00" + exif(6)[10:],
        exif(6).replace(b"\x03\x00\x01", b"\x02\x00\x01"),
    ],
)
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP"])
def test_an_orientation_that_means_nothing_is_ignored(decoder, format_, block):
    _, facts = decoder.decode(encoded(picture(), format_, exif=block))
    assert facts == ImageFacts(60, 40)


def test_only_the_first_exif_block_of_a_jpeg_counts(decoder):
    data = encoded(picture(), "JPEG", exif=exif(1))
    second = b"\xff\xe1" + struct.pack(">H", len(exif(6)) + 2) + exif(6)
    _, facts = decoder.decode(data.replace(b"\xff\xdb", second + b"\xff\xdb", 1))
    assert facts == ImageFacts(60, 40)


@pytest.mark.parametrize(
    ("image", "format_", "expected"),
    [
        (Image.new("L", SIZE, 77), "PNG", (77, 77, 77)),
        (Image.new("L", SIZE, 77), "JPEG", (77, 77, 77)),
        (Image.new("1", SIZE, 1), "PNG", (255, 255, 255)),
        (Image.new("1", SIZE, 0), "TIFF", (0, 0, 0)),
        (Image.new("RGBA", SIZE, (100, 0, 0, 0)), "PNG", (255, 255, 255)),
        (Image.new("RGBA", SIZE, (100, 0, 200, 255)), "PNG", (100, 0, 200)),
        (Image.new("RGBA", SIZE, (0, 0, 0, 51)), "PNG", (204, 204, 204)),
        (Image.new("RGBA", SIZE, (0, 0, 0, 51)), "TIFF", (204, 204, 204)),
        (Image.new("LA", SIZE, (0, 51)), "PNG", (204, 204, 204)),
        (Image.new("I;16", SIZE, 65535), "PNG", (255, 255, 255)),
        (Image.new("I;16", SIZE, 257 * 90), "PNG", (90, 90, 90)),
        (Image.new("I;16", SIZE, 257 * 90 + 129), "PNG", (91, 91, 91)),
        (Image.new("I;16", SIZE, 257 * 90 + 128), "TIFF", (90, 90, 90)),
        (Image.new("I;16B", SIZE, 257 * 90), "TIFF", (90, 90, 90)),
        (Image.new("F", SIZE, 0.5), "TIFF", (128, 128, 128)),
        (Image.new("F", SIZE, 1.0), "TIFF", (255, 255, 255)),
        (Image.new("CMYK", SIZE, (0, 0, 0, 0)), "JPEG", (255, 255, 255)),
        (Image.new("CMYK", SIZE, (0, 255, 255, 0)), "TIFF", (255, 0, 0)),
    ],
)
def test_every_kind_of_pixels_becomes_rgb(decoder, image, format_, expected):
    assert flat(decoder, encoded(image, format_)) == expected


def png(
    depth: int, colour_type: int, row: bytes, *chunks: tuple[bytes, bytes], size: tuple[int, int] = (8, 8)
) -> bytes:
    """A PNG of equal rows, written here for what Pillow does not write."""
    header = struct.pack(">IIBBBBB", *size, depth, colour_type, 0, 0, 0)
    body = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress((b"\0" + row) * 8)), (b"IEND", b"")]
    packed = [struct.pack(">I", len(data)) + name + data + zlib.crc32(name + data).to_bytes(4) for name, data in body]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (png(8, 3, b"\1" * 8, (b"PLTE", b"\xff\0\0" + b"\0\x64\xc8")), (0, 100, 200)),
        (png(8, 3, b"\1" * 8, (b"PLTE", b"\xff\0\0" + b"\0\x64\xc8"), (b"tRNS", b"\xff\0")), (255, 255, 255)),
        (png(8, 3, b"\0" * 8, (b"PLTE", b"\0\0\0" + b"\0\x64\xc8"), (b"tRNS", b"\x33\x80")), (204, 204, 204)),
        (png(8, 2, b"\x0a\x14\x1e" * 8, (b"tRNS", b"\0\x0a\0\x14\0\x1e")), (255, 255, 255)),
        (png(8, 2, b"\x0a\x14\x1e" * 8, (b"tRNS", b"\0\x0a\0\x14\0\x1f")), (10, 20, 30)),
        (png(16, 2, b"\x40\0\x50\0\x60\0" * 8, (b"tRNS", b"\x40\0\x50\0\x60\0")), (255, 255, 255)),
        (png(16, 2, b"\x40\0\x50\0\x60\0" * 8), (64, 80, 96)),
        (png(16, 0, b"\x40\x40" * 8, (b"tRNS", b"\x40\x40")), (255, 255, 255)),
        (png(16, 0, b"\x40\x40" * 8, (b"tRNS", b"\x40\x41")), (64, 64, 64)),
        (png(4, 0, b"\xaa" * 4, (b"tRNS", b"\0\x0a")), (255, 255, 255)),
        (png(4, 0, b"\xaa" * 4, (b"tRNS", b"\0\x0b")), (170, 170, 170)),
        (png(2, 0, b"\x55" * 2, (b"tRNS", b"\0\x01")), (255, 255, 255)),
        (png(1, 0, b"\0", (b"tRNS", b"\0\0")), (255, 255, 255)),
        (png(8, 4, b"\0\x33" * 8), (204, 204, 204)),
        (png(16, 4, b"\0\0\x33\x33" * 8), (204, 204, 204)),
        (png(16, 6, b"\0\0\0\0\0\0\x33\x33" * 8), (204, 204, 204)),
    ],
)
def test_transparent_png_pixels_lie_on_white(decoder, data, expected):
    assert flat(decoder, data) == expected


def test_12_bit_tiff_samples_fill_the_whole_range(decoder):
    row = bytes.fromhex("ffffff") * 4
    entries = [(256, 3, 1, 8), (257, 3, 1, 8), (258, 3, 1, 12), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 122)]
    entries += [(277, 3, 1, 1), (278, 3, 1, 8), (279, 4, 1, 96)]
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    data = b"II*\0" + struct.pack("<IH", 8, len(entries)) + packed + bytes(4)
    assert flat(decoder, data.ljust(122, b"\0") + row * 8) == (255, 255, 255)


def test_a_colour_profile_changes_nothing(decoder):
    plain, _ = decoder.decode(encoded(picture(), "PNG"))
    profiled, _ = decoder.decode(encoded(picture(), "PNG", icc_profile=b"not a profile at all"))
    assert np.array_equal(plain, profiled)


@pytest.mark.parametrize("quality", [30, 75, 95])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_fast_jpeg_path_agrees_with_pillow(monkeypatch, decoder, quality, subsampling, progressive, mode):
    options = {"quality": quality, "progressive": progressive} | ({"subsampling": subsampling} if mode == "RGB" else {})
    data = encoded(picture((203, 151)).convert(mode), "JPEG", **options)
    fast, facts = decoder.decode(data)
    monkeypatch.setattr("batchrec.pipeline.decoding._decode_plain_jpeg", lambda data, jpeg, shrink_to: None)
    slow, slow_facts = decoder.decode(data)
    assert facts == slow_facts
    assert difference(fast, slow) <= 1


def test_a_jpeg_that_lacks_nothing_but_its_end_marker_is_whole(decoder):
    data = encoded(picture((203, 151)), "JPEG")
    whole, _ = decoder.decode(data)
    for cut in (1, 2):
        pixels, _ = decoder.decode(data[:-cut])
        assert np.array_equal(pixels, whole)


@pytest.mark.parametrize("cut", [3, 10, 400])
def test_a_jpeg_that_lacks_data_is_truncated(decoder, cut):
    with pytest.raises(ImageError) as caught:
        decoder.decode(encoded(picture((203, 151)), "JPEG")[:-cut])
    assert caught.value.code == ErrorCode.TRUNCATED


def test_a_progressive_jpeg_without_its_end_marker_may_lack_scans_and_is_truncated(decoder):
    with pytest.raises(ImageError) as caught:
        decoder.decode(encoded(picture((203, 151)), "JPEG", progressive=True)[:-2])
    assert caught.value.code == ErrorCode.TRUNCATED


def test_bytes_after_the_end_of_a_picture_are_ignored(decoder):
    for format_ in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"):
        data = encoded(picture(), format_)
        assert np.array_equal(decoder.decode(data)[0], decoder.decode(data + b"<script>" * 50)[0])


@pytest.mark.parametrize("size", [(1, 1), (1, 65500), (65500, 1), (3, 40000), (1, 2), (65500, 30)])
@pytest.mark.parametrize("format_", ["JPEG", "PNG"])
def test_needles_decode_in_little_memory(size, format_):
    decoder = Decoder(Preprocess(), ImageLimits())
    data = encoded(Image.new("RGB", size, (90, 160, 30)), format_)
    tracemalloc.start()
    try:
        pixels, facts = decoder.decode(data)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert facts == ImageFacts(*size)
    assert difference(pixels, np.broadcast_to(np.uint8([90, 160, 30]), (224, 224, 3))) <= 3
    assert peak_bytes < 64 * 2**20


def test_a_needle_keeps_its_middle(decoder):
    ramp = np.broadcast_to(np.linspace(0, 255, 60000).astype(np.uint8)[None, :, None], (2, 60000, 3))
    pixels, _ = decoder.decode(encoded(Image.fromarray(np.ascontiguousarray(ramp)), "PNG"))
    assert difference(pixels, np.full((28, 28, 3), 127, np.uint8)) <= 1


def test_results_are_independent_and_fit_a_slot(decoder):
    slots = np.zeros((3, 28, 28, 3), np.uint8)
    pictures = [Image.new("RGB", SIZE, (level, level, level)) for level in (10, 20, 30)]
    kept = [decoder.decode(encoded(image, "JPEG", quality=100))[0] for image in pictures]
    for slot, pixels in zip(slots, kept, strict=True):
        slot[...] = pixels
    assert [int(slot[5, 5, 0]) for slot in slots] == [10, 20, 30]


def test_threads_share_one_decoder(decoder):
    data = [encoded(picture((200 + i, 150)), format_) for i in range(4) for format_ in ("JPEG", "PNG", "WEBP", "TIFF")]
    expected = [decoder.decode(one)[0].copy() for one in data]
    wrong: list[int] = []

    def work() -> None:
        for _ in range(3):
            wrong.extend(i for i, one in enumerate(data) if not np.array_equal(decoder.decode(one)[0], expected[i]))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_importing_the_decoder_imports_no_torch():
    code = "import sys, batchrec.pipeline.decoding; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_warnings_of_pillow_never_surface_even_after_filters_were_reset(decoder):
    data = encoded(Image.new("RGB", SIZE), "TIFF", tiffinfo={0x0128: 1})
    broken = data.replace(struct.pack("<HHI", 0x0128, 3, 1), struct.pack("<HHI", 0x0128, 3, 20000))
    with warnings.catch_warnings():
        warnings.resetwarnings()
        warnings.simplefilter("error")
        with pytest.raises(UserWarning):
            TiffImageFile(io.BytesIO(broken))
        assert decoder.decode(broken)[1] == ImageFacts(60, 40)
