"""The one checker of an output's invariants, for users (``batchrec verify``) and for every test.

Every manifest row once in the parts, in plan order; status ok or a code, never both; counts and digests
of footers, seal, report and rows agree; one part a shard; ``_SUCCESS`` only with every part; errors are
the rows that are not ok. Whatever was done to an output, the answer is a list of faults.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchrec.errors import CODES, OutputError
from batchrec.output.digest import table_sha256
from batchrec.output.layout import OUTPUT_KEY, REPORT_KEY, SUCCESS_KEY, Layout, job_id_of
from batchrec.output.parts import PartFooter, UnreadablePart, read_footer
from batchrec.output.schema import EMBEDDING, ERROR, FIELDS, NOT_IN_DIGEST, OK, errors_schema
from batchrec.output.seal import Seal, SealedPart, foreign_names, point_to_manifest, read_seal, standing_parts
from batchrec.output.tables import read_table
from batchrec.records import Shard
from batchrec.storage import KeyMissing, Store, stands
from batchrec.storage.json_objects import json_object, parse_json


@dataclass(frozen=True, slots=True)
class Verification:
    """What a check of an output found.

    Attributes:
        faults: One line for each broken invariant; none in a good output.
        notes: What is unusual but breaks nothing.
        complete: Whether the output is sealed.
        num_rows: Rows in the parts that stand.
        rows_sha256: Digest over the digests of all parts, in plan order; equal for equal rows in equal shards.
    """

    faults: tuple[str, ...]
    notes: tuple[str, ...]
    complete: bool
    num_rows: int
    rows_sha256: str


@dataclass(slots=True)
class CheckedParts:
    """What was read of the parts that stand.

    Attributes:
        faults: Shard and what is wrong with its part, in plan order; a shard may have several.
        footers: By shard, of parts that can be read.
        digests: Of the rows of those, in plan order.
        errors: Their failed rows, as ``errors.parquet`` has them.
        embeddings: Types of their embeddings.
        num_rows: Their rows.
    """

    faults: list[tuple[int, str]] = field(default_factory=list)
    footers: dict[int, PartFooter] = field(default_factory=dict)
    digests: list[str] = field(default_factory=list)
    errors: list[pa.Table] = field(default_factory=list)
    embeddings: set[str] = field(default_factory=set)
    num_rows: int = 0


def verify(store: Store, layout: Layout, plan: Sequence[Shard]) -> Verification:
    """Check every invariant of an output, reading every row of every part."""
    faults: list[str] = []
    notes: list[str] = []
    standing = standing_parts(store, layout, len(plan))
    manifest_files = _manifest_files(store, layout, faults)
    faults += _definition_faults(store, layout)
    if manifest_files and any(shard.file >= len(manifest_files) for shard in plan):
        faults.append(f"{layout.plan_key} names files that the manifest has not")
    parts = check_parts(store, layout, plan, standing, manifest_files)
    faults += [fault for _, fault in parts.faults]
    if len(parts.embeddings) > 1:
        faults.append(f"the parts hold embeddings of several types: {', '.join(sorted(parts.embeddings))}")
    try:
        sealed = read_seal(store, layout)
        if sealed is not None:
            faults += seal_faults(layout, plan, sealed, standing, parts)
            faults += twin_faults(store, layout, sealed, parts)
        elif stands(store, SUCCESS_KEY):
            faults.append("_SUCCESS stands without a seal")
    except OutputError as error:
        sealed = None
        faults.append(str(error))
    foreign = foreign_names(store, layout, len(plan))
    # Whoever reads predictions/*/*.parquet reads those too, and gets rows twice.
    faults += [f"{name} is no part of this job" for name in foreign if name.endswith(".parquet")]
    if others := [name for name in foreign if not name.endswith(".parquet")]:
        notes.append(f"{len(others)} foreign names among the parts, ignored: {others[0]}")
    if not stands(store, layout.spec_key):
        notes.append(
            f"{layout.spec_key} is not there: a retry has to be told manifest and model; submit writes it again"
        )
    if sealed is None:
        notes.append(f"not complete: {len(standing)} of {len(plan)} parts stand")
    total = table_sha256(pa.table({"digest": pa.array(parts.digests, pa.string())}))
    return Verification(tuple(faults), tuple(notes), sealed is not None, parts.num_rows, total)


def check_parts(
    store: Store, layout: Layout, plan: Sequence[Shard], standing: dict[int, int], manifest_files: Sequence[str]
) -> CheckedParts:
    """Read every row of the parts that stand, and hold them against the plan and their own footers."""
    parts = CheckedParts()
    for shard in plan:
        if shard.index in standing:
            name = manifest_files[shard.file] if shard.file < len(manifest_files) else ""
            _read_part(store, layout, shard, name, parts)
    return parts


def _manifest_files(store: Store, layout: Layout, faults: list[str]) -> list[str]:
    """Return the names of the manifest's files as the folder's binding has them."""
    try:
        record = _json(store, OUTPUT_KEY)
        if record["job_id"] != layout.job_id:
            faults.append(f"{OUTPUT_KEY} binds the folder to another job")
        elif job_id_of(record["identity"]) != layout.job_id:
            faults.append(f"{OUTPUT_KEY} names another job than it describes")
        return [str(file[0]) for file in record["identity"]["manifest"]]
    except KeyMissing:
        faults.append(f"{OUTPUT_KEY} is not there")
    except (ValueError, KeyError, TypeError, IndexError) as error:
        faults.append(f"{OUTPUT_KEY} cannot be read: {error}")
    return []


def _definition_faults(store: Store, layout: Layout) -> list[str]:
    """Hold what a retry goes by against the job, where it is there."""
    try:
        defined = json_object(store.read(layout.spec_key))
    except KeyMissing:
        return []
    identity = defined.get("identity", defined)
    same = isinstance(identity, dict) and job_id_of(identity) == layout.job_id
    return [] if same else [f"{layout.spec_key} does not define this job"]


def _read_part(store: Store, layout: Layout, shard: Shard, manifest_file: str, parts: CheckedParts) -> None:
    key = layout.part_key(shard.index)
    try:
        footer = read_footer(store, key)
        rows = read_table(io.BytesIO(store.read(key)))
    except (UnreadablePart, KeyMissing, pa.ArrowException, OSError) as error:
        parts.faults.append((shard.index, f"{key}: {error}"))
        return
    if [(each.name, each.type) for each in rows.schema][: len(FIELDS)] != [(each.name, each.type) for each in FIELDS]:
        parts.faults.append((shard.index, f"{key} has other columns than predictions have"))
        return
    digest = table_sha256(rows, leave_out=NOT_IN_DIGEST)
    checks = _checks(rows, footer, digest, layout, shard).items()
    parts.faults += [(shard.index, f"{key} {fault}") for fault, good in checks if not good]
    parts.footers[shard.index] = replace(footer, facts={})  # the same in all parts, and more than the rest
    parts.digests.append(digest)
    parts.embeddings.add(str(rows.schema.field(EMBEDDING).type) if EMBEDDING in rows.schema.names else "none")
    if (failed := point_to_manifest(rows, shard, manifest_file)).num_rows:
        parts.errors.append(failed)
    parts.num_rows += rows.num_rows


def _checks(rows: pa.Table, footer: PartFooter, digest: str, layout: Layout, shard: Shard) -> dict[str, bool]:
    codes = Counter(rows.column("error_code").drop_null().to_pylist())
    return {
        "belongs to another job or shard": (footer.job_id, footer.shard) == (layout.job_id, shard.index),
        f"has {rows.num_rows} rows where the plan has {shard.num_rows}": rows.num_rows == shard.num_rows,
        "counts other rows in its footer": footer.num_rows == rows.num_rows,
        "counts other errors in its footer": dict(footer.num_errors) == dict(codes),
        "counts other predictions in its footer": footer.num_ok == rows.num_rows - codes.total(),
        "has another digest in its footer": footer.rows_sha256 == digest,
        **_row_checks(rows, shard),
    }


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
        "has rows that are ok without an embedding, or failed with one": _embedded_where(rows, ok),
        "has codes outside the closed list": codes <= {code.value for code in CODES},
    }


def _embedded_where(rows: pa.Table, ok: np.ndarray) -> bool:
    if EMBEDDING not in rows.schema.names:
        return True
    return bool(np.array_equal(pc.is_valid(rows.column(EMBEDDING)).to_numpy(), ok))


def seal_faults(
    layout: Layout, plan: Sequence[Shard], sealed: Seal, standing: dict[int, int], parts: CheckedParts
) -> Iterator[str]:
    """Compare a seal with the plan and the parts that stand."""
    if [part.shard for part in sealed.parts] != [shard.index for shard in plan]:
        yield "the seal names other shards than the plan"
    for part in sealed.parts:
        key = layout.part_key(part.shard)
        footer = parts.footers.get(part.shard)
        if part.shard not in standing:
            yield f"{key} is sealed, but is not there"
        elif standing[part.shard] != part.size:
            yield f"{key} has {standing[part.shard]} bytes, sealed with {part.size}"
        elif footer is not None and footer.rows_sha256 != part.rows_sha256:
            yield f"{key} has other rows than were sealed"
        elif footer is not None and _counts(footer) != _counts(part):
            yield f"{key} and the seal count differently"


def _counts(part: PartFooter | SealedPart) -> tuple[str, int, int, dict[str, int]]:
    return part.attempt_id, part.num_rows, part.num_ok, dict(part.num_errors)


def twin_faults(store: Store, layout: Layout, sealed: Seal, parts: CheckedParts) -> Iterator[str]:
    """Compare what repeats the seal or the parts: ``_SUCCESS``, the report, the errors."""
    if _json_or_none(store, SUCCESS_KEY) != sealed.totals():
        yield f"{SUCCESS_KEY} and the seal disagree"
    yield from report_faults(store, sealed.job_id, sealed.num_rows, sealed.num_ok)
    yield from errors_faults(store, layout, parts)


def report_faults(store: Store, job_id: str, num_rows: int, num_ok: int) -> Iterator[str]:
    """Compare the report, if there is one, with what it has to count."""
    if stands(store, REPORT_KEY):
        report = _json_or_none(store, REPORT_KEY)
        counts = [report.get(name) for name in ("job_id", "num_rows", "num_ok")] if isinstance(report, dict) else []
        if counts != [job_id, num_rows, num_ok]:
            yield f"{REPORT_KEY} and the seal disagree"


def errors_faults(store: Store, layout: Layout, parts: CheckedParts) -> Iterator[str]:
    """Compare the table of failed rows with the parts."""
    failed = pa.concat_tables([errors_schema().empty_table(), *parts.errors])
    try:
        errors = read_table(io.BytesIO(store.read(layout.errors_key)))
    except KeyMissing:
        yield f"{layout.errors_key} is not there"
    except (pa.ArrowException, OSError) as error:
        yield f"{layout.errors_key} cannot be read: {error}"
    else:
        if errors.num_rows != failed.num_rows:
            yield f"{layout.errors_key} has {errors.num_rows} rows where the parts have {failed.num_rows} failed ones"
        elif table_sha256(errors) != table_sha256(failed):
            yield f"{layout.errors_key} has other rows than the failed ones of the parts"


def _json(store: Store, key: str) -> Any:
    return parse_json(store.read(key))


def _json_or_none(store: Store, key: str) -> Any:
    try:
        return _json(store, key)
    except ValueError:
        return None
