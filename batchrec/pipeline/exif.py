"""TIFF directories, which are also what EXIF is written in."""

from __future__ import annotations

import struct
from collections.abc import Iterator

ORIENTATION = 0x0112
BIGTIFF = b"II+\x00"
_MAX_VALUES = 1_000_000
_ORDERS = {b"II*\x00": "<", b"MM\x00*": ">"}
_FORMATS = {1: ("B", 1), 3: ("H", 2), 4: ("I", 4)}


def orientation_of(exif: bytes) -> int:
    """Orientation from 1 to 8 in an EXIF block, with or without its prefix; 1 when absent or broken."""
    tiff = exif.removeprefix(b"Exif\x00\x00")
    try:
        for tag, type_, count, position, order in _entries(tiff):
            if tag == ORIENTATION:
                values = _values(tiff, type_, min(count, 1), position, order)
                return values[0] if values and 1 <= values[0] <= 8 else 1
    except struct.error:
        return 1
    return 1


def directory_of(tiff: bytes) -> dict[int, tuple[int, ...]]:
    """Whole numbers in the first directory of a classic TIFF, by tag, as far as it can be read; empty for BigTIFF."""
    tags: dict[int, tuple[int, ...]] = {}
    try:
        for tag, type_, count, position, order in _entries(tiff):
            if values := _values(tiff, type_, count, position, order):
                tags[tag] = values
    except struct.error:
        return tags
    return tags


def directory_end(tiff: bytes) -> int:
    """Position after the first directory of a TIFF, classic or little-endian BigTIFF; 0 for anything else.

    Raises:
        struct.error: The data end before the directory starts.
    """
    order = _ORDERS.get(tiff[:4])
    if order is None and not tiff.startswith(BIGTIFF):
        return 0
    classic = (4, f"{order}I", f"{order}H", 2, 12)
    at, offset, count, count_bytes, entry_bytes = classic if order else (8, "<Q", "<Q", 8, 20)
    (start,) = struct.unpack_from(offset, tiff, at)
    if start > len(tiff):  # and perhaps beyond what an offset can be
        return int(start)
    (num_entries,) = struct.unpack_from(count, tiff, start)
    return int(start + count_bytes + entry_bytes * num_entries)


def _entries(tiff: bytes) -> Iterator[tuple[int, int, int, int, str]]:
    order = _ORDERS.get(tiff[:4])
    if order is None:
        return
    (start,) = struct.unpack_from(order + "I", tiff, 4)
    (num_entries,) = struct.unpack_from(order + "H", tiff, start)
    for position in range(start + 2, start + 2 + 12 * num_entries, 12):
        yield *struct.unpack_from(order + "HHI", tiff, position), position + 8, order


def _values(tiff: bytes, type_: int, count: int, position: int, order: str) -> tuple[int, ...]:
    if type_ not in _FORMATS:
        return ()
    code, size = _FORMATS[type_]
    if count * size > 4:
        (position,) = struct.unpack_from(order + "I", tiff, position)
    if count > _MAX_VALUES or count * size > len(tiff) - position:
        return ()
    return struct.unpack_from(f"{order}{count}{code}", tiff, position)
