"""Sealing: every part counted from its own footer, written down once, and only then ``_SUCCESS``."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batchrec.errors import OutputError
from batchrec.output.digest import table_sha256
from batchrec.output.layout import SUCCESS_KEY, Layout
from batchrec.output.parts import PartFooter, UnreadablePart, read_footer
from batchrec.output.schema import ERROR, errors_schema
from batchrec.output.tables import read_table
from batchrec.records import Shard
from batchrec.storage import KeyMissing, Store, create_or_compare

_FORMAT = 1
_READERS = 16


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
        return sum((Counter(part.num_errors) for part in self.parts), Counter())

    @property
    def failure_rate(self) -> float:
        """Share of the rows without a prediction."""
        return 1 - self.num_ok / self.num_rows if self.num_rows else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the seal as plain JSON values."""
        totals = {"num_rows": self.num_rows, "num_ok": self.num_ok, "num_errors": dict(sorted(self.num_errors.items()))}
        return {"format": _FORMAT, "job_id": self.job_id, **totals, "parts": [asdict(part) for part in self.parts]}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Seal:
        """Return the seal that :meth:`to_json` wrote."""
        return cls(plain["job_id"], tuple(SealedPart(**part) for part in plain["parts"]))


def standing_parts(store: Store, layout: Layout, num_shards: int) -> dict[int, int]:
    """List the parts that stand: their sizes in bytes by shard. Foreign names are left out."""
    found = ((layout.shard_of(info.key), info.size) for info in store.list(layout.parts_prefix))
    return {shard: size for shard, size in found if shard is not None and shard < num_shards}


def foreign_names(store: Store, layout: Layout, num_shards: int) -> list[str]:
    """List what lies among the parts and is none."""
    names = (info.key for info in store.list(layout.parts_prefix))
    return [name for name in names if (shard := layout.shard_of(name)) is None or shard >= num_shards]


def seal(store: Store, layout: Layout, plan: Sequence[Shard], manifest_files: Sequence[str]) -> Seal:
    """Read every footer, write the seal and the errors, and mark the output complete.

    Args:
        store: The output folder.
        layout: Its keys.
        plan: The job's shards.
        manifest_files: Names of the manifest's files, for the pointers of failed rows.

    Raises:
        OutputError: A part is missing, unreadable, another job's or not as planned.
    """
    sealed = Seal(layout.job_id, tuple(_read_parts(store, layout, plan)))
    _create_json(store, layout.seal_key, sealed.to_json())
    _create_errors(store, layout, sealed, plan, manifest_files)
    _create_json(store, SUCCESS_KEY, {key: value for key, value in sealed.to_json().items() if key != "parts"})
    return sealed


def read_seal(store: Store, layout: Layout) -> Seal | None:
    """Return the seal of a complete output; None while ``_SUCCESS`` or the seal is not there."""
    try:
        store.info(SUCCESS_KEY)
        return Seal.from_json(json.loads(store.read(layout.seal_key)))
    except KeyMissing:
        return None


def _read_parts(store: Store, layout: Layout, plan: Sequence[Shard]) -> Iterator[SealedPart]:
    sizes = standing_parts(store, layout, len(plan))
    missing = [shard.index for shard in plan if shard.index not in sizes]
    if missing:
        raise OutputError(
            f"{len(missing)} of {len(plan)} parts are missing",
            found=f"the first is {layout.part_key(missing[0])}",
            advice="run the same command again",
        )
    with ThreadPoolExecutor(_READERS) as threads:
        footers = threads.map(lambda shard: _checked_footer(store, layout, shard), plan)
        for shard, footer in zip(plan, footers, strict=True):
            yield SealedPart(
                shard.index,
                sizes[shard.index],
                footer.attempt_id,
                footer.num_rows,
                footer.num_ok,
                footer.num_errors,
                footer.rows_sha256,
            )


def _checked_footer(store: Store, layout: Layout, shard: Shard) -> PartFooter:
    key = layout.part_key(shard.index)
    try:
        footer = read_footer(store, key)
    except UnreadablePart as error:
        raise _bad_part(store, key, str(error)) from error
    if (footer.job_id, footer.shard) != (layout.job_id, shard.index):
        raise _bad_part(store, key, f"shard {footer.shard} of job {footer.job_id[:12]}")
    if footer.num_rows != shard.num_rows or footer.num_ok + sum(footer.num_errors.values()) != shard.num_rows:
        raise _bad_part(store, key, f"{footer.num_rows} rows where the plan has {shard.num_rows}")
    return footer


def _bad_part(store: Store, key: str, found: str) -> OutputError:
    return OutputError(
        f"{store.url}/{key} is not the part this job wrote there",
        found=found,
        advice="move that object away and run the same command again: only its shard is done anew",
    )


def _create_json(store: Store, key: str, value: Mapping[str, Any]) -> None:
    data = json.dumps(value, indent=1).encode()
    create_or_compare(store, key, data, same=lambda standing: bool(json.loads(standing) == json.loads(data)))


def _create_errors(
    store: Store, layout: Layout, sealed: Seal, plan: Sequence[Shard], manifest_files: Sequence[str]
) -> None:
    failing = [plan[part.shard] for part in sealed.parts if part.num_ok < part.num_rows]
    table = pa.concat_tables(
        [errors_schema().empty_table(), *_error_tables(store, layout, failing, manifest_files)]
    ).combine_chunks()
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    wanted = table_sha256(table)
    create_or_compare(
        store,
        layout.errors_key,
        buffer.getvalue(),
        same=lambda standing: table_sha256(read_table(io.BytesIO(standing))) == wanted,
    )


def _error_tables(
    store: Store, layout: Layout, shards: Iterable[Shard], manifest_files: Sequence[str]
) -> Iterator[pa.Table]:
    carried = [name for name in errors_schema().names if name not in ("manifest_file", "file_row")]
    for shard in shards:
        with store.open(layout.part_key(shard.index)) as stream:
            rows = read_table(stream, columns=[*carried, "status"])
        failed = rows.filter(pc.equal(rows.column("status"), ERROR)).select(carried)
        file_row = pc.add(pc.subtract(failed.column("row"), shard.first_position), shard.first_row)
        names = pa.array([manifest_files[shard.file]] * failed.num_rows, pa.string())
        yield pa.table([*failed.columns, names, file_row], schema=errors_schema())
