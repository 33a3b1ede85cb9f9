"""What some bytes claim to be, from their first few alone."""

from __future__ import annotations

import re

from batchrec.errors import ErrorCode, ImageError

_UNSUPPORTED_MAGICS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"II\xbc\x01", "JPEG XR"),
    (0, b"8BPS", "Photoshop"),
    (0, b"\x00\x00\x01\x00", "ICO"),
    (0, b"\x00\x00\x02\x00", "CUR"),
    (0, b"icns", "ICNS"),
    (0, b"DDS ", "DDS"),
    (0, b"BLP1", "BLP"),
    (0, b"BLP2", "BLP"),
    (0, b"\x01\xda", "SGI"),
    (0, b"qoif", "QOI"),
    (0, b"%!PS", "EPS or PostScript"),
    (0, b"\xc5\xd0\xd3\xc6", "EPS"),
    (0, b"SIMPLE  =", "FITS"),
    (0, b"DanM", "MSP"),
    (0, b"LinS", "MSP"),
    (0, b"/* XPM */", "XPM"),
    (0, b"#define ", "XBM"),
    (0, b"\x59\xa6\x6a\x95", "Sun raster"),
    (0, b"\xd7\xcd\xc6\x9a", "WMF"),
    (0, b"\xb1\x68\xde\x3a", "DCX"),
    (0, b"\x80\xe8\x00\x00", "PIXAR"),
    (0, b"gimp xcf", "XCF"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"GRIB", "GRIB"),
    (0, b"\x89HDF\r\n\x1a\n", "HDF5"),
    (0, b"BUFR", "BUFR"),
    (0, b"\x00\x00\x01\xb3", "MPEG"),
    (0, b"AT&TFORM", "DjVu"),
    (0, b"FTEX", "FTEX"),
    (4, b"\x11\xaf", "FLI"),
    (4, b"\x12\xaf", "FLC"),
)
_FOREIGN_MAGICS: tuple[tuple[bytes, str], ...] = (
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "gzip data"),
    (b"BZh", "bzip2 data"),
    (b"\xfd7zXZ", "xz data"),
    (b"\x28\xb5\x2f\xfd", "zstd data"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"PAR1", "a Parquet file"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"OggS", "Ogg media"),
    (b"ID3", "an MP3 file"),
    (b"\x1a\x45\xdf\xa3", "a Matroska video"),
    (b"SQLite format 3", "a SQLite database"),
    (b"\x80\x04\x95", "a pickle"),
    (b"RIFF", "RIFF media, not WebP"),
)
_STILL_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"jxl ": "JPEG XL", b"crx ": "Canon CR3"} | dict.fromkeys(
    (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"), "HEIC"
)
_TIFF_MAGICS = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_NETPBM = re.compile(rb"P[1-7fF][\s#]|P[0yf]\s")
_PCX = re.compile(rb"\x0a[\x00\x02\x03\x05][\x00\x01][\x01\x02\x04\x08]", re.DOTALL)
_TGA_TYPES = {(0, 2), (0, 3), (0, 10), (0, 11), (1, 1), (1, 9)}
_TEXT_BYTES = bytes(range(0x20, 0x7F)) + b"\t\n\r\f\x1b"


def kind_of(data: bytes) -> str:
    """Name the format of an image: ``jpeg``, ``png``, ``webp``, ``gif``, ``bmp`` or ``tiff``.

    Raises:
        ImageError: ``unsupported_format`` for images of another kind, ``not_an_image`` for the rest.
    """
    head = data[:32]
    if head.startswith(b"\xff\xd8") and head[2:3] in (b"\xff", b""):
        return "jpeg"
    if head.startswith(
        b"\x89PNG"
    ):  # the rest of the signature is what a text-mode transfer breaks: corrupt, not foreign
        return "png"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "webp"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if head.startswith(_TIFF_MAGICS):
        return "tiff"
    if head.startswith(b"BM") and not (len(data) >= 18 and head[15:18].strip(b"\x00")):
        return "bmp"  # the size of its header is a small number, where prose starting with "BM" has letters
    raise _refusal(data, head)


def _refusal(data: bytes, head: bytes) -> ImageError:
    if name := _unsupported(data, head):
        return ImageError(ErrorCode.UNSUPPORTED_FORMAT, name)
    return ImageError(ErrorCode.NOT_AN_IMAGE, _foreign(data[:1024], head))


def _unsupported(data: bytes, head: bytes) -> str | None:
    if data.endswith(b"TRUEVISION-XFILE.\x00") or _is_bare_tga(head):  # before CUR, which starts like it
        return "TGA"
    for offset, magic, name in _UNSUPPORTED_MAGICS:
        if head.startswith(magic, offset):
            return name
    if head[4:8] == b"ftyp":
        return _STILL_BRANDS.get(head[8:12])
    if _NETPBM.match(head):
        return "Netpbm"
    if _PCX.match(head):
        return "PCX"
    start = data[:1024].lower()
    return "SVG" if b"<svg" in start and b"<html" not in start else None


def _is_bare_tga(head: bytes) -> bool:
    # TGA 1 has no magic; these fields are what Pillow's reader goes by, and no text has such bytes.
    return len(head) >= 18 and (head[1], head[2]) in _TGA_TYPES and head[16] in (8, 15, 16, 24, 32) and head[17] < 0x40


def _foreign(start: bytes, head: bytes) -> str:
    if head[4:8] == b"ftyp":
        return "a video or other media file"
    for magic, name in _FOREIGN_MAGICS:
        if head.startswith(magic):
            return name
    if not start.strip(b"\x00"):
        return "zero bytes only"
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "text"
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")) or b"<html" in text:
        return "an HTML page"
    if text.startswith(b"<?xml") or re.match(rb"<[a-z][\w:.-]*[\s/>]", text):
        return "XML"
    if re.match(rb'[{\[]\s*(["{}\[\]\d]|null|true|false|-)', text):
        return "JSON"
    if _is_text(text):
        return "text"
    return f"unknown bytes {head[:8].hex(' ')}"


def _is_text(text: bytes) -> bool:
    if text.translate(None, _TEXT_BYTES) == b"":
        return bool(text)
    try:
        return text[:-4].decode().isprintable() and len(text) > 8
    except UnicodeDecodeError:
        return False
