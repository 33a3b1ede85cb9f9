"""Sealing: every part counted from its own footer, written down once, and only then ``_SUCCESS``."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batchrec.errors import OutputError, StorageLost
from batchrec.output.digest import table_sha256
from batchrec.output.layout import PREDICTIONS_PREFIX, SUCCESS_KEY, Layout
from batchrec.output.parts import UnreadablePart, read_footer_and_size
from batchrec.output.schema import ERROR, errors_schema
from batchrec.output.tables import read_table
from batchrec.records import Shard
from batchrec.storage import KeyMissing, Store, create_or_compare
from batchrec.storage.json_objects import parse_json

_FORMAT = 1
_READERS = 16
_SHARDS_PER_RUN = 8


@dataclass(frozen=True, slots=True)
class SealedPart:
    """One part as the seal has it."""

    shard: int
    size: int
    attempt_id: str
    num_rows: int
    num_ok: int
    num_errors: Mapping[str, int]
    rows_sha256: str


@dataclass(frozen=True, slots=True)
class Seal:
    """All parts of a complete job."""

    job_id: str
    parts: tuple[SealedPart, ...]

    @property
    def num_rows(self) -> int:
        """Rows of the job."""
        return sum(part.num_rows for part in self.parts)

    @property
    def num_ok(self) -> int:
        """Rows with a prediction."""
        return sum(part.num_ok for part in self.parts)

    @property
    def num_errors(self) -> Counter[str]:
        """Rows without one, by code."""
        total: Counter[str] = Counter()
        for part in self.parts:
            total.update(part.num_errors)
        return total

    @property
    def failure_rate(self) -> float:
        """Share of the rows without a prediction."""
        return (self.num_rows - self.num_ok) / self.num_rows if self.num_rows else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the seal as plain JSON values."""
        names = [each.name for each in fields(SealedPart)]
        return {**self.totals(), "parts": [{name: getattr(part, name) for name in names} for part in self.parts]}

    def totals(self) -> dict[str, Any]:
        """Return what ``_SUCCESS`` says: the job and its counts."""
        return {
            "format": _FORMAT,
            "job_id": self.job_id,
            "num_rows": self.num_rows,
            "num_ok": self.num_ok,
            "num_errors": dict(sorted(self.num_errors.items())),
        }

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Seal:
        """Return the seal that :meth:`to_json` wrote; fields this version does not know are left out.

        Raises:
            OutputError: It is no seal, or its totals are not the sums of its parts.
        """
        known = [each.name for each in fields(SealedPart)]
        try:
            parts = tuple(SealedPart(**{name: part[name] for name in known}) for part in plain["parts"])
            found = cls(str(plain["job_id"]), parts)
            totals = found.totals()
            sound = totals == {name: plain[name] for name in totals}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise _bad_seal(f"{type(error).__name__}: {error}") from error
        if not sound:
            raise _bad_seal("totals that are not the sums of the parts")
        return found


def standing_parts(store: Store, layout: Layout, num_shards: int) -> dict[int, int]:
    """List the parts that stand: their sizes in bytes by shard. Foreign names are left out."""
    found = ((layout.shard_of(info.key), info.size) for info in store.list(layout.parts_prefix))
    return {shard: size for shard, size in found if shard is not None and shard < num_shards}


def foreign_names(store: Store, layout: Layout, num_shards: int) -> list[str]:
    """List what lies among the predictions and is no part of this job."""
    names = (info.key for info in store.list(PREDICTIONS_PREFIX))
    return [name for name in names if (shard := layout.shard_of(name)) is None or shard >= num_shards]


def seal(store: Store, layout: Layout, plan: Sequence[Shard], manifest_files: Sequence[str]) -> Seal:
    """Read every footer, write the seal and the errors, and mark the output complete.

    Args:
        store: The output folder.
        layout: Its keys.
        plan: The job's shards.
        manifest_files: Names of the manifest's files, for the pointers of failed rows.

    Raises:
        OutputError: A part is unreadable, another job's or not as planned; or other parts were sealed before.
        StorageLost: A part is missing; the same command does its shard anew.
    """
    try:
        sealed = Seal(layout.job_id, tuple(_read_parts(store, layout, plan)))
        _create_json(store, layout.seal_key, sealed.to_json())
        _create_errors(store, layout, sealed, plan, manifest_files)
    except KeyMissing as error:
        raise StorageLost(
            "a part was taken away while the output was being sealed",
            found=str(error),
            advice="run the same command again: only its shard is done anew",
        ) from error
    _create_json(store, SUCCESS_KEY, sealed.totals())
    return sealed


def read_seal(store: Store, layout: Layout) -> Seal | None:
    """Return the seal of a complete output; None while ``_SUCCESS`` or the seal is not there.

    Raises:
        OutputError: What stands there is no seal of this job.
    """
    try:
        store.info(SUCCESS_KEY)
        sealed = Seal.from_json(parse_json(store.read(layout.seal_key)))
    except KeyMissing:
        return None
    except ValueError as error:
        raise _bad_seal(str(error)) from error
    if sealed.job_id != layout.job_id:
        raise _bad_seal(f"job {sealed.job_id[:12]}")
    return sealed


