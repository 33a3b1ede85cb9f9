"""One job from end to end: resolve it, wire the flow once, run it, seal it, report it."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from batchrec.engine.claims import Claim, claim
from batchrec.engine.coordinator import Coordinator, Observer, RunCounts
from batchrec.engine.devices import Placement, place
from batchrec.engine.identity import Identity, bind, bound_identity, identify, refuse_other_job
from batchrec.engine.inline_pool import InlinePool
from batchrec.engine.ledger import Ledger
from batchrec.engine.pool import Pool
from batchrec.engine.summing import summarise
from batchrec.engine.telling import ProgressFile, Quiet
from batchrec.engine.worker import Worker, WorkerJob
from batchrec.errors import AccessError, ErrorCode, OutputError
from batchrec.manifest.definition import Manifest
from batchrec.manifest.planning import Plan, plan_shards, rows_per_shard
from batchrec.manifest.reading import open_manifest
from batchrec.manifest.rows import RowReader
from batchrec.models.backends import resolve_precision
from batchrec.models.bundle import ModelSpec
from batchrec.models.zoo import resolve_model
from batchrec.output.advising import advise, stands
from batchrec.output.layout import REPORT_KEY, Layout
from batchrec.output.parts import encode_part, publish_part
from batchrec.output.reading import Output
from batchrec.output.rows import failed_rows
from batchrec.output.seal import Seal, read_seal, seal, standing_parts
from batchrec.records import Attempt, Shard
from batchrec.report.summary import RunSummary
from batchrec.spec import JobSpec
from batchrec.storage import KeyMissing, Store, UriPolicy, create_or_compare, open_store, probe


@dataclass(frozen=True, slots=True)
class Job:
    """A job with everything resolved that can be before any work.

    Attributes:
        spec: What the user asked for.
        manifest: The opened manifest.
        model: The resolved model.
        precision: Class of arithmetic for the whole job.
        placement: Workers on this machine.
        identity: What decides the rows.
        plan: The shards; an output begun earlier brings its own.
        num_done: Shards whose parts stand already.
        num_rows_done: Their rows.
        complete: Whether the output is sealed.
    """

    spec: JobSpec
    manifest: Manifest
    model: ModelSpec
    precision: str
    placement: Placement
    identity: Identity
    plan: Plan
    num_done: int
    num_rows_done: int
    complete: bool

    def facts(self) -> dict[str, Any]:
        """Return the plan as plain values, for printing."""
        columns, model = self.manifest.columns, self.model
        shards = {
            "count": len(self.plan),
            "rows": self.plan.rows_per_shard,
            "done": self.num_done,
            "complete": self.complete,
        }
        return {
            "job_id": self.identity.job_id,
            "files": len(self.manifest.files),
            "rows": self.plan.num_rows,
            "columns": {"uri": list(columns.uri), "id": columns.id, "passthrough": list(columns.passthrough)},
            "model": model.name,
            "architecture": model.architecture,
            "labels": model.num_outputs,
            "label_examples": list(model.labels[:3]),
            "resize": model.preprocess.resize,
            "crop": model.preprocess.crop,
            "workers": self.placement.num_workers,
            "device": self.placement.device,
            "threads": self.placement.num_threads,
            "precision": self.precision,
            "shards": shards,
            "output": self.spec.output,
        }


def plan_job(spec: JobSpec) -> Job:
    """Resolve a job without writing anything.

    Raises:
        Refused: The manifest, the model or the output cannot be used.
    """
    if missing := [root for root in spec.input_roots if not Path(root).is_dir()]:
        raise AccessError("an --input-root is not a folder", found=missing[0], advice="correct or drop it")
    manifest = open_manifest(spec)
    model = resolve_model(spec.model, labels=spec.labels)
    placement = place(spec.device, 1 if spec.pool == "inline" else spec.workers)
    precision = resolve_precision(spec.precision, placement.device)
    identity = identify(spec, manifest, model, precision)
    rows = spec.rows_per_shard or rows_per_shard(min(manifest.num_rows, spec.limit or manifest.num_rows))
    plan = plan_shards([file.num_rows for file in manifest.files], rows, spec.limit)
    store, layout = open_store(spec.output, spec.store), Layout(identity.job_id)
    done: dict[int, int] = {}
    complete = False
    standing = bound_identity(store)
    if standing is not None:
        refuse_other_job(store, standing, identity)
        plan = _standing_plan(store, layout, plan)
        done = standing_parts(store, layout, len(plan))
        sealed = read_seal(store, layout)
        complete = sealed is not None
        if sealed is not None:
            _refuse_damaged(store, layout, sealed, done)
    num_rows_done = sum(plan[shard].num_rows for shard in done)
    return Job(spec, manifest, model, precision, placement, identity, plan, len(done), num_rows_done, complete)


def _refuse_damaged(store: Store, layout: Layout, sealed: Seal, sizes: dict[int, int]) -> None:
    """Refuse a sealed output that has lost parts since, or has others in their place."""
    lost = [layout.part_key(part.shard) for part in sealed.parts if sizes.get(part.shard) != part.size]
    if lost:
        raise OutputError(
            f"the sealed output {store.url} is damaged",
            found=f"{len(lost)} of {len(sealed.parts)} parts are not as sealed, the first is {lost[0]}",
            advice="bring them back from a copy, or use another output folder; `batchrec verify` lists all faults",
        )


def run_job(
    spec: JobSpec, observer: Observer | None = None, *, on_plan: Callable[[Job], None] = lambda _: None
) -> RunSummary:
    """Run a job to its end, or resume it, and return its report.

    Args:
        spec: What the user asked for.
        observer: Told how the run goes.
        on_plan: Given the resolved job before work begins.

    Raises:
        Refused: Nothing was started.
        Resumable: The run ended early; the same call resumes it.
        Stopped: The run was ended; the same call resumes it.
    """
    began_at = time.time()
    observer = observer or Quiet()
    job = plan_job(spec)
    store = open_store(spec.output, spec.store)
    layout = Layout(job.identity.job_id)
    if not job.complete:
        job = _prepare(store, layout, job)
    on_plan(job)
    sealed = read_seal(store, layout) if job.complete else None
    if sealed is not None:
        return _report(job, store, sealed, RunCounts(), began_at, observer)
    held = claim(store, layout, takeover=spec.takeover, say=observer.say)
    try:
        counts = _run(job, store, layout, held, observer)
        sealed = seal(store, layout, list(job.plan), [file.name for file in job.manifest.files])
    finally:
        held.release()
    return _report(job, store, sealed, counts, began_at, observer)


def _report(job: Job, store: Store, sealed: Seal, counts: RunCounts, began_at: float, observer: Observer) -> RunSummary:
    """Return the report, and keep it unless this run did nothing and an earlier one's is there."""
    summary = summarise(
        sealed,
        counts,
        Output(store, job.identity.job_id, job.identity.fields, job.spec.store).errors(),
        output=job.spec.output,
        model=job.model.name,
        max_failure_rate=job.spec.max_failure_rate,
        began_at=began_at,
    )
    keeps = counts.num_published > 0 or not stands(store, REPORT_KEY)
    if keeps and not advise(store, REPORT_KEY, summary.to_json()):
        observer.say(f"{REPORT_KEY} could not be written; the output is complete all the same")
    return summary


