"""Rows to shards: pure arithmetic, no file is opened."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from batchrec.errors import OutputError
from batchrec.records import Shard

SHARDS_WANTED = 2_000
MIN_ROWS_PER_SHARD = 256
MAX_ROWS_PER_SHARD = 16_384

Int64s = npt.NDArray[np.int64]

_COLUMNS = ("index", "file", "first_row", "num_rows", "first_position")
_ROWS_PER_SHARD_KEY = b"batchrec.rows_per_shard"


def rows_per_shard(num_rows: int) -> int:
    """Return the rows of one shard for a manifest of this size.

    The smallest power of two that makes at most 2,000 shards, kept from 256 (so that a part is
    worth an object) to 16,384 (so that an attempt is lost in minutes, not hours).
    """
    wanted = -(-max(num_rows, 1) // SHARDS_WANTED)
    power_of_two = 1 << (wanted - 1).bit_length()
    return min(max(power_of_two, MIN_ROWS_PER_SHARD), MAX_ROWS_PER_SHARD)


def plan_shards(rows_by_file: Sequence[int], rows_per_shard: int, limit: int | None) -> Plan:
    """Cut files into shards: every row once, in order, none across two files.

    Args:
        rows_by_file: Rows of each manifest file; may be 0.
        rows_per_shard: Rows of a full shard; the last one of a file may be shorter.
        limit: Only the first rows of the whole manifest.
    """
    if rows_per_shard < 1:
        raise ValueError(f"rows_per_shard is {rows_per_shard}, must be at least 1")
    taken = _taken(np.asarray(rows_by_file, dtype=np.int64), limit)
    shards_by_file = -(-taken // rows_per_shard)
    file = np.repeat(np.arange(len(taken), dtype=np.int64), shards_by_file)
    within = np.arange(len(file), dtype=np.int64) - np.repeat(_starts(shards_by_file), shards_by_file)
    first_row = within * rows_per_shard
    num_rows = np.minimum(taken[file] - first_row, rows_per_shard)
    return Plan(file=file, first_row=first_row, num_rows=num_rows, rows_per_shard=rows_per_shard)


def _taken(rows: Int64s, limit: int | None) -> Int64s:
    if limit is None:
        return rows
    return np.clip(limit - _starts(rows), 0, rows)


def _starts(counts: Int64s) -> Int64s:
    return np.cumsum(counts) - counts


class Plan:
    """All shards of a job, in manifest order, held as arrays (32 bytes a shard).

    Two plans are equal when they cut the same rows at the same places.

    Attributes:
        rows_per_shard: Rows of a full shard.
        num_rows: Rows of all shards.
    """

    __slots__ = ("_file", "_first_position", "_first_row", "_num_rows", "num_rows", "rows_per_shard")

    def __init__(
        self,
        *,
        file: Int64s,
        first_row: Int64s,
        num_rows: Int64s,
        rows_per_shard: int,
    ) -> None:
        self._file = file
        self._first_row = first_row
        self._num_rows = num_rows
        self._first_position = _starts(num_rows)
        self.rows_per_shard = rows_per_shard
        self.num_rows = int(num_rows.sum())

    def __len__(self) -> int:
        return len(self._file)

    def __getitem__(self, index: int) -> Shard:
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"shard {index} of {len(self)}")
        return Shard(
            index=int(position),
            file=int(self._file[position]),
            first_row=int(self._first_row[position]),
            num_rows=int(self._num_rows[position]),
            first_position=int(self._first_position[position]),
        )

    def __iter__(self) -> Iterator[Shard]:
        return (self[i] for i in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Plan):
            return NotImplemented
        return (
            np.array_equal(self._file, other._file)
            and np.array_equal(self._first_row, other._first_row)
            and np.array_equal(self._num_rows, other._num_rows)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Plan({len(self)} shards, {self.num_rows} rows, {self.rows_per_shard} rows per shard)"

    def cuts_rows_of(self, other: Plan) -> bool:
        """Whether both cut the same rows of the same files, wherever they cut them."""
        ours, theirs = self._rows_by_file(), other._rows_by_file()
        return np.array_equal(ours, theirs)

    def _rows_by_file(self) -> Int64s:
        """Rows of each file that has any, as pairs; a plan never leaves some of a file's first rows out."""
        files, starts = np.unique(self._file, return_index=True)
        rows = np.add.reduceat(self._num_rows, starts) if len(files) else self._num_rows
        return np.stack((files, rows))

    def to_parquet(self) -> bytes:
        """Return the plan as the bytes of a Parquet file, one row a shard."""
        arrays = (np.arange(len(self)), self._file, self._first_row, self._num_rows, self._first_position)
        table = pa.table(dict(zip(_COLUMNS, (pa.array(a, pa.int64()) for a in arrays), strict=True)))
        sink = pa.BufferOutputStream()
        metadata = {_ROWS_PER_SHARD_KEY: str(self.rows_per_shard).encode()}
        pq.write_table(table.replace_schema_metadata(metadata), sink, compression="zstd")
        return bytes(sink.getvalue())

    @classmethod
    def from_parquet(cls, data: bytes) -> Self:
        """Read what :meth:`to_parquet` wrote.

        Raises:
            OutputError: The bytes are not a plan, or one that loses or repeats rows.
        """
        try:
            # Not pq.read_table, which starts threads: see docs/decisions/0006-one-thread-for-our-tables.md.
            table = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False).read(list(_COLUMNS), use_threads=False)
            index, file, first_row, num_rows, first_position = (
                np.asarray(table.column(name).to_numpy(), dtype=np.int64) for name in _COLUMNS
            )
            per_shard = int((table.schema.metadata or {})[_ROWS_PER_SHARD_KEY])
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            raise _damaged(str(error)) from error
        plan = cls(file=file, first_row=first_row, num_rows=num_rows, rows_per_shard=per_shard)
        if fault := _fault(plan, index, first_position):
            raise _damaged(fault)
        return plan


def _fault(plan: Plan, index: Int64s, first_position: Int64s) -> str:
    if not np.array_equal(index, np.arange(len(plan))):
        return "shards are not numbered 0, 1, 2, ..."
    if (plan._num_rows < 1).any():
        return "a shard has no rows"
    if not np.array_equal(first_position, plan._first_position):
        return "positions leave a gap or overlap"
    step = np.diff(plan._file)
    ends = (plan._first_row + plan._num_rows)[:-1]
    follows = np.where(step == 0, plan._first_row[1:] == ends, (step > 0) & (plan._first_row[1:] == 0))
    begins = len(plan) == 0 or plan._first_row[0] == 0
    return "" if begins and follows.all() else "rows of a file leave a gap or overlap"


def _damaged(found: str) -> OutputError:
    return OutputError(
        "the plan kept in the output folder cannot be used",
        found=found.split("\n")[0][:120],
        advice="it was damaged after it was written: `batchrec repair` moves it away",
    )
