"""The headers of a column's pages: how much a few bytes of a Parquet file may become, known before they are decoded.

What the footer says of sizes nobody checks, and Arrow takes the pages' own word for them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

MAX_PAGE_BYTES = 256 * 2**20
MAX_DECODED_BYTES = 256 * 2**20
# Writers make pages of about 1 MiB; a header holds one or two values beside its numbers.
_MAX_HEADER_BYTES = 64 * 1024
_WHOLE_BYTES = 8 * 2**20
_LOOKED_INTO_BYTES = 4 * 2**20
_MAX_DEPTH = 8
_DATA, _DICTIONARY, _DATA_V2 = 0, 2, 3
_PLAIN = 0
_BY_DICTIONARY = (2, 8)


class OversizedText(Exception):
    """What a few bytes become is larger than any manifest needs; the message says how large."""


@dataclass(frozen=True, slots=True)
class _Page:
    kind: int
    size: int
    packed_size: int
    num_values: int
    encoding: int
    begins_at: int = 0


def chunks_of(metadata: pq.FileMetaData, columns: Collection[str]) -> tuple[int, ...]:
    """Return where in each row group the chunks of some columns are, nested ones included."""
    paths = [metadata.schema.column(index).path for index in range(metadata.num_columns)]
    begin = tuple(f"{name}." for name in columns)
    return tuple(index for index, path in enumerate(paths) if path in columns or path.startswith(begin))


def rows_at_once(stream: BinaryIO, group: pq.RowGroupMetaData, chunks: Iterable[int], most: int) -> int:
    """Return how many rows of a row group may be decoded in one go without filling the memory.

    Args:
        stream: The file; its position is lost.
        group: From its footer.
        chunks: Those that are decoded.
        most: Upper bound.

    Raises:
        OversizedText: A page is over 256 MiB.
    """
    value_bytes = sum(largest_value(stream, group.column(index)) for index in chunks)
    return max(1, min(most, MAX_DECODED_BYTES // max(1, value_bytes)))


def largest_value(stream: BinaryIO, column: pq.ColumnChunkMetaData) -> int:
    """Return the most bytes a value of a column chunk may take when decoded.

    Args:
        stream: The file.
        column: From its footer.

    Raises:
        OversizedText: A page is over 256 MiB.
    """
    if column.physical_type not in ("BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY"):
        return 8
    return max((_value_bytes(stream, column, page) for page in _pages(stream, column) if page.size), default=0)


def _value_bytes(stream: BinaryIO, column: pq.ColumnChunkMetaData, page: _Page) -> int:
    """Return the most that a value of a page may take, on average over the values of a batch."""
    fixed = column.physical_type == "FIXED_LEN_BYTE_ARRAY"
    if page.kind == _DICTIONARY and not fixed:
        return _longest(stream, column, page) if page.size <= _LOOKED_INTO_BYTES else page.size
    if page.kind == _DICTIONARY or page.encoding == _PLAIN:
        return page.size // max(1, page.num_values) + 1
    if page.encoding in _BY_DICTIONARY:
        return 0  # counted with the dictionary
    return page.size  # values are spelt by what they share with others: each may be the longest


def _longest(stream: BinaryIO, column: pq.ColumnChunkMetaData, page: _Page) -> int:
    """Return the length of the longest entry of a dictionary; its page's where that cannot be told."""
    data = _read(stream, page.begins_at, page.begins_at + page.packed_size)
    try:
        if column.compression != "UNCOMPRESSED":
            # All that is written today is raw, whatever it is called.
            name = column.compression.lower().replace("lz4_raw", "lz4").replace("lz4", "lz4_raw")
            data = pa.Codec(name).decompress(data, page.size, asbytes=True)
    except (pa.ArrowException, OSError, ValueError):
        return page.size
    at = longest = 0
    while at + 4 <= len(data):
        length = int.from_bytes(data[at : at + 4], "little")
        longest = max(longest, length)
        at += 4 + length
    return longest if at == len(data) else page.size


def _pages(stream: BinaryIO, column: pq.ColumnChunkMetaData) -> Iterator[_Page]:
    start = column.data_page_offset
    if column.has_dictionary_page and column.dictionary_page_offset:
        start = min(start, column.dictionary_page_offset)
    end = start + column.total_compressed_size
    whole = _read(stream, start, end) if end - start <= _WHOLE_BYTES else b""
    at, seen = start, 0
    while at < end and seen < column.num_values:
        head = whole[at - start : at - start + _MAX_HEADER_BYTES] if whole else _read(stream, at, min(end, at + 1024))
        page = _page(head)
        if page is None and not whole:
            page = _page(_read(stream, at, min(end, at + _MAX_HEADER_BYTES)))
        if page is None:
            return  # Arrow says what is wrong with it
        found, header_bytes = page
        if found.size > MAX_PAGE_BYTES:
            raise OversizedText(f"a page of {found.size} bytes, packed into {found.packed_size}")
        yield replace(found, begins_at=at + header_bytes)
        seen += found.num_values if found.kind != _DICTIONARY else 0
        at += header_bytes + found.packed_size


def _read(stream: BinaryIO, start: int, end: int) -> bytes:
    stream.seek(start)
    return stream.read(max(0, end - start))


def _page(data: bytes) -> tuple[_Page, int] | None:
    """Return a page header and its length; None where the bytes hold none."""
    try:
        fields, length = _struct(data, 0, 0)
        kind, size, packed = (int(fields[number]) for number in (1, 2, 3))
        inner = fields.get({_DATA: 5, _DICTIONARY: 7, _DATA_V2: 8}.get(kind, 0), {})
        encoding = inner.get(4 if kind == _DATA_V2 else 2, _PLAIN)
        page = _Page(kind, size, packed, int(inner.get(1, 0)), int(encoding))
    except (IndexError, KeyError, ValueError, TypeError, AttributeError):
        return None
    return (page, length) if packed >= 0 and size >= 0 else None


def _struct(data: bytes, at: int, depth: int) -> tuple[dict[int, Any], int]:
    """Read a struct of Thrift's compact protocol: fields by number."""
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deep")
    fields: dict[int, Any] = {}
    number = 0
    while (first := data[at]) != 0:
        at += 1
        if first >> 4:
            number += first >> 4
        else:
            number, at = _integer(data, at)
        fields[number], at = _value(data, at, first & 15, depth)
    return fields, at + 1


def _value(data: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in (1, 2):
        return kind == 1, at
    if kind == 3:
        return data[at], at + 1
    if kind in (4, 5, 6):
        return _integer(data, at)
    if kind == 7:
        return None, at + 8
    if kind == 8:
        length, at = _varint(data, at)
        return None, at + length
    if kind == 12:
        return _struct(data, at, depth + 1)
    raise ValueError(f"no type {kind} is in a page header")


def _integer(data: bytes, at: int) -> tuple[int, int]:
    found, at = _varint(data, at)
    return (found >> 1) ^ -(found & 1), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    found = shift = 0
    while True:
        byte = data[at]
        found |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return found, at
        if shift > 63:
            raise ValueError("a number that does not end")
