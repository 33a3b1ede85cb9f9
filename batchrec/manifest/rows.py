"""The rows of one shard, read by a worker with bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batchrec.errors import AccessError, ManifestError
from batchrec.manifest.definition import Columns, Manifest
from batchrec.manifest.embedded import ShardImages
from batchrec.manifest.footers import changed, check_unchanged, tail_sha256
from batchrec.manifest.pages import OversizedText, chunks_of, rows_at_once
from batchrec.records import Shard
from batchrec.spec import ImageLimits, StoreOptions
from batchrec.storage.reading import open_input

# Half a million short URIs: most row groups are then decoded once for all their shards, in whatever
# order they come, and a longer one still costs a worker nothing beside its model.
WINDOW_BYTES = 32 * 2**20
# The rows of one shard: sixteen thousand with URIs as long as any store takes are a quarter of it.
MAX_SHARD_BYTES = 512 * 2**20
_BATCH_ROWS = 8_192
_BUFFER_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one shard, in manifest order.

    Attributes:
        uris: Image URIs; None where the manifest has none. Bytes that are not UTF-8 show as U+FFFD.
        ids: Image ids (string); null where the id column is null.
        passthrough: Carried columns, as many rows as ``uris``.
        images: The images themselves, where the manifest holds them; the URIs are their paths then, or name the row.
    """

    uris: list[str | None]
    ids: pa.Array
    passthrough: pa.Table
    images: ShardImages | None = None


class RowReader:
    """Reads shards of one manifest; fastest in plan order, correct in any.

    Batches of rows are decoded one after another and the latest are kept, up to 32 MiB. So a shard
    next to the last one costs its own rows only, a shard in a row group kept whole costs nothing
    more, and memory does not grow with the row group: a shard far ahead is reached by decoding and
    dropping what lies between, one that was dropped by starting its row group again.
    For one thread at a time.
    """

    def __init__(
        self, manifest: Manifest, options: StoreOptions, *, max_image_bytes: int = ImageLimits().max_bytes
    ) -> None:
        self._manifest = manifest
        self._options, self._max_image_bytes = options, max_image_bytes
        self._file_index: int | None = None
        self._file: _OpenFile | None = None

    def read(self, shard: Shard) -> Rows:
        """Return exactly the rows of a shard.

        Raises:
            ManifestError: The file changed since the job was planned, or is damaged.
            StorageLost: The store does not answer.
        """
        if self._file is None or self._file_index != shard.file:
            self.close()
            self._file = _OpenFile(self._manifest, shard.file, self._options)
            self._file_index = shard.file
        table = self._file.rows(shard.first_row, shard.num_rows)
        rows = _rows(table, self._manifest, shard)
        if self._manifest.columns.images:
            return replace(rows, images=ShardImages(self._manifest, shard, self._options, self._max_image_bytes))
        return rows

    def close(self) -> None:
        """Let go of the open file and of the rows kept."""
        if self._file is not None:
            self._file.close()
        self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __del__(self) -> None:
        # A worker may drop its reader with its stream; the file must not wait for the collector.
        self.close()


