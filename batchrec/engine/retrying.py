"""Doing failed rows again: a job of its own over pointers into the parent's manifest, in a folder of its own."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from batchrec.engine.definition import defined_again, manifest_of, model_of
from batchrec.engine.identity import refuse_foreign_content
from batchrec.engine.int8_record import standing_quantised
from batchrec.engine.retry_rows import Parent, failed_rows, put_rows, refuse_credentials, require_images
from batchrec.errors import CODES, OutputError, StorageLost, UsageError
from batchrec.manifest.definition import Manifest
from batchrec.models.bundle import ModelSpec
from batchrec.models.carrying import quantised_here
from batchrec.output.children import (
    Child,
    ChildRecord,
    Origin,
    add_record,
    children_of,
    keep_origin,
    read_origin,
)
from batchrec.output.layout import ORIGIN_KEY, OUTPUT_KEY
from batchrec.output.opening import OpenedOutput
from batchrec.output.reading import Output
from batchrec.settings import resolve_settings
from batchrec.spec import JobSpec
from batchrec.storage import open_store, stands

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
    _require_complete(parent)
    changes = _changes(sets)
    codes = tuple(sorted(set(codes or RETRYABLE)))
    texts = {name: text for name, _, text in (each.partition("=") for each in sets) if name not in _MANNER}
    where: dict[str, Any] = {name: changes[name] for name in ("source", "model", "labels") if name in changes}
    own = read_origin(parent.store)
    if own is not None:  # its manifest goes where it goes
        where = {"source": tuple(f"{parent.store.url}/{file.key}" for file in own.files), **where}
    for _ in range(_MAX_RACES):
        children = children_of(parent)
        pending = next((each for each in children if _is_same(each, codes, texts, target, parent)), None)
        rows = failed_rows(parent, codes) if pending is None or pending.origin is None else None
        if rows is not None and not len(rows):
            return None
        if rows is not None and not keep_credentials:
            refuse_credentials(parent, rows)
        spec = defined_again(parent, where)
        manifest = manifest_of(parent.identity, spec)
        if own is not None:
            require_images(parent, own, manifest)
        model = _model(parent, spec, manifest, changes.get("precision", spec.precision))
        whole = Parent(parent, spec, manifest, model, own)
        if pending is not None:
            return _ready(whole, pending.record, pending.url, rows, changes, resumed=True)
        record = _new_record(parent, children, codes, texts, target)
        if record is not None and add_record(parent.store, parent.layout, record):
            return _ready(whole, record, record.output, rows, changes, resumed=False)
    raise StorageLost(
        f"no retry could be recorded in {parent.store.url}",
        found=f"{_MAX_RACES} numbers lost to others",
        advice="run the same command again",
    )


def _require_complete(parent: Output) -> None:
    if parent.seal is None:
        raise OutputError(
            f"{parent.store.url} is not complete, so nobody knows yet which rows failed",
            found=f"{len(parent.parts):,} parts and no seal",
            advice="run its own command to the end, then retry",
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
    here = target is None or open_store(target, parent.options).url == child.url
    return here and not child.sealed and (record.codes, record.settings) == (tuple(codes), texts)


def _new_record(
    parent: Output, children: Sequence[Child], codes: Sequence[str], texts: Mapping[str, str], target: str | None
) -> ChildRecord | None:
    """Return the record of a new retry; None if another was begun since the children were looked at."""
    number = 1 + max((child.record.number for child in children), default=0)
    store = open_store(target or _beside(parent.store.url, number), parent.options)
    parent.require_outside(store.url)
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


def _ready(
    parent: Parent, record: ChildRecord, url: str, rows: Any, changes: Mapping[str, Any], *, resumed: bool
) -> Retry:
    limit = changes.get("max_failure_rate", parent.max_failure_rate)
    parent.spec.replace(max_failure_rate=limit)  # raises where it is none
    store = open_store(url, parent.output.options)
    origin = read_origin(store)
    if origin is None:
        assert rows is not None, "a retry that says nothing of its rows was prepared by nobody"
        origin = keep_origin(store, put_rows(parent, store, rows, record.nonce))
    if origin.parent_job_id != parent.output.job_id:
        raise OutputError(
            f"{url} is a retry of another job",
            found=origin.parent_output,
            advice="name a new folder with -o",
        )
    spec = _child_spec(parent, url, origin, changes)
    return Retry(spec, parent.model, record, origin.num_rows, resumed, limit)


def _child_spec(parent: Parent, url: str, origin: Origin, changes: Mapping[str, Any]) -> JobSpec:
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
        source=tuple(f"{url}/{file.key}" for file in origin.files),
        output=url,
        manifest_root=parent.manifest.root,  # where it is now
        # Without ids the position is the id, and that is the one in the parent.
        id_column=columns.id if inherited else origin.parent_row,
        passthrough=(*carried, origin.parent_row),
        max_failure_rate=1.0,
        image_limits=dataclasses.replace(limits, max_pixels=pixels, max_bytes=num_bytes),
        store=dataclasses.replace(parent.spec.store, requester_pays=pays),
        **{"limit": None, "rows_per_shard": None, "deadline_s": None, "takeover": False, "fail_fast": False, **changes},
    )
