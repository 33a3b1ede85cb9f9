"""A job and its retries as one: the rows of the parent, with those replaced that a retry did again.

Parent and children are read side by side, both in the order of the parent's rows, so that memory holds a few parts
whatever the size of the job. Only rows that failed are ever replaced, by the newest row there is of them, and a
prediction is not replaced by a later error.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchrec.errors import OutputError
from batchrec.output.children import Child, children_of
from batchrec.output.reading import Output
from batchrec.output.schema import EMBEDDING, ERROR, FIELDS
from batchrec.output.tables import read_table
from batchrec.storage import KeyMissing

#: What the manifest says of a row; the rest of a prediction is what was found, and comes from the newest.
_FROM_MANIFEST = ("image_id", "uri", "row")
_FOUND = (*(field.name for field in FIELDS if field.name not in _FROM_MANIFEST), EMBEDDING)
_ROWS_AT_ONCE = 65_536


@dataclass(frozen=True, slots=True)
class MergedRows:
    """Some rows of a merged view.

    Attributes:
        rows: In the order of the manifest.
        num_replaced: How many of them come from a retry.
    """

    rows: pa.Table
    num_replaced: int


class MergedPredictions:
    """The predictions of a job and its retries, read as a stream; see :meth:`OpenedOutput.predictions`.

    It has what most readers use of pyarrow's ``Dataset`` (``schema``, ``to_batches``, ``to_table``, ``count_rows``,
    ``head``), and DuckDB, Polars and pandas take it as it is, through Arrow's C stream. Every call reads anew; rows
    come in the order of the manifest, and ``to_batches`` and ``reader`` hold a few parts of them at once.
    """

    def __init__(self, output: Output) -> None:
        self._output = output

    @property
    def schema(self) -> pa.Schema:
        """Columns, as the parent's own predictions have them."""
        return self._output.schema

    def reader(self, columns: Sequence[str] | None = None) -> pa.RecordBatchReader:
        """Return a reader of the rows; only the columns that are named are read."""
        names = self.schema.names if columns is None else list(columns)
        schema = pa.schema([self.schema.field(name) for name in names])
        return pa.RecordBatchReader.from_batches(schema, self._batches(names))

    def to_batches(
        self,
        columns: Sequence[str] | None = None,
        filter: pc.Expression | None = None,  # noqa: A002  pyarrow's name for it
        batch_size: int | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows, those alone that a filter lets through, no more than ``batch_size`` at once."""
        for batch in self.reader(columns if filter is None else None):
            rows = pa.Table.from_batches([batch])
            if filter is not None:
                rows = rows.filter(filter)
                rows = rows if columns is None else rows.select(list(columns))
            yield from rows.to_batches(max_chunksize=batch_size)

    def to_table(
        self,
        columns: Sequence[str] | None = None,
        filter: pc.Expression | None = None,  # noqa: A002
        batch_size: int | None = None,
    ) -> pa.Table:
        """Return the rows in memory."""
        names = self.schema.names if columns is None else list(columns)
        schema = pa.schema([self.schema.field(name) for name in names])
        return pa.Table.from_batches(self.to_batches(columns, filter, batch_size), schema)

    def count_rows(self, filter: pc.Expression | None = None) -> int:  # noqa: A002
        """Count the rows, those alone that a filter lets through."""
        columns = ["row"] if filter is None else None
        return sum(batch.num_rows for batch in self.to_batches(columns, filter))

    def head(
        self,
        num_rows: int,
        columns: Sequence[str] | None = None,
        filter: pc.Expression | None = None,  # noqa: A002
    ) -> pa.Table:
        """Return the first rows, of those that a filter lets through."""
        batches, found = [], 0
        for batch in self.to_batches(columns, filter):
            batches.append(batch)
            if (found := found + batch.num_rows) >= num_rows:
                break
        names = self.schema.names if columns is None else list(columns)
        schema = pa.schema([self.schema.field(name) for name in names])
        return pa.Table.from_batches(batches, schema).slice(0, num_rows)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.reader().__arrow_c_stream__(requested_schema)

    def _batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        for merged in merged_rows(self._output, names):
            yield from merged.rows.to_batches()


def sealed_children(output: Output, *, depth: int = 0) -> list[Child]:
    """Return the retries whose rows count; none for a job that is not sealed itself."""
    children = children_of(output, depth=depth)
    return [child for child in children if child.sealed] if children and output.seal is not None else []


def own_rows(output: Output, columns: Sequence[str] | None = None) -> Iterator[MergedRows]:
    """Yield the rows of a job's own parts, one part at a time."""
    for key in output.parts:
        with output.store.open(key) as stream:
            yield MergedRows(read_table(stream, columns).replace_schema_metadata(None), 0)


def merged_rows(output: Output, columns: Sequence[str] | None = None, *, depth: int = 0) -> Iterator[MergedRows]:
    """Yield the rows of a job, with those of its retries in their places, one of its parts at a time.

    Raises:
        OutputError: A retry cannot be read, or does not fit its parent.
    """
    children = sealed_children(output, depth=depth)
    if not children:
        yield from own_rows(output, columns)
        return
    read = None if columns is None else list(dict.fromkeys([*columns, "row", "status"]))
    tables = (own.rows for own in own_rows(output, read))
    for merged in _overlaid(tables, children, read, depth):
        yield merged if columns is None else MergedRows(merged.rows.select(list(columns)), merged.num_replaced)


def merged_errors(output: Output, errors: pa.Table) -> pa.Table:
    """Return those of a job's failed rows that no retry has recognised, each with the newest error.

    Args:
        output: A sealed job.
        errors: Its own failed rows, in order.
    """
    children = sealed_children(output)
    if not children:
        return errors
    failed = pa.repeat(pa.scalar(ERROR), errors.num_rows)
    rows = errors.append_column("status", failed)
    tables = (rows.slice(start, _ROWS_AT_ONCE) for start in range(0, rows.num_rows, _ROWS_AT_ONCE))
    left = [
        merged.rows.filter(pc.equal(merged.rows["status"], ERROR))
        for merged in _overlaid(tables, children, rows.column_names, 0)
    ]
    return pa.concat_tables([rows.schema.empty_table(), *left]).drop_columns(["status"]).combine_chunks()


def _overlaid(
    tables: Iterable[pa.Table], children: Sequence[Child], columns: Sequence[str] | None, depth: int
) -> Iterator[MergedRows]:
    newer = [_Newer(child, columns, depth + 1) for child in children]
    for table in tables:
        num_replaced = 0
        for rows in newer:
            if table.num_rows and (found := rows.through(table["row"][-1].as_py())) is not None:
                table, replaced = _overlay(table, found, rows.parent_row)
                num_replaced += replaced
        yield MergedRows(table, num_replaced)


def _overlay(table: pa.Table, newer: pa.Table, parent_row: str) -> tuple[pa.Table, int]:
    """Return a table with the failed rows replaced of which there are newer ones, and their number."""
    rows = table["row"].to_numpy()
    wanted = newer[parent_row].to_numpy()
    at = np.searchsorted(rows, wanted)
    failed = pc.equal(table["status"], ERROR).to_numpy()
    takes = (at < len(rows)) & (rows[np.minimum(at, len(rows) - 1)] == wanted)
    takes[takes] = failed[at[takes]]
    if not takes.any():
        return table, 0
    sources = np.arange(len(rows))
    sources[at[takes]] = len(rows) + np.flatnonzero(takes)
    columns = [
        _replaced(table[name], newer[name], sources) if name in _FOUND else table[name] for name in table.column_names
    ]
    return pa.Table.from_arrays(columns, schema=table.schema), int(takes.sum())


def _replaced(own: pa.ChunkedArray, newer: pa.ChunkedArray, sources: np.ndarray) -> pa.ChunkedArray:
    both = pa.chunked_array([*own.chunks, *newer.cast(own.type).chunks], own.type)
    return both.take(pa.array(sources))


class _DamagedRetry(OutputError):
    """A retry that counts cannot be read."""


@contextmanager
def _naming(url: str) -> Iterator[None]:
    """Say of which retry it is that something cannot be read."""
    try:
        yield
    except _DamagedRetry:
        raise  # a retry of this one
    except (OutputError, KeyMissing, pa.ArrowException) as error:
        raise _DamagedRetry(
            f"the retry {url} is damaged",
            found=str(error).split("\n")[0],
            advice=f"`batchrec repair {shlex.quote(url)}`, then its own `batchrec retry` again",
        ) from error


class _Newer:
    """The merged rows of one retry, drawn as far as its parent's rows have come."""

    def __init__(self, child: Child, columns: Sequence[str] | None, depth: int) -> None:
        assert child.output is not None
        assert child.origin is not None
        self.parent_row = child.origin.parent_row
        self._url = child.output.store.url
        found = _FOUND if columns is None else [name for name in columns if name in _FOUND]
        with _naming(self._url):
            known = child.output.schema.names
        wanted = [*(name for name in found if name in known), self.parent_row]
        self._tables = (merged.rows for merged in merged_rows(child.output, wanted, depth=depth))
        self._held: pa.Table | None = None
        self._last = -1

    def through(self, row: int) -> pa.Table | None:
        """Return its rows up to one of the parent's that were not returned before; None where there are none."""
        taken = []
        while (table := self._held if self._held is not None else self._next()) is not None:
            upto = int(np.searchsorted(table[self.parent_row].to_numpy(), row, side="right"))
            self._held = table.slice(upto) if upto < table.num_rows else None
            if upto:
                taken.append(table.slice(0, upto))
            if self._held is not None:
                break
        return pa.concat_tables(taken) if taken else None

    def _next(self) -> pa.Table | None:
        with _naming(self._url):
            table = next(self._tables, None)
        if table is None:
            return None
        rows = np.concatenate([[self._last], table[self.parent_row].to_numpy()])
        if not (np.diff(rows) > 0).all():
            raise OutputError(
                f"{self._url} is not the retry it says it is",
                found=f"its column {self.parent_row} does not rise from row to row",
                advice=f"`batchrec verify {self._url}` says what else is wrong",
            )
        self._last = int(rows[-1])
        return table
