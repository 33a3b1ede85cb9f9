"""Images that lie in the manifest itself: a column of bytes, or of bytes and path as Hugging Face writes."""

from __future__ import annotations

import threading
from collections.abc import Generator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batchrec.errors import ErrorCode, ImageError, ManifestError
from batchrec.manifest.definition import Manifest
from batchrec.manifest.footers import check_unchanged
from batchrec.manifest.pages import OversizedText, chunks_of, rows_at_once
from batchrec.records import Shard
from batchrec.spec import StoreOptions
from batchrec.storage import Reserve
from batchrec.storage.reading import open_input

#: Images are decoded from Parquet so many bytes at a time, by the mean of their row group; one at least.
BATCH_BYTES = 8 * 2**20
_BUFFER_BYTES = 2**20


class ShardImages:
    """The images of one shard, each read once, about in order. Safe to use from many threads.

    Beside the images that wait to be decoded, it holds a page of Parquet, which writers make as long as their row
    group or 1,024 images, and each batch until the last of its images is taken. A row group is read from its
    beginning to the shard's last row. The file is opened for the first image and closed with the last.

    Args:
        manifest: Where the images are.
        shard: Which rows.
        options: How to reach the manifest.
        max_bytes: Larger images are refused.
    """

    def __init__(self, manifest: Manifest, shard: Shard, options: StoreOptions, max_bytes: int) -> None:
        self._planned, self._parts = manifest.files[shard.file], manifest.columns.images
        self._first_row, self._end_row = shard.first_row, shard.first_row + shard.num_rows
        self._options, self._max_bytes = options, max_bytes
        self._lock = threading.Lock()
        self._batches = self._read_batches()
        self._held: dict[int, tuple[Any, bool]] = {}
        self._next_row = self._first_row
        self._fault: Exception | None = None

    def read(self, row: int, reserve: Reserve) -> bytes | None:
        """Return the bytes of a row of the shard once there is room for them; None where only its path is there.

        Raises:
            ImageError: The row holds neither bytes nor a path, or none at all, or too many.
            ManifestError: The manifest changed since the job was planned, or is damaged.
        """
        value, has_path = self._take(self._first_row + row)
        if not value.is_valid:
            if has_path:
                return None
            raise ImageError(ErrorCode.URI_MISSING, "the row holds neither an image nor its path")
        data = value.as_buffer()
        if data.size > self._max_bytes:
            raise ImageError(ErrorCode.TOO_MANY_BYTES, f"{data.size} bytes, limit {self._max_bytes}")
        if not data.size:
            raise ImageError(ErrorCode.EMPTY)
        reserve(data.size, None)
        return bytes(data)

    def _take(self, row: int) -> tuple[Any, bool]:
        with self._lock:
            while row >= self._next_row:
                self._advance_unless_broken()
            return self._held.pop(row)

    def _advance_unless_broken(self) -> None:
        if self._fault is not None:
            raise self._fault  # the batches ended with it: another fault would be a wrong one
        try:
            self._advance()
        except Exception as fault:
            self._fault = fault
            raise

    def _advance(self) -> None:
        try:
            if (found := next(self._batches, None)) is None:
                raise pa.ArrowInvalid("the file ends before it")
        except (pa.ArrowException, OSError, OversizedText) as error:
            raise ManifestError(
                f"images of the manifest {self._planned.uri} cannot be read from row {self._next_row} on",
                found=str(error).split("\n")[0],
                advice="write the file again, in row groups of about 100 images, and start a new job",
            ) from error
        first, batch = found
        values, have_paths = self._parts_of(batch.column(0))
        self._next_row = first + len(values)
        for row in range(max(self._first_row, first), min(self._end_row, self._next_row)):
            self._held[row] = values[row - first], have_paths[row - first]
        if self._next_row >= self._end_row:
            self._batches.close()

    def _parts_of(self, column: pa.Array) -> tuple[pa.Array, list[bool]]:
        """Return the bytes of each row, and whether it has a path."""
        values = pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column
        if len(self._parts) < 2:
            return values, [False] * len(values)
        paths = pc.struct_field(column, "path")
        plain = pc.cast(paths, paths.type.value_type) if pa.types.is_dictionary(paths.type) else paths
        lengths = pc.binary_length(pc.cast(plain, pa.large_binary()))  # has no kernel for views, nor checks texts
        return values, pc.fill_null(pc.greater(lengths, 0), False).to_pylist()

    def _read_batches(self) -> Generator[tuple[int, pa.RecordBatch], None, None]:
        """Yield batches from the one with the shard's first row to that with its last, each with its first row."""
        with open_input(self._planned.uri, self._options) as stream:
            metadata, first = check_unchanged(stream, self._planned), 0
            file = pq.ParquetFile(stream, metadata=metadata, buffer_size=_BUFFER_BYTES, pre_buffer=False)
            chunks = chunks_of(metadata, self._parts)
            for number in range(metadata.num_row_groups):
                group = metadata.row_group(number)
                if first < self._end_row and first + group.num_rows > self._first_row:
                    at_once = rows_at_once(stream, group, chunks, _rows_for(group, chunks))
                    yield from self._in_group(file, number, first, at_once)
                first += group.num_rows

    def _in_group(
        self, file: pq.ParquetFile, number: int, row: int, at_once: int
    ) -> Generator[tuple[int, pa.RecordBatch], None, None]:
        names = list(self._parts)
        for batch in file.iter_batches(at_once, row_groups=[number], columns=names, use_threads=False):
            if row < self._end_row and row + batch.num_rows > self._first_row:
                yield row, batch
            row += batch.num_rows


def _rows_for(group: pq.RowGroupMetaData, chunks: tuple[int, ...]) -> int:
    num_bytes: int = sum(group.column(index).total_uncompressed_size for index in chunks)
    num_rows: int = group.num_rows
    return max(1, min(num_rows, BATCH_BYTES * num_rows // max(1, num_bytes)))
