"""A digest of table contents that does not depend on how Arrow or Parquet laid them out."""

from __future__ import annotations

import hashlib
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...


def table_sha256(table: pa.Table, *, leave_out: frozenset[str] = frozenset()) -> str:
    """Hash names, nulls and values of a table, column by column.

    Two tables with equal values give the same digest whatever their chunks, offsets, dictionary
    encoding, string or list layout. Types count only by how their values are stored.

    Args:
        table: Rows to hash, in order.
        leave_out: Columns that do not count.

    Returns:
        The SHA-256 as 64 hexadecimal characters.
    """
    digest = hashlib.sha256(b"%d\0" % table.num_rows)
    for name in table.column_names:
        if name not in leave_out:
            digest.update(name.encode() + b"\0")
            _feed(digest, _one_array(table.column(name)))
    return digest.hexdigest()


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    combined = column.combine_chunks()
    return combined if isinstance(combined, pa.Array) else pa.concat_arrays(combined.chunks)


def _feed(digest: _Hash, array: pa.Array) -> None:
    array = _plain(array)
    kind = array.type
    digest.update(array.is_valid().cast(pa.uint8()).to_numpy(zero_copy_only=False).tobytes())
    if pa.types.is_null(kind):
        return
    if pa.types.is_struct(kind):
        for index in range(kind.num_fields):
            digest.update(kind.field(index).name.encode() + b"\0")
            # StructArray.field ignores the parent's nulls; flatten applies them.
            _feed(digest, array.flatten()[index])
        return
    values = array.drop_null()
    if _is_list(kind):
        _feed(digest, pc.list_value_length(values).cast(pa.int64()))
        _feed(digest, values.flatten())
    elif pa.types.is_map(kind):
        entries = pa.struct([("key", kind.key_type), ("value", kind.item_type)])
        _feed(digest, values.cast(pa.list_(entries)))
    elif pa.types.is_boolean(kind):
        digest.update(values.cast(pa.uint8()).to_numpy(zero_copy_only=False).tobytes())
    elif _is_fixed(kind):
        width = kind.bit_width // 8
        digest.update(values.buffers()[1][values.offset * width : (values.offset + len(values)) * width])
    else:
        _feed_binary(digest, values)


def _plain(array: pa.Array) -> pa.Array:
    """Take off what is only another layout of the same values: extensions, dictionaries and string views."""
    kind = array.type
    if isinstance(array, pa.ExtensionArray):
        return _plain(array.storage)
    if pa.types.is_dictionary(kind):
        return _plain(array.dictionary_decode())
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        return array.cast(pa.large_binary())
    return array


def _is_list(kind: pa.DataType) -> bool:
    plain = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(plain or pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind))


def _is_fixed(kind: pa.DataType) -> bool:
    return bool(pa.types.is_primitive(kind) or pa.types.is_decimal(kind) or pa.types.is_fixed_size_binary(kind))


def _feed_binary(digest: _Hash, values: pa.Array) -> None:
    values = values.cast(pa.large_binary())
    lengths = pc.binary_length(values).cast(pa.int64())
    digest.update(lengths.to_numpy(zero_copy_only=False).tobytes())
    if len(values):
        offsets = memoryview(values.buffers()[1]).cast("q")
        first, last = offsets[values.offset], offsets[values.offset + len(values)]
        if last > first:
            digest.update(values.buffers()[2][first:last])
