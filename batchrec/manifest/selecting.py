"""Some rows of a manifest, as a manifest of their own: what a retry runs on."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from batchrec.errors import ManifestError
from batchrec.manifest.columns import OUTPUT_NAMES
from batchrec.manifest.definition import Manifest, ManifestFile
from batchrec.manifest.footers import read_footer
from batchrec.manifest.pages import OversizedText, chunks_of, rows_at_once
from batchrec.spec import StoreOptions
from batchrec.storage.reading import open_input

#: A file of a selection is written whole from memory.
MAX_FILE_BYTES = 32 * 2**20
_ROWS_PER_GROUP = 16_384
_BATCH_ROWS = 8_192

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SelectedFile:
    """One Parquet file of a selection.

    Attributes:
        data: Its bytes.
        num_rows: Its rows.
        footer_sha256: Hex digest of its raw footer.
    """

    data: bytes
    num_rows: int
    footer_sha256: str


def position_column(columns: Sequence[str]) -> str:
    """Return a name for the column of positions that no column of the manifest has."""
    taken = {name.casefold() for name in columns} | OUTPUT_NAMES
    name = "parent_row"
    while name in taken:
        name += "_"
    return name


def select_rows(
    manifest: Manifest, positions: Int64s, columns: Sequence[str], position_name: str, options: StoreOptions
) -> Iterator[SelectedFile]:
    """Yield files that hold some rows of a manifest, in order, each with its position in the whole.

    Row groups without such a row are not read. Files of different types do not share one.

    Args:
        manifest: Where the rows are.
        positions: Which, rising.
        columns: What is kept of them.
        position_name: Name of the column of positions.
        options: How to reach the manifest.

    Raises:
        ManifestError: A file changed since it was opened, or cannot be decoded.
    """
    writer = _Writer()
    position = pa.field(position_name, pa.int64(), nullable=False)
    first = 0
    for file in manifest.files:
        wanted = _between(positions, first, first + file.num_rows) - first
        for rows, at in _rows_of(file, wanted, columns, options) if len(wanted) else ():
            yield from writer.add(rows.append_column(position, pa.array(at + first)))
        first += file.num_rows
    yield from writer.close()


def _between(sorted_rows: Int64s, first: int, end: int) -> Int64s:
    return sorted_rows[np.searchsorted(sorted_rows, first) : np.searchsorted(sorted_rows, end)]


def _rows_of(
    file: ManifestFile, wanted: Int64s, columns: Sequence[str], options: StoreOptions
) -> Iterator[tuple[pa.Table, Int64s]]:
    """Yield the wanted rows of one file with their positions in it."""
    with open_input(file.uri, options) as stream:
        footer = read_footer(stream, file.uri)
        if (footer.size, footer.sha256) != (file.size, file.footer_sha256):
            raise ManifestError(f"the manifest {file.uri} is being rewritten", advice="run again when it is at rest")
        parquet = pq.ParquetFile(stream, metadata=footer.metadata, pre_buffer=False)
        chunks = chunks_of(footer.metadata, columns)
        first = 0
        for group in range(footer.metadata.num_row_groups):
            end = first + footer.metadata.row_group(group).num_rows
            if len(here := _between(wanted, first, end)):
                try:
                    at_once = rows_at_once(stream, footer.metadata.row_group(group), chunks, _BATCH_ROWS)
                    for rows, at in _rows_of_group(parquet, group, here - first, columns, at_once):
                        yield rows, at + first
                except (pa.ArrowException, OSError, OversizedText) as error:
                    raise ManifestError(
                        f"the manifest {file.uri} cannot be decoded",
                        found=str(error).split("\n")[0],
                        advice="bring it back from a copy",
                    ) from error
            first = end


def _rows_of_group(
    parquet: pq.ParquetFile, group: int, wanted: Int64s, columns: Sequence[str], at_once: int
) -> Iterator[tuple[pa.Table, Int64s]]:
    first = 0
    for batch in parquet.iter_batches(at_once, row_groups=[group], columns=list(columns), use_threads=False):
        if len(here := _between(wanted, first, first + batch.num_rows)):
            rows = pa.Table.from_batches([batch]).select(list(columns)).replace_schema_metadata(None)
            yield rows.take(pa.array(here - first)), here
        first += batch.num_rows


@dataclass(slots=True)
class _Writer:
    """Collects rows into row groups and row groups into files."""

    _held: list[pa.Table] = field(default_factory=list)
    _num_held: int = 0
    _held_bytes: int = 0
    _sink: io.BytesIO = field(default_factory=io.BytesIO)
    _writer: pq.ParquetWriter | None = None
    _schema: pa.Schema | None = None

    def add(self, rows: pa.Table) -> Iterator[SelectedFile]:
        """Take some rows; yield the file before, where they begin a new one."""
        if rows.schema != self._schema:
            yield from self.close()
            self._schema = rows.schema
        self._held.append(rows)
        self._num_held += rows.num_rows
        self._held_bytes += rows.nbytes
        if self._num_held >= _ROWS_PER_GROUP or self._held_bytes >= MAX_FILE_BYTES:
            self._flush()
            if self._sink.tell() >= MAX_FILE_BYTES:
                yield from self.close()

    def close(self) -> Iterator[SelectedFile]:
        """Yield the last file, if there are rows for it."""
        self._flush()
        if self._writer is None:
            return
        self._writer.close()
        footer = read_footer(io.BytesIO(data := self._sink.getvalue()), "the rows to retry")
        self._writer, self._sink = None, io.BytesIO()
        yield SelectedFile(data, footer.num_rows, footer.sha256)

    def _flush(self) -> None:
        if self._held:
            rows = pa.concat_tables(self._held)
            if self._writer is None:
                self._writer = pq.ParquetWriter(self._sink, rows.schema, compression="zstd")
            self._writer.write_table(rows)
            self._held, self._num_held, self._held_bytes = [], 0, 0
