"""One job from end to end: resolve it, wire the flow once, run it, seal it, report it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from functools import partial
from importlib.metadata import version

from batchrec.engine.budget import FailureBudget
from batchrec.engine.calibrating import calibrated
from batchrec.engine.claims import Claim, claim
from batchrec.engine.coordinator import Coordinator, Observer
from batchrec.engine.counting import RunCounts
from batchrec.engine.definition import define
from batchrec.engine.devices import available_cores
from batchrec.engine.expecting import keep_outside, recall_expectation
from batchrec.engine.identity import bind
from batchrec.engine.int8_record import keep_quantised
from batchrec.engine.ledger import Ledger
from batchrec.engine.request_budget import FIRST_SHARE, BudgetedPool
from batchrec.engine.sites import OpenPool, Site
from batchrec.engine.stalling import StallWatch
from batchrec.engine.summing import summarise
from batchrec.engine.telling import Journal, Quiet
from batchrec.engine.worker import Worker
from batchrec.engine.worker_job import WorkerJob
from batchrec.errors import AccessError, ErrorCode, StorageLost
from batchrec.manifest.rows import RowReader
from batchrec.models.bundle import ModelSpec
from batchrec.models.carrying import carry_weights
from batchrec.output.advising import advise
from batchrec.output.layout import REPORT_KEY, Layout
from batchrec.output.parts import encode_part, publish_part
from batchrec.output.reading import Output
from batchrec.output.rows import failed_rows
from batchrec.output.seal import Seal, read_seal, seal, standing_parts
from batchrec.planning import Job, plan_job, standing_plan
from batchrec.records import Attempt, Shard
from batchrec.report.summary import RunSummary
from batchrec.spec import JobSpec
from batchrec.storage import Store, UriPolicy, create_or_compare, open_store, probe, stands


def run_job(
    spec: JobSpec,
    observer: Observer | None = None,
    *,
    site: Site | None = None,
    model: ModelSpec | None = None,
    on_plan: Callable[[Job], None] = lambda _: None,
) -> RunSummary:
    """Run a job to its end, or resume it, and return its report.

    Args:
        spec: What the user asked for.
        observer: Told how the run goes.
        site: Where its workers run; what the spec and this process say when None.
        model: The model, where somebody resolved it already; the spec's otherwise.
        on_plan: Given the resolved job before work begins.

    Raises:
        Refused: No image was recognised.
        Resumable: The run ended early; the same call resumes it.
        Stopped: The run was ended; the same call resumes it.
    """
    began_at, began = time.time(), time.monotonic()
    observer = observer or Quiet()
    job = plan_job(spec, site=site, model=model)
    store = open_store(spec.output, spec.store)
    layout = Layout(job.identity.job_id)
    sealed = read_seal(store, layout) if job.complete else None
    if sealed is not None:
        on_plan(job)
        if not stands(store, layout.spec_key):  # a repair moved it away; whoever may only read does without
            with suppress(AccessError, StorageLost):
                define(store, layout, job.identity, job.spec)
        return _report(job, store, sealed, RunCounts(), began_at, began, observer)
    job = quantised(job, store, observer.say)
    with ExitStack() as started:
        open_pool = started.enter_context(job.site.starting(job.placement))
        job = prepare(store, layout, job)
        on_plan(job)
        held = claim(store, layout, takeover=spec.takeover, say=observer.say)
        try:
            counts = _run(job, store, layout, held, open_pool, observer, began)
            started.close()
            job = _bind(store, layout, job)  # not into a folder that another job took, or without its plan
            sealed = seal(store, layout, list(job.plan), [file.name for file in job.manifest.files])
        finally:
            held.release()
    return _report(job, store, sealed, counts, began_at, began, observer)


def _report(
    job: Job, store: Store, sealed: Seal, counts: RunCounts, began_at: float, began: float, observer: Observer
) -> RunSummary:
    """Return the report, and keep it unless this run did nothing and an earlier one's is there."""
    summary = summarise(
        sealed,
        counts,
        Output(store, job.identity.job_id, job.identity.fields, job.spec.store).own_errors(),
        output=job.spec.output,
        model=job.model.name,
        agreement=job.agreement,
        max_failure_rate=job.spec.max_failure_rate,
        began_at=began_at,
        wall_s=time.monotonic() - began,
    )
    if counts.num_published and not job.site.spans_machines:
        keep_outside(job.spec, job.model, job.placement, summary)
        summary = replace(summary, expectation=recall_expectation(job.spec, job.identity, job.placement))
    keeps = counts.num_published > 0 or not stands(store, REPORT_KEY)
    if keeps and not advise(store, REPORT_KEY, summary.to_json()):
        observer.say(f"{REPORT_KEY} could not be written; the output is complete all the same")
    return summary