def _read_parts(store: Store, layout: Layout, plan: Sequence[Shard]) -> Iterator[SealedPart]:
    standing = standing_parts(store, layout, len(plan))
    missing = [index for index in range(len(plan)) if index not in standing]
    if missing:
        raise StorageLost(
            f"{len(missing)} of {len(plan)} parts are missing",
            found=f"the first is {layout.part_key(missing[0])}",
            advice="run the same command again: only their shards are done anew",
        )
    with ThreadPoolExecutor(_READERS) as threads:
        for sealed in threads.map(lambda run: [_sealed_part(store, layout, shard) for shard in run], _runs(plan)):
            yield from sealed


def _runs(shards: Sequence[Shard]) -> list[Sequence[Shard]]:
    """Cut shards into what one thread does at a time: a future for each would take more memory than its result."""
    return [shards[first : first + _SHARDS_PER_RUN] for first in range(0, len(shards), _SHARDS_PER_RUN)]


def _sealed_part(store: Store, layout: Layout, shard: Shard) -> SealedPart:
    key = layout.part_key(shard.index)
    try:
        footer, size = read_footer_and_size(store, key)
    except UnreadablePart as error:
        raise _bad_part(store, key, str(error)) from error
    if (footer.job_id, footer.shard) != (layout.job_id, shard.index):
        raise _bad_part(store, key, f"shard {footer.shard} of job {footer.job_id[:12]}")
    if footer.num_rows != shard.num_rows or footer.num_ok + sum(footer.num_errors.values()) != shard.num_rows:
        raise _bad_part(store, key, f"{footer.num_rows} rows where the plan has {shard.num_rows}")
    # The size is that of the object whose footer was read: between listing and reading one may have been
    # moved away and its shard done anew.
    counts = footer.num_rows, footer.num_ok, footer.num_errors
    return SealedPart(shard.index, size, footer.attempt_id, *counts, footer.rows_sha256)


def _bad_part(store: Store, key: str, found: str) -> OutputError:
    return OutputError(
        f"{store.url}/{key} is not the part this job wrote there",
        found=found,
        advice=f"`batchrec repair {store.url}` moves it away; then the same command does only its shard anew",
    )


def _bad_seal(found: str) -> OutputError:
    return OutputError("the seal of this output is damaged", found=found, advice="`batchrec repair` mends it")


def _create_json(store: Store, key: str, value: Mapping[str, Any]) -> None:
    data = json.dumps(value).encode()  # indented, a seal of 250,000 parts would take a gigabyte while it is made

    def same(standing: bytes) -> bool:
        try:
            return bool(parse_json(standing) == parse_json(data))
        except ValueError:
            return False

    create_or_compare(store, key, data, same=same)


def _create_errors(
    store: Store, layout: Layout, sealed: Seal, plan: Sequence[Shard], manifest_files: Sequence[str]
) -> None:
    failing = [plan[part.shard] for part in sealed.parts if part.num_ok < part.num_rows]
    with ThreadPoolExecutor(_READERS) as threads:
        tables = list(threads.map(lambda run: _failed_rows(store, layout, run, manifest_files), _runs(failing)))
    table = pa.concat_tables([errors_schema().empty_table(), *tables]).combine_chunks()
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")

    def same(standing: bytes) -> bool:
        try:
            return table_sha256(read_table(io.BytesIO(standing))) == table_sha256(table)
        except (pa.ArrowException, OSError):
            return False

    create_or_compare(store, layout.errors_key, buffer.getvalue(), same=same)


def _failed_rows(store: Store, layout: Layout, run: Sequence[Shard], manifest_files: Sequence[str]) -> pa.Table:
    carried, tables = errors_schema().names[:-2], []
    for shard in run:
        with store.open(layout.part_key(shard.index)) as stream:
            rows = read_table(stream, columns=[*carried, "status"])
        tables.append(point_to_manifest(rows, shard, manifest_files[shard.file]))
    return pa.concat_tables(tables).combine_chunks()


def point_to_manifest(rows: pa.Table, shard: Shard, manifest_file: str) -> pa.Table:
    """Return the rows of a shard that failed, as ``errors.parquet`` has them."""
    failed = rows.filter(pc.equal(rows.column("status"), ERROR))
    file_row = pc.add(pc.subtract(failed.column("row"), shard.first_position), shard.first_row)
    # A file's name need not be text; Parquet's strings must.
    name = manifest_file.encode(errors="replace").decode()
    pointers = pa.repeat(pa.scalar(name), failed.num_rows), file_row
    carried = failed.select(errors_schema().names[:-2]).columns
    return pa.table([*carried, *pointers], schema=errors_schema())