class _OpenFile:
    """One manifest file, checked against the plan, with a window over one row group."""

    def __init__(self, manifest: Manifest, index: int, options: StoreOptions) -> None:
        self._planned, self._options = manifest.files[index], options
        self._columns = list(manifest.columns.read_with_rows)
        self._stream = open_input(self._planned.uri, options)
        try:
            metadata = check_unchanged(self._stream, self._planned)
            self._tail_sha256 = tail_sha256(self._stream)
            self._parquet = pq.ParquetFile(self._stream, metadata=metadata, buffer_size=_BUFFER_BYTES, pre_buffer=False)
        except BaseException:
            self._stream.close()
            raise
        groups = (metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
        self._group_rows = list(groups)
        self._chunks = chunks_of(metadata, self._columns)
        self._group: int | None = None
        self._window: _Window | None = None

    def close(self) -> None:
        self._window = None
        self._parquet.close()
        self._stream.close()

    def rows(self, first_row: int, num_rows: int) -> pa.Table:
        """Return a range of rows of the file, across row groups."""
        try:
            table = pa.concat_tables(list(self._pieces(first_row, num_rows)))
        except AccessError:
            # A store refuses to go on with an object that was replaced: then say so.
            with open_input(self._planned.uri, self._options) as now:
                check_unchanged(now, self._planned)
            raise
        except (pa.ArrowException, OSError, OversizedText) as error:
            check_unchanged(self._stream, self._planned)
            raise ManifestError(
                f"rows {first_row} to {first_row + num_rows} of the manifest {self._planned.uri} cannot be decoded",
                found=str(error),
                advice="write the file again and start a new job",
            ) from error
        if tail_sha256(self._stream) != self._tail_sha256:
            raise changed(self._planned, "other bytes at its end than when it was opened")
        return table

    def _pieces(self, first_row: int, num_rows: int) -> Iterator[pa.Table]:
        end, group_first = first_row + num_rows, 0
        for group, rows in enumerate(self._group_rows):
            start, stop = max(first_row, group_first), min(end, group_first + rows)
            if start < stop:
                yield self._in_group(group, start - group_first, stop - start)
            group_first += rows

    def _in_group(self, group: int, first_row: int, num_rows: int) -> pa.Table:
        if self._window is None or self._group != group or first_row < self._window.first_row:
            at_once = rows_at_once(self._stream, self._parquet.metadata.row_group(group), self._chunks, _BATCH_ROWS)
            batches = self._parquet.iter_batches(at_once, row_groups=[group], columns=self._columns, use_threads=False)
            self._window = _Window(batches)
            self._group = group
        try:
            return self._window.take(first_row, num_rows)
        except BaseException:
            self._window = None  # it stands between two batches: the next shard starts the row group again
            raise


class _Window:
    """The latest decoded rows of one row group, moving forward only."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = batches
        self._kept: deque[pa.RecordBatch] = deque()
        self._kept_bytes = 0
        self.first_row = 0
        self._end_row = 0

    def take(self, first_row: int, num_rows: int) -> pa.Table:
        """Return rows of the group, decoding as far as needed; ``first_row`` must not be dropped yet."""
        while self._end_row < first_row + num_rows:
            self._advance(keep_from=first_row)
        pieces, row = [], self.first_row
        for batch in self._kept:
            start, stop = max(first_row, row), min(first_row + num_rows, row + batch.num_rows)
            if start < stop:
                pieces.append(batch.slice(start - row, stop - start))
            row += batch.num_rows
        return pa.Table.from_batches(pieces)

    def _advance(self, keep_from: int) -> None:
        batch = next(self._batches, None)
        if batch is None:
            raise pa.ArrowInvalid(f"the row group ends after {self._end_row} rows")
        batch = _spelt_out(batch)
        self._kept.append(batch)
        self._kept_bytes += batch.nbytes
        self._end_row += batch.num_rows
        if self._kept_bytes > MAX_SHARD_BYTES and self.first_row + self._kept[0].num_rows > keep_from:
            raise OversizedText(f"over {MAX_SHARD_BYTES >> 20} MiB of text in {self._end_row - keep_from} rows")
        while self._kept_bytes > WINDOW_BYTES and self.first_row + self._kept[0].num_rows <= keep_from:
            dropped = self._kept.popleft()
            self._kept_bytes -= dropped.nbytes
            self.first_row += dropped.num_rows


def _spelt_out(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return it without dictionaries: what they hide would become memory after it was counted."""
    kinds = [field.type for field in batch.schema]
    if not any(map(pa.types.is_dictionary, kinds)):
        return batch
    plain = [
        pc.cast(each, kind.value_type) if pa.types.is_dictionary(kind) else each
        for each, kind in zip(batch.columns, kinds, strict=True)
    ]
    return pa.RecordBatch.from_arrays(plain, batch.schema.names)


def _rows(table: pa.Table, manifest: Manifest, shard: Shard) -> Rows:
    columns = manifest.columns
    if columns.images:
        uris = _names_of_images(table, manifest, shard)
    elif len(columns.uri) == 1:
        uris = _texts(table.column(columns.uri[0]))
    else:
        pairs = zip(*(_texts(table.column(name)) for name in columns.uri), strict=True)
        # Amazon encodes keys in CSV inventories only; in Parquet they are as they are.
        uris = [None if bucket is None or key is None else f"s3://{bucket}/{key}" for bucket, key in pairs]
    passthrough = _passthrough(table, columns, shard.num_rows)
    return Rows(uris=uris, ids=_ids(table, columns.id, shard), passthrough=passthrough)


def _names_of_images(table: pa.Table, manifest: Manifest, shard: Shard) -> list[str | None]:
    """Return the paths of images that lie in the manifest; where there is none, the file and row they lie in."""
    file, columns = manifest.files[shard.file].name, manifest.columns
    paths: list[str | None] = [None] * shard.num_rows
    if len(columns.images) > 1:
        paths = _texts(pc.struct_field(table.column(columns.uri[0]), "path"))
    return [path or f"{file}#{row}" for row, path in enumerate(paths, shard.first_row)]


def _passthrough(table: pa.Table, columns: Columns, num_rows: int) -> pa.Table:
    if not columns.passthrough:
        # A table of no columns that still knows how many rows it has.
        return pa.table({"row": pa.nulls(num_rows)}).select([])
    return table.select(list(columns.passthrough)).cast(columns.passthrough_schema)


def _ids(table: pa.Table, column: str | None, shard: Shard) -> pa.Array:
    if column is None:
        positions = range(shard.first_position, shard.first_position + shard.num_rows)
        return pa.array([str(position) for position in positions], pa.string())
    ids = table.column(column)
    plain = pc.cast(ids, ids.type.value_type) if pa.types.is_dictionary(ids.type) else ids
    if pa.types.is_integer(plain.type):
        return pc.cast(plain, pa.string()).combine_chunks()
    return pa.array(_texts(plain), pa.string())


def _texts(column: pa.ChunkedArray) -> list[str | None]:
    plain = pc.cast(column, column.type.value_type) if pa.types.is_dictionary(column.type) else column
    try:
        texts: list[str | None] = plain.to_pylist()
    except UnicodeDecodeError:
        # Parquet writers do not check; one such row must not cost its shard.
        raw = plain.cast(pa.large_binary()).to_pylist()
        texts = [None if each is None else each.decode(errors="replace") for each in raw]
    return texts