def quantised(job: Job, store: Store, say: Callable[[str], None] = lambda _: None) -> Job:
    """Return a job whose model is ready: quantised, where the job is in int8 and no earlier run did it.

    A job that is refused for its model leaves the folder unbound.
    """
    if job.precision != "int8" or job.model.quantised:
        return job
    probe(store)  # before it takes minutes
    say("quantising the model by a sample of the manifest: once for a job, it takes a minute or two")
    found = calibrated(job.spec, job.manifest, job.plan, job.model, store, num_threads=available_cores())
    return replace(job, model=replace(job.model, quantised=found))


def prepare(store: Store, layout: Layout, job: Job) -> Job:
    """Prove that the folder can hold a job whose model is ready, make it this one's, and return it as it is there."""
    probe(store)
    job = _bind(store, layout, job)
    if job.model.quantised is None:
        return job
    return replace(job, model=replace(job.model, quantised=keep_quantised(store, layout, job.model.quantised)))


def _bind(store: Store, layout: Layout, job: Job) -> Job:
    """Make the folder this job's, or find that it is, and return the job with the plan that stands."""
    bind(store, job.identity)
    define(store, layout, job.identity, job.spec)
    # Whoever was first decided the boundaries; any plan of the same rows will do.
    create_or_compare(store, layout.plan_key, job.plan.to_parquet(), same=lambda _: True)
    return replace(job, plan=standing_plan(store, layout, job.plan))


def _run(
    job: Job, store: Store, layout: Layout, held: Claim, open_pool: OpenPool, observer: Observer, began: float
) -> RunCounts:
    done = standing_parts(store, layout, len(job.plan))
    ledger = Ledger(job.plan, done, run_id=uuid.uuid4().hex[:12])
    if ledger.finished:
        return RunCounts()
    observer = _metered(job, observer)
    if job.site.spans_machines:
        carry_weights(job.model, store)
    with closing(Journal(observer, store, layout, held.number, job.plan.num_rows, len(job.plan))) as journal:
        pool = open_pool(partial(Worker, worker_job(job, store)))
        max_requests = job.spec.max_requests
        coordinator = Coordinator(
            ledger,
            pool if max_requests is None else BudgetedPool(pool, max_requests),
            num_workers=job.spec.workers,
            superseded_by=lambda: held.superseded_by,
            abandon=partial(_publish_failed, job, store, layout),
            observer=journal,
            deadline_s=job.spec.deadline_s,
            late_s=time.monotonic() - began,
            workers_within_s=job.spec.workers_within_s,
            failure_budget=FailureBudget(job.spec.max_failure_rate if job.spec.fail_fast else 1.0),
            stall_watch=StallWatch(stall_s=job.spec.stall_s, decode_within_s=job.spec.decode_within_s),
        )
        return coordinator.run()


def _metered(job: Job, observer: Observer) -> Observer:
    """Export metrics where a cluster collects them; a Ray of the run's own ends before anybody looks."""
    if not job.site.spans_machines:
        return observer
    from batchrec.report.metrics import RayMetrics

    return RayMetrics(observer, job.identity.job_id[:12])


def worker_job(job: Job, store: Store) -> WorkerJob:
    """Return what each worker is told of a job."""
    spec = job.spec
    return WorkerJob(
        job_id=job.identity.job_id,
        output=store.url,
        store=spec.store,
        manifest=job.manifest,
        policy=UriPolicy(job.manifest.root, spec.input_roots, spec.allow_buckets, spec.allow_http),
        limits=spec.image_limits,
        model=job.model,
        precision=job.precision,
        device=job.placement.device,
        backend=spec.backend,
        batch_size=spec.batch_size,
        top_k=spec.top_k,
        num_threads=job.placement.num_threads,
        embedding=job.embedding,
        decode_within_s=spec.decode_within_s,
        shrink_to=job.model.preprocess.shrink_to(spec.decoding),
        nvjpeg=spec.decoding == "nvjpeg",
        first_reads=None if spec.max_requests is None else FIRST_SHARE,
        decode_helpers=spec.decode_helpers,
        facts=part_facts(job),
    )


def part_facts(job: Job) -> dict[str, object]:
    """Return what every part's footer says of a job, for people."""
    quantised = job.model.quantised
    return {
        **({"quantised_sha256": quantised.sha256} if quantised else {}),
        "model": job.model.name,
        "weights_sha256": job.model.weights_sha256,
        "labels_sha256": job.model.labels_sha256,
        "preprocess": job.model.preprocess.to_json(),
        "batchrec": version("batchrec"),
    }


def _publish_failed(job: Job, store: Store, layout: Layout, shard: Shard, reason: str) -> None:
    """Publish the rows of a shard past its caps as errors, so that every row still ends once."""
    attempt = Attempt(shard, 0, f"abandoned-{uuid.uuid4().hex[:12]}")
    with closing(RowReader(job.manifest, job.spec.store)) as reader:
        rows = failed_rows(reader.read(shard), attempt, ErrorCode.SHARD_FAILED, reason[:300], job.embedding)
    facts = part_facts(job)
    data = encode_part(rows, job_id=layout.job_id, shard=shard.index, attempt_id=attempt.attempt_id, facts=facts)
    publish_part(store, layout.part_key(shard.index), data)
