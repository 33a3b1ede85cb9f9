"""Doing failed rows again: a job of its own over pointers into the parent's manifest, in a folder of its own."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from batchrec.engine.definition import defined_again, manifest_of, model_of
from batchrec.engine.identity import refuse_foreign_content
from batchrec.engine.int8_record import standing_quantised
from batchrec.errors import CODES, OutputError, StorageLost, UsageError
from batchrec.manifest.definition import Manifest
from batchrec.manifest.selecting import position_column, select_rows
from batchrec.models.bundle import ModelSpec
from batchrec.models.carrying import quantised_here
from batchrec.output.children import (
    Child,
    ChildRecord,
    Origin,
    OriginFile,
    add_record,
    children_of,
    keep_origin,
    read_origin,
)
from batchrec.output.layout import ORIGIN_KEY, OUTPUT_KEY, RETRY_PREFIX
from batchrec.output.opening import OpenedOutput
from batchrec.output.reading import Output
from batchrec.redacting import MASK
from batchrec.settings import resolve_settings
from batchrec.spec import JobSpec
from batchrec.storage import create_or_compare, open_store, stands

RETRYABLE = tuple(sorted(code.value for code, facts in CODES.items() if facts.retryable))
#: What a retry takes from its parent whatever is set, or gets from flags of its own.
_FIXED = {
    "output": "name its folder with -o",
    "address": "a retry runs on this machine",
    **dict.fromkeys(("s3_endpoint", "s3_region"), "say it with its flag"),
    **dict.fromkeys(("uri_column", "id_column", "passthrough", "limit"), "a retry has the rows of its parent"),
    "fail_fast": "a retry is judged at its end, together with its parent",
    "embeddings": "a retry has the columns of its parent",
}
#: What says only how, where and from what copy a job runs: two commands that differ in these are the same.
_MANNER = frozenset(
    (
        *("source", "model", "labels", "pool", "device", "backend", "workers", "cores_per_worker", "batch_size"),
        *("rows_per_shard", "max_requests", "max_failure_rate", "deadline_s", "workers_within_s", "takeover"),
        *("decode_helpers", "stall_s", "s3_requester_pays"),
    )
)
_MAX_RACES = 20


@dataclass(frozen=True, slots=True)
class Retry:
    """A retry that is ready to run.

    Attributes:
        spec: The child job.
        model: Its model.
        record: What the parent keeps of it.
        num_rows: Rows it does again.
        resumed: Whether an earlier command began it.
        max_failure_rate: What the parent and its retries together are held to.
    """

    spec: JobSpec
    model: ModelSpec
    record: ChildRecord
    num_rows: int
    resumed: bool
    max_failure_rate: float


@dataclass(frozen=True, slots=True)
class _Parent:
    """The job whose rows are done again, with what they need."""

    output: Output
    spec: JobSpec
    manifest: Manifest
    model: ModelSpec
    own_position: str | None  # where it is a retry itself

    @property
    def columns(self) -> list[str]:
        return [name for name in self.manifest.columns.read if name != self.own_position]


def prepare_retry(
    parent: OpenedOutput,
    *,
    codes: Sequence[str] = (),
    sets: Sequence[str] = (),
    target: str | None = None,
    keep_credentials: bool = False,
) -> Retry | None:
    """Make a retry of a job's failed rows ready to run; None where no row is to be done again.

    The same words again find the retry they began, until it is complete.

    Args:
        parent: A complete job.
        codes: Which failed rows; all whose code is marked retryable when empty.
        sets: ``name=value`` of each ``--set``: what the retry has otherwise than its parent.
        target: Its folder; ``<parent>.retry-NNNN`` when None.
        keep_credentials: Write rows whose URIs hold credentials into that folder too.

    Raises:
        OutputError: The parent is not complete, the folder cannot be taken, or URIs hold credentials.
        UsageError: A setting cannot be another than the parent's.
        Refused: The parent's manifest or model is not what it was.
    """
    if parent.seal is None:
        raise OutputError(
            f"{parent.store.url} is not complete, so nobody knows yet which rows failed",
            found=f"{len(parent.parts):,} parts and no seal",
            advice="run its own command to the end, then retry",
        )
    changes = _changes(sets)
    codes = tuple(sorted(set(codes or RETRYABLE)))
    texts = {name: text for name, _, text in (each.partition("=") for each in sets) if name not in _MANNER}
    where: dict[str, Any] = {name: changes[name] for name in ("source", "model", "labels") if name in changes}
    for _ in range(_MAX_RACES):
        children = children_of(parent)
        pending = next((each for each in children if _is_same(each, codes, texts, target, parent)), None)
        rows = _failed_rows(parent, codes) if pending is None or pending.origin is None else None
        if rows is not None and not len(rows):
            return None
        if rows is not None and not keep_credentials:
            _refuse_credentials(parent, rows)
        spec = defined_again(parent, where)
        manifest = manifest_of(parent.identity, spec)
        own = read_origin(parent.store)
        model = _model(parent, spec, manifest, changes.get("precision", spec.precision))
        whole = _Parent(parent, spec, manifest, model, own.parent_row if own else None)
        if pending is not None:
            return _ready(whole, pending.record, rows, changes, resumed=True)
        record = _new_record(parent, children, codes, texts, target)
        if record is not None and add_record(parent.store, parent.layout, record):
            return _ready(whole, record, rows, changes, resumed=False)
    raise StorageLost(
        f"no retry could be recorded in {parent.store.url}",
        found=f"{_MAX_RACES} numbers lost to others",
        advice="run the same command again",
    )


def _model(parent: Output, spec: JobSpec, manifest: Manifest, precision: str) -> ModelSpec:
    """Return the parent's model, quantised if it was and the retry is to be in int8 too.

    The few rows of a retry are no sample to quantise it again with.
    """
    quantised = standing_quantised(parent.store, parent.layout) if precision == "int8" else None
    return dataclasses.replace(
        model_of(parent.identity, spec, manifest), quantised=quantised and quantised_here(quantised, parent.store)
    )


def _changes(sets: Sequence[str]) -> dict[str, Any]:
    settings = resolve_settings((), {}, sets=sets)
    changes = {name: value for name, value in settings.values.items() if settings.origins[name] == "--set"}
    if fixed := [f"{name}: {_FIXED[name]}" for name in changes if name in _FIXED]:
        raise UsageError(f"--set cannot change this for a retry: {'; '.join(fixed)}", advice="leave it out")
    return changes


def _is_same(child: Child, codes: Sequence[str], texts: Mapping[str, str], target: str | None, parent: Output) -> bool:
    """Whether a child is the one that the same words began and did not end."""
    record = child.record
    here = target is None or open_store(target, parent.options).url == record.output
    return here and not child.sealed and (record.codes, record.settings) == (tuple(codes), texts)


def _failed_rows(parent: OpenedOutput, codes: Sequence[str]) -> Any:
    """Return the rows that still have one of some codes, as a table of errors."""
    errors = parent.errors()
    return errors.filter(np.isin(errors["error_code"].to_numpy(), codes))


def _refuse_credentials(parent: Output, errors: Any) -> None:
    """Refuse rows whose URIs hold what outputs never show: their retry would keep it with the rows to do."""
    masked = [uri for uri in errors["uri"].to_pylist() if uri is not None and MASK in uri]
    if masked:
        raise OutputError(
            f"{len(masked):,} of {len(errors):,} failed rows of {parent.store.url} have credentials in their URIs",
            found=masked[0],
            advice="submit them with new URIs as a manifest of their own, or say --keep-credentials: the folder of the "
            "retry then holds them as they are",
        )


def _positions(errors: Any, parent: _Parent) -> npt.NDArray[np.int64]:
    """Return where failed rows are in the manifest, as a whole; every pointer has to lead there."""
    rows: npt.NDArray[np.int64] = errors["row"].to_numpy()
    files = parent.manifest.files
    ends = np.cumsum([file.num_rows for file in files])
    file = np.searchsorted(ends, rows, side="right")
    names = np.array([str(name).encode(errors="replace").decode() for name, *_ in parent.output.identity["manifest"]])
    within = rows - (ends - [each.num_rows for each in files])[np.minimum(file, len(files) - 1)]
    same = (file < len(files)) & (np.diff(rows, prepend=-1) > 0) & (within == errors["file_row"].to_numpy())
    if not (same & (names[np.minimum(file, len(files) - 1)] == errors["manifest_file"].to_numpy())).all():
        raise OutputError(
            f"{parent.output.store.url}/{parent.output.layout.errors_key} is damaged",
            found="a failed row whose pointer does not lead to it",
            advice="`batchrec repair` mends it",
        )
    return rows


def _new_record(
    parent: Output, children: Sequence[Child], codes: Sequence[str], texts: Mapping[str, str], target: str | None
) -> ChildRecord | None:
    """Return the record of a new retry; None if another was begun since the children were looked at."""
    number = 1 + max((child.record.number for child in children), default=0)
    store = open_store(target or _beside(parent.store.url, number), parent.options)
    refuse_foreign_content(store)
    if taken := [key for key in (OUTPUT_KEY, ORIGIN_KEY) if stands(store, key)]:
        if len(children_of(parent)) > len(children):
            return None
        raise OutputError(
            f"{store.url} is another job's folder", found=taken[0], advice="name a new folder for the retry with -o"
        )
    return ChildRecord(number, store.url, tuple(codes), texts, uuid.uuid4().hex)


def _beside(parent: str, number: int) -> str:
    if parent.startswith("s3://") and "/" not in parent.removeprefix("s3://"):
        raise UsageError(f"{parent} is a whole bucket, so nothing lies beside it", advice="name a folder with -o")
    return f"{parent}.retry-{number:04d}"


def _ready(parent: _Parent, record: ChildRecord, rows: Any, changes: Mapping[str, Any], *, resumed: bool) -> Retry:
    store = open_store(record.output, parent.output.options)
    origin = read_origin(store)
    if origin is None:
        assert rows is not None
        origin = keep_origin(store, _put_rows(parent, record, rows))
    if origin.parent_job_id != parent.output.job_id:
        raise OutputError(
            f"{record.output} is a retry of another job",
            found=origin.parent_output,
            advice="name a new folder with -o",
        )
    spec = _child_spec(parent, record, origin, changes)
    limit = changes.get("max_failure_rate", parent.spec.max_failure_rate)
    return Retry(spec, parent.model, record, origin.num_rows, resumed, limit)


def _put_rows(parent: _Parent, record: ChildRecord, errors: Any) -> Origin:
    """Put the manifest of a retry into its folder, under names that say what it holds."""
    store = open_store(record.output, parent.output.options)
    name = position_column(parent.columns)
    files: list[OriginFile] = []
    for file in select_rows(parent.manifest, _positions(errors, parent), parent.columns, name, parent.spec.store):
        key = f"{RETRY_PREFIX}{len(files):05d}-{file.footer_sha256[:12]}.parquet"
        create_or_compare(store, key, file.data, same=lambda _: False)
        files.append(OriginFile(key, len(file.data), file.num_rows, file.footer_sha256))
    output = parent.output
    return Origin(output.job_id, output.store.url, name, parent.manifest.root, tuple(files))


def _child_spec(parent: _Parent, record: ChildRecord, origin: Origin, changes: Mapping[str, Any]) -> JobSpec:
    changes = dict(changes)
    limits = parent.spec.image_limits
    pixels, num_bytes = changes.pop("max_pixels", limits.max_pixels), changes.pop("max_bytes", limits.max_bytes)
    pays = changes.pop("s3_requester_pays", parent.spec.store.requester_pays)
    for name in ("source", "max_failure_rate"):
        changes.pop(name, None)
    columns = parent.manifest.columns
    carried = tuple(name for name in columns.passthrough if name != parent.own_position)
    inherited = columns.id is not None and columns.id != parent.own_position
    return parent.spec.replace(
        source=tuple(f"{record.output}/{file.key}" for file in origin.files),
        output=record.output,
        manifest_root=origin.manifest_root,
        # Without ids the position is the id, and that is the one in the parent.
        id_column=columns.id if inherited else origin.parent_row,
        passthrough=(*carried, origin.parent_row),
        max_failure_rate=1.0,
        image_limits=dataclasses.replace(limits, max_pixels=pixels, max_bytes=num_bytes),
        store=dataclasses.replace(parent.spec.store, requester_pays=pays),
        **{"limit": None, "rows_per_shard": None, "deadline_s": None, "takeover": False, "fail_fast": False, **changes},
    )
