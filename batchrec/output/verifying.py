"""The one checker of an output's invariants, for users (``batchrec verify``) and for every test.

Every manifest row once in the parts, in plan order; status ok or a code, never both; counts and digests
of footers, seal and rows agree; one part a shard; ``_SUCCESS`` only with every part; errors are the rows
that are not ok.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchrec.errors import CODES
from batchrec.output.digest import table_sha256
from batchrec.output.layout import SUCCESS_KEY, Layout
from batchrec.output.parts import UnreadablePart, read_footer
from batchrec.output.schema import ERROR, NOT_IN_DIGEST, OK
from batchrec.output.seal import Seal, foreign_names, read_seal, standing_parts
from batchrec.output.tables import read_table
from batchrec.records import Shard
from batchrec.storage import KeyMissing, Store


@dataclass(frozen=True, slots=True)
class Verification:
    """What a check of an output found.

    Attributes:
        faults: One line for each broken invariant; none in a good output.
        notes: What is unusual but breaks nothing.
        complete: Whether the output is sealed.
        num_rows: Rows in the parts that stand.
        rows_sha256: Digest over the digests of all parts, in plan order: equal outputs have equal ones.
    """

    faults: tuple[str, ...]
    notes: tuple[str, ...]
    complete: bool
    num_rows: int
    rows_sha256: str


def verify(store: Store, layout: Layout, plan: Sequence[Shard]) -> Verification:
    """Check every invariant of an output, reading every row of every part."""
    faults: list[str] = []
    digests: list[str] = []
    num_rows, num_failed = 0, 0
    standing = standing_parts(store, layout, len(plan))
    sealed = read_seal(store, layout)
    for shard in plan:
        if shard.index in standing:
            rows, found = _read_part(store, layout, shard)
            faults += found
            if rows is not None:
                digests.append(table_sha256(rows, leave_out=NOT_IN_DIGEST))
                num_rows += rows.num_rows
                num_failed += pc.sum(pc.equal(rows.column("status"), ERROR)).as_py() or 0
    if sealed is not None:
        faults += _seal_faults(store, layout, plan, sealed, standing, num_failed)
    elif _exists(store, SUCCESS_KEY):
        faults.append("_SUCCESS stands without a seal")
    foreign = foreign_names(store, layout, len(plan))
    notes = [f"{len(foreign)} foreign names among the parts, ignored: {foreign[0]}"] if foreign else []
    if sealed is None:
        notes.append(f"not complete: {len(standing)} of {len(plan)} parts stand")
    total = table_sha256(pa.table({"digest": pa.array(digests, pa.string())}))
    return Verification(tuple(faults), tuple(notes), sealed is not None, num_rows, total)


def _read_part(store: Store, layout: Layout, shard: Shard) -> tuple[pa.Table | None, list[str]]:
    key = layout.part_key(shard.index)
    try:
        footer = read_footer(store, key)
        rows = read_table(io.BytesIO(store.read(key)))
    except (UnreadablePart, pa.ArrowInvalid, OSError) as error:
        return None, [f"{key}: {error}"]
    digest = table_sha256(rows, leave_out=NOT_IN_DIGEST)
    codes = Counter(rows.column("error_code").drop_null().to_pylist())
    checks = {
        "belongs to another job or shard": (footer.job_id, footer.shard) == (layout.job_id, shard.index),
        f"has {rows.num_rows} rows where the plan has {shard.num_rows}": rows.num_rows == shard.num_rows,
        "counts other rows in its footer": footer.num_rows == rows.num_rows,
        "counts other errors in its footer": dict(footer.num_errors) == dict(codes),
        "counts other predictions in its footer": footer.num_ok == rows.num_rows - codes.total(),
        "has another digest in its footer": footer.rows_sha256 == digest,
        **_row_checks(rows, shard),
    }
    return rows, [f"{key} {fault}" for fault, good in checks.items() if not good]


def _row_checks(rows: pa.Table, shard: Shard) -> dict[str, bool]:
    positions = rows.column("row").to_numpy()
    wanted = np.arange(shard.first_position, shard.first_position + shard.num_rows)
    status = rows.column("status")
    ok = pc.equal(status, OK).to_numpy()
    has_code = pc.is_valid(rows.column("error_code")).to_numpy()
    has_label = pc.is_valid(rows.column("label")).to_numpy()
    codes = set(rows.column("error_code").drop_null().unique().to_pylist())
    return {
        "does not hold the planned rows in order": bool(np.array_equal(positions, wanted)),
        "has a status that is neither ok nor error": set(status.unique().to_pylist()) <= {OK, ERROR},
        "has rows that are ok and carry a code, or neither": bool((ok != has_code).all()),
        "has rows that are ok without a label, or failed with one": bool((ok == has_label).all()),
        "has codes outside the closed list": codes <= {code.value for code in CODES},
    }


def _seal_faults(
    store: Store, layout: Layout, plan: Sequence[Shard], sealed: Seal, standing: dict[int, int], num_failed: int
) -> Iterator[str]:
    if [part.shard for part in sealed.parts] != [shard.index for shard in plan]:
        yield "the seal names other shards than the plan"
    for part in sealed.parts:
        key = layout.part_key(part.shard)
        if part.shard not in standing:
            yield f"{key} is sealed, but is not there"
        elif standing[part.shard] != part.size:
            yield f"{key} has {standing[part.shard]} bytes, sealed with {part.size}"
        elif (footer := _footer_or_none(store, key)) and footer != part.rows_sha256:
            yield f"{key} has other rows than were sealed"
    success = json.loads(store.read(SUCCESS_KEY))
    if (success["job_id"], success["num_rows"], success["num_ok"]) != (layout.job_id, sealed.num_rows, sealed.num_ok):
        yield "_SUCCESS and the seal disagree"
    try:
        errors = read_table(io.BytesIO(store.read(layout.errors_key)))
    except KeyMissing:
        yield f"{layout.errors_key} is not there"
        return
    if errors.num_rows != num_failed or dict(Counter(errors.column("error_code").to_pylist())) != dict(
        sealed.num_errors
    ):
        yield f"{layout.errors_key} has {errors.num_rows} rows where the parts have {num_failed} failed ones"


def _footer_or_none(store: Store, key: str) -> str | None:
    try:
        return read_footer(store, key).rows_sha256
    except UnreadablePart:
        return None  # named already, with the part


def _exists(store: Store, key: str) -> bool:
    try:
        store.info(key)
    except KeyMissing:
        return False
    return True
