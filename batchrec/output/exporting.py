"""The rows of a complete job written again, into few large Parquet files of a folder of their own.

Every row is held against the seal on its way. What stands in the folder counts once ``_SUCCESS`` stands there.
"""

from __future__ import annotations

import io
import json
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchrec.errors import OutputError
from batchrec.output.digest import table_sha256
from batchrec.output.layout import SUCCESS_KEY
from batchrec.output.merging import MergedRows, merged_rows, own_rows, sealed_children
from batchrec.output.parts import FOOTER_KEY, parquet_options, read_footer, rows_per_group
from batchrec.output.reading import Output
from batchrec.output.schema import NOT_IN_DIGEST
from batchrec.storage import Store, create_or_compare, open_store, stands
from batchrec.storage.sweeping import leaving_no_folder
from batchrec.storage.uploading import create_whole

FILE_BYTES = 256 * 2**20
#: Says whose folder it is while there is no ``_SUCCESS`` yet.
EXPORT_KEY = "_batchrec/EXPORT.json"
_FORMAT = 1
_ROWS_PER_GROUP = 65_536
_GROUP_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """One file that was written."""

    name: str
    size: int
    num_rows: int
    num_ok: int
    num_errors: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written.

    Attributes:
        output: The folder, or the one file.
        job_id: Whose rows they are.
        merged: Whether retries count.
        files: In the order of the rows.
        rows_sha256: Digest over the digests of the job's parts; without retries the one ``batchrec verify`` prints.
    """

    output: str
    job_id: str
    merged: bool
    files: tuple[ExportedFile, ...]
    rows_sha256: str

    def to_json(self) -> dict[str, Any]:
        """Return what ``_SUCCESS`` says."""
        errors: Counter[str] = sum((Counter(file.num_errors) for file in self.files), Counter())
        return {
            "format": _FORMAT,
            "job_id": self.job_id,
            "merged": self.merged,
            "num_rows": sum(file.num_rows for file in self.files),
            "num_ok": sum(file.num_ok for file in self.files),
            "num_errors": dict(sorted(errors.items())),
            "rows_sha256": self.rows_sha256,
            "files": [asdict(file) for file in self.files],
        }


def export(output: Output, target: str, *, merged: bool, check: bool = False, file_bytes: int = FILE_BYTES) -> Exported:
    """Write the rows of a complete job, in their order, into a new folder, or into one file.

    Args:
        output: The job.
        target: A folder that holds nothing, or the name of a file, which ends in ``.parquet``.
        merged: Whether rows of its retries take their places.
        check: Read everything back and compare it.
        file_bytes: Size of a file; one ends with the row group that reaches it.

    Raises:
        OutputError: The job is not complete or has other rows than were sealed, or the target holds something.
        StorageLost: The store went away or is full.
    """
    if output.seal is None:
        raise OutputError(
            f"{output.store.url} is not complete", found="no seal", advice="run its own command to the end first"
        )
    if output.parts != [output.layout.part_key(part.shard) for part in output.seal.parts]:
        raise OutputError(
            f"{output.store.url} has lost parts since it was sealed",
            found=f"{len(output.parts):,} of {len(output.seal.parts):,}",
            advice="`batchrec repair` lets the job be finished again",
        )
    merged = merged and bool(sealed_children(output))
    folder, _, name = target.rstrip("/").rpartition("/")
    if name.endswith(".parquet"):
        store = open_store(folder or ("/" if target.startswith("/") else "."), output.options)
        writing = _Writing(output, store, merged, file_bytes, only=name)
    else:
        store = open_store(target, output.options)
        writing = _Writing(output, store, merged, file_bytes)
    output.require_outside(store.url)
    with leaving_no_folder(store):
        return _write(writing, store, output, check=check)


def _write(writing: _Writing, store: Store, output: Output, *, check: bool) -> Exported:
    if writing.only is None:
        _take_folder(store, output)
    elif stands(store, writing.only):
        raise _there_already(store, writing.only)
    written = writing.run()
    if check:
        _check_written(store, written, writing.digests, output.schema.empty_table())
    if writing.only is None:
        create_or_compare(store, SUCCESS_KEY, json.dumps(written.to_json(), indent=1).encode(), same=lambda _: False)
    return written


def _there_already(store: Store, name: str) -> OutputError:
    return OutputError(f"{store.url}/{name} is there already", advice="name a new file or folder")


def _take_folder(store: Store, output: Output) -> None:
    """Make an empty folder ours, so that of two who export into it at once one goes on."""
    if there := store.top():
        raise OutputError(
            f"{store.url} holds other things already",
            found=", ".join(there[:5]),
            advice="name a new folder with -o; what an export left that did not end can be removed",
        )
    claim = {"format": _FORMAT, "job_id": output.job_id, "nonce": uuid.uuid4().hex}
    create_or_compare(store, EXPORT_KEY, json.dumps(claim).encode(), same=lambda _: False)


class _Writing:
    """One pass over the rows of a job.

    Args:
        output: The job.
        store: Where to.
        merged: Whether retries count.
        file_bytes: Size of a file.
        only: Name of the one file, instead of several.
    """

    def __init__(self, output: Output, store: Store, merged: bool, file_bytes: int, only: str | None = None) -> None:
        self._output, self._store, self._merged = output, store, merged
        self._file_bytes, self.only = file_bytes, only
        self._facts = read_footer(output.store, output.parts[0]).facts
        self._schema = output.schema
        self._held: list[pa.Table] = []
        self._sink = io.BytesIO()
        self._writer: pq.ParquetWriter | None = None
        self._counts: Counter[str] = Counter()
        self._files: list[ExportedFile] = []
        self.digests: list[tuple[int, str]] = []

    def run(self) -> Exported:
        """Write every row; return what was written."""
        rows = merged_rows(self._output) if self._merged else own_rows(self._output)
        for part in self._checked(rows):
            self._held.append(part)
            num_rows, num_bytes = sum(each.num_rows for each in self._held), sum(each.nbytes for each in self._held)
            if num_rows >= _ROWS_PER_GROUP or num_bytes >= _GROUP_BYTES:
                self._flush()
        self._flush()
        self._close()
        output = self._store.url if self.only is None else f"{self._store.url}/{self.only}"
        total = table_sha256(pa.table({"digest": pa.array([digest for _, digest in self.digests], pa.string())}))
        return Exported(output, self._output.job_id, self._merged, tuple(self._files), total)

    def _checked(self, parts: Iterable[MergedRows]) -> Iterator[pa.Table]:
        """Hold each part against the seal: one without a row of a retry has to be what was sealed."""
        seal = self._output.seal
        assert seal is not None
        for part, sealed in zip(parts, seal.parts, strict=True):
            digest = table_sha256(part.rows, leave_out=NOT_IN_DIGEST)
            if part.rows.num_rows != sealed.num_rows or (not part.num_replaced and digest != sealed.rows_sha256):
                key = self._output.layout.part_key(sealed.shard)
                raise OutputError(
                    f"{self._output.store.url}/{key} has other rows than were sealed",
                    advice="`batchrec verify` lists all faults, `batchrec repair` lets the job be finished again",
                )
            self.digests.append((part.rows.num_rows, digest))
            yield part.rows

    def _flush(self) -> None:
        if not self._held:
            return
        rows, self._held = pa.concat_tables(self._held), []
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._sink, self._schema, **parquet_options(self._schema))
        self._writer.write_table(rows, row_group_size=rows_per_group(self._schema))
        self._counts["rows"] += rows.num_rows
        self._counts.update(rows["error_code"].drop_null().to_pylist())
        if self._sink.tell() >= self._file_bytes:
            self._close()

    def _close(self) -> None:
        if self._writer is None:
            return
        num_rows = self._counts.pop("rows")
        num_errors = dict(sorted(self._counts.items()))
        num_ok = num_rows - self._counts.total()
        counts = {"num_rows": num_rows, "num_ok": num_ok, "num_errors": num_errors}
        footer = {"job_id": self._output.job_id, "merged": self._merged, **counts, "facts": dict(self._facts)}
        self._writer.add_key_value_metadata({FOOTER_KEY.decode(): json.dumps(footer, sort_keys=True)})
        self._writer.close()
        data = self._sink.getvalue()
        self._sink, self._writer, self._counts = io.BytesIO(), None, Counter()
        name = self._next_name(len(data))
        _put(self._store, name, data, self._output)
        self._files.append(ExportedFile(name, len(data), num_rows, num_ok, num_errors))

    def _next_name(self, size: int) -> str:
        if self.only is None:
            return f"rows-{len(self._files):05d}.parquet"
        if self._files or size >= self._file_bytes:
            raise OutputError(
                f"the rows do not fit into one file of {self._file_bytes / 2**20:.0f} MiB",
                advice="name a folder: a name that does not end in .parquet",
            )
        return self.only


def _put(store: Store, name: str, data: bytes, output: Output) -> None:
    if stands(store, name):
        raise _there_already(store, name)
    create_whole(store, name, data, output.options)


def _check_written(store: Store, written: Exported, digests: list[tuple[int, str]], held: pa.Table) -> None:
    """Read every file back, and compare its rows with the parts they came from; ``held`` is a table of none."""
    batches = _batches_of(store, [file.name for file in written.files])
    for num_rows, digest in digests:
        while held.num_rows < num_rows and (more := next(batches, None)) is not None:
            held = pa.concat_tables([held, more])
        if table_sha256(held.slice(0, num_rows), leave_out=NOT_IN_DIGEST) != digest:
            raise OutputError(f"{store.url} was not read back as it was written", advice="write it again elsewhere")
        held = held.slice(num_rows)


def _batches_of(store: Store, names: list[str]) -> Iterator[pa.Table]:
    for name in names:
        with store.open(name) as stream:
            file = pq.ParquetFile(pa.PythonFile(stream, mode="r"))
            for batch in file.iter_batches(use_threads=False):
                yield pa.Table.from_batches([batch]).replace_schema_metadata(None)
