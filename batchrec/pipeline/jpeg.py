"""The markers of a JPEG up to its first scan: a few microseconds that decide who decodes it."""

from __future__ import annotations

from dataclasses import dataclass

from batchrec.errors import ErrorCode, ImageError
from batchrec.pipeline.exif import orientation_of

_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_STANDALONE = frozenset({0x00, 0x01, *range(0xD0, 0xD9)})
_SOS, _EOI, _APP0, _APP1, _APP14 = 0xDA, 0xD9, 0xE0, 0xE1, 0xEE
_BASELINE, _EXTENDED, _PROGRESSIVE = 0xC0, 0xC1, 0xC2
_SEQUENTIAL = (_BASELINE, _EXTENDED)
_MAX_SIDE = 65_500
_MAX_SCANS = 100
END_MARKER = b"\xff\xd9"


@dataclass(frozen=True, slots=True)
class JpegHeader:
    """What the markers of a JPEG say.

    Attributes:
        size: Width and height as stored.
        orientation: EXIF orientation, 1 to 8.
        is_plain: 8-bit Huffman-coded baseline or progressive, grey or YCbCr.
        has_one_scan: Whether one scan holds the whole picture, so that it cannot end between two.
        scan_start: Where the first scan starts.
        rarity: The variant, when it is one that decoders may refuse; else empty.
        is_baseline: Whether its frame is SOF0, which every decoder knows.
        sampling: Of each component the factors, horizontal times 16 plus vertical.
    """

    size: tuple[int, int]
    orientation: int
    is_plain: bool
    has_one_scan: bool
    scan_start: int
    rarity: str
    is_baseline: bool
    sampling: bytes


def read_jpeg_header(data: bytes) -> JpegHeader:
    """Walk the markers up to the first scan.

    Raises:
        IndexError: The data end before the first scan.
        ImageError: ``corrupt``, ``bad_dimensions``.
    """
    position, orientation, frame_at, is_jfif, adobe = 2, 0, 0, False, -1
    while True:
        position, marker = _next_marker(data, position)
        if marker == _EOI:
            raise ImageError(ErrorCode.CORRUPT, "JPEG ends before its picture starts")
        length = data[position + 2] << 8 | data[position + 3]
        body = position + 4
        if marker in _SOF:
            frame_at = position
        elif marker == _SOS:
            break
        elif marker == _APP1 and not orientation and data.startswith(b"Exif\x00\x00", body):
            orientation = orientation_of(data[body : position + 2 + length])
        elif marker == _APP0 and data.startswith(b"JFIF", body):
            is_jfif = True
        elif marker == _APP14 and length >= 14 and data.startswith(b"Adobe", body):
            adobe = data[body + 11]
        position += 2 + length
    if not frame_at:
        raise ImageError(ErrorCode.CORRUPT, "JPEG without a frame header")
    colours_known = is_jfif or adobe == 1 or (adobe == -1 and _ids(data, frame_at) != b"RGB")
    return _header(data, frame_at, position, orientation or 1, colours_known)


def _next_marker(data: bytes, position: int) -> tuple[int, int]:
    while True:
        if data[position] != 0xFF:
            position = data.find(b"\xff", position)
            if position < 0:
                raise IndexError
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
        elif marker in _STANDALONE:
            position += 2
        else:
            return position, marker


def _ids(data: bytes, frame_at: int) -> bytes:
    return data[frame_at + 10 : frame_at + 19 : 3]


def _header(data: bytes, frame_at: int, scan_start: int, orientation: int, colours_known: bool) -> JpegHeader:
    marker, precision, components = data[frame_at + 1], data[frame_at + 4], data[frame_at + 9]
    height = data[frame_at + 5] << 8 | data[frame_at + 6]
    width = data[frame_at + 7] << 8 | data[frame_at + 8]
    if max(width, height) > _MAX_SIDE:
        raise ImageError(ErrorCode.BAD_DIMENSIONS, f"{width} x {height}: a JPEG side is at most {_MAX_SIDE}")
    interleaved = data[scan_start + 4] == components
    has_one_scan = marker in _SEQUENTIAL and interleaved
    if not has_one_scan:
        _check_scans(data, scan_start)
    huffman = marker in _SEQUENTIAL or marker == _PROGRESSIVE
    return JpegHeader(
        size=(width, height),
        orientation=orientation,
        is_plain=huffman and precision == 8 and (components == 1 or (components == 3 and colours_known)),
        has_one_scan=has_one_scan,
        scan_start=scan_start,
        rarity="" if huffman and precision == 8 else _rarity(marker, precision),
        is_baseline=marker == _BASELINE,
        sampling=data[frame_at + 11 : frame_at + 11 + 3 * components : 3],
    )


def _check_scans(data: bytes, scan_start: int) -> None:
    # Every scan costs a pass over the whole picture, and an empty one takes only some bytes of file.
    num_scans = data.count(b"\xff\xda", scan_start)
    if num_scans > _MAX_SCANS:
        raise ImageError(ErrorCode.CORRUPT, f"JPEG of {num_scans} scans, at most {_MAX_SCANS} are read")


def _rarity(marker: int, precision: int) -> str:
    coding = "arithmetic-coded " if marker > 0xC8 else ""
    process = "lossless " if marker in (0xC3, 0xCB) else "hierarchical " if marker & 0x04 else ""
    return f"{coding}{process}{precision}-bit JPEG"