def _prepare(store: Store, layout: Layout, job: Job) -> Job:
    """Prove that the folder can hold a job, make it this one's, and return it with the plan that stands."""
    probe(store)
    bind(store, job.identity)
    record = json.dumps(dict(job.identity.fields), sort_keys=True, indent=1).encode()
    create_or_compare(store, layout.spec_key, record, same=lambda _: True)  # for people; OUTPUT.json binds
    # Whoever was first decided the boundaries; any plan of the same rows will do.
    create_or_compare(store, layout.plan_key, job.plan.to_parquet(), same=lambda _: True)
    return replace(job, plan=_standing_plan(store, layout, job.plan))


def _standing_plan(store: Store, layout: Layout, wanted: Plan) -> Plan:
    """Return the plan an output has, or the wanted one where it has none yet."""
    try:
        standing = Plan.from_parquet(store.read(layout.plan_key))
    except KeyMissing:
        return wanted
    if standing.num_rows != wanted.num_rows:
        raise OutputError(
            f"the plan in {store.url} is not one of this manifest",
            found=f"{standing.num_rows:,} rows where the job has {wanted.num_rows:,}",
            advice="it was damaged after it was written: choose another output folder",
        )
    return standing


def _run(job: Job, store: Store, layout: Layout, held: Claim, observer: Observer) -> RunCounts:
    done = standing_parts(store, layout, len(job.plan))
    ledger = Ledger(job.plan, done, run_id=uuid.uuid4().hex[:12])
    if ledger.finished:
        return RunCounts()
    with open_pool(job, worker_job(job, store)) as pool:
        coordinator = Coordinator(
            ledger,
            pool,
            num_workers=min(job.placement.num_workers, ledger.num_pending),
            superseded_by=lambda: held.superseded_by,
            abandon=partial(_publish_failed, job, store, layout),
            observer=ProgressFile(observer, store, layout, held.number, job.plan.num_rows, len(job.plan)),
            deadline_s=job.spec.deadline_s,
        )
        return coordinator.run()


def worker_job(job: Job, store: Store) -> WorkerJob:
    """Return what each worker is told of a job."""
    spec = job.spec
    return WorkerJob(
        job_id=job.identity.job_id,
        output=store.url,
        store=spec.store,
        manifest=job.manifest,
        policy=UriPolicy(job.manifest.root, spec.input_roots, spec.allow_buckets),
        limits=spec.image_limits,
        model=job.model,
        precision=job.precision,
        device=job.placement.device,
        backend=spec.backend,
        batch_size=spec.batch_size,
        top_k=spec.top_k,
        num_threads=job.placement.num_threads,
        facts={
            "model": job.model.name,
            "weights_sha256": job.model.weights_sha256,
            "labels_sha256": job.model.labels_sha256,
            "preprocess": job.model.preprocess.to_json(),
            "batchrec": version("batchrec"),
        },
    )


@contextmanager
def open_pool(job: Job, work: WorkerJob) -> Iterator[Pool]:
    """Open the pool a job asks for; Ray is started here, and only if it is asked for."""
    make_worker = partial(Worker, work)
    if job.spec.pool == "inline":
        yield InlinePool(make_worker)
        return
    from batchrec.engine.ray_pool import RayPool, connected_ray

    placement = job.placement
    with connected_ray(num_cpus=placement.num_threads * placement.num_workers):
        yield RayPool(make_worker, num_cpus=placement.num_threads, num_gpus=int(placement.device == "cuda"))


def _publish_failed(job: Job, store: Store, layout: Layout, shard: Shard, reason: str) -> None:
    """Publish the rows of a shard past its caps as errors, so that every row still ends once."""
    attempt = Attempt(shard, 0, f"abandoned-{uuid.uuid4().hex[:12]}")
    reader = RowReader(job.manifest, job.spec.store)
    rows = failed_rows(reader.read(shard), attempt, ErrorCode.SHARD_FAILED, reason[:300])
    reader.close()
    facts = worker_job(job, store).facts
    data = encode_part(rows, job_id=layout.job_id, shard=shard.index, attempt_id=attempt.attempt_id, facts=facts)
    publish_part(store, layout.part_key(shard.index), data)
