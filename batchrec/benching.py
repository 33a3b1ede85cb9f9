"""Measuring this machine with a job's own images and model: behind `batchrec bench` and `batchrec plan --measure`."""

from __future__ import annotations

import datetime
import os
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

from batchrec.engine.devices import cuda_trouble, num_cuda_devices, usable_cores
from batchrec.engine.expecting import keep_expectation, recall_outside
from batchrec.engine.measuring import (
    busy_cores,
    measure_decode,
    measure_fetch,
    measure_model,
    measure_transfer,
    measure_write,
)
from batchrec.engine.sampling import run_sample, sample_uris, spread
from batchrec.engine.scratch import scratch_beside
from batchrec.engine.worker_job import WorkerJob, open_decoder, open_model, open_reader
from batchrec.errors import ModelError, Refused
from batchrec.job import prepare, quantised, run_job, worker_job
from batchrec.learning.drawing import draw_archive
from batchrec.manifest.rows import RowReader
from batchrec.models.backends import Backend, resolve_precision
from batchrec.models.carrying import model_here
from batchrec.output.layout import Layout
from batchrec.planning import Job, plan_job
from batchrec.report.expectation import Expectation
from batchrec.report.limit import Limit, ModelTerm, Terms, WriteTerm, limit_of
from batchrec.report.measurement import Cores, Measurement, Untried
from batchrec.settings import Settings
from batchrec.spec import StoreOptions
from batchrec.storage import Store, UriPolicy, open_store

#: Images drawn where none are named, of the size and weight of photographs in ImageNet.
NUM_DRAWN, DRAWN_SIZE = 128, (500, 375)
_NUM_SAMPLED = 512
#: Rows of the job that shows how long a start takes, where no run of this model is remembered.
_ROWS_OF_A_START = 64
#: What whole workers pass by so much is no limit: something else ran while it was measured.
_PASSED = 1.02


def bench(settings: Settings) -> Measurement:
    """Measure this machine on the images that are named, or on drawn ones; under a minute.

    Args:
        settings: Those of a job. Parts are tried beside its output where that is named.

    Raises:
        BatchrecError: What the job itself would raise, and where no image of the sample can be used.
    """
    values = settings.values
    options = StoreOptions(values["s3_endpoint"], values["s3_region"], values["s3_requester_pays"])
    with tempfile.TemporaryDirectory(prefix="batchrec-") as drawn, scratch_beside(values["output"], options) as scratch:
        source = values["source"] or (_draw(Path(drawn)),)
        found = Settings({**values, "source": source, "output": f"{scratch}/out"}, settings.origins)
        return measure(plan_job(found.to_spec()), scratch, compare_backends=True)


def measure_plan(job: Job) -> Measurement:
    """Measure this machine on a planned job; writes nothing to its output."""
    # A resumed job's quantised model may lie beside the output only.
    job = replace(job, model=model_here(job.model, open_store(job.spec.output, job.spec.store)))
    with tempfile.TemporaryDirectory(prefix="batchrec-") as scratch:
        return measure(job, scratch)


def measure(job: Job, scratch: str, *, compare_backends: bool = False) -> Measurement:
    """Measure what one image of a job costs here, and what whole workers reach; remember what its report will ask for.

    Args:
        job: The job; its output is left alone.
        scratch: Folder, local or ``s3://``, that parts are tried in.
        compare_backends: Whether to measure the model on other backends too.

    Raises:
        BatchrecError: What the job itself would raise, and where no image of the sample can be used.
    """
    if job.site.spans_machines:
        raise Refused("a cluster cannot be measured from here", advice="run `batchrec bench` on one of its machines")
    store = open_store(f"{scratch}/sample", job.spec.store)
    job = prepare(store, Layout(job.identity.job_id), quantised(job, store))
    work, placement = worker_job(job, store), job.placement
    if job.spec.max_requests is not None:  # what a worker would soon be told of
        work = replace(work, first_reads=max(1, job.spec.max_requests // placement.num_workers))
    num_asked = placement.num_threads * placement.num_workers
    cores = Cores(os.cpu_count() or 1, usable_cores(), busy_cores(num_asked))
    num_cores = min(placement.num_threads, cores.num_usable)
    terms, num_images = _measure_terms(work, job, store, num_cores)
    rows_per_s = run_sample(work, job.plan)
    limit_here = partial(limit_of, num_cores=min(num_asked, cores.num_usable), num_workers=placement.num_workers)
    limit = limit_here(terms)
    disturbed = placement.num_workers * rows_per_s > _PASSED * limit.images_per_s
    if disturbed and limit.binds == "cpu" and not work.nvjpeg:  # a device that decodes is no core
        terms = terms.at_best(_measure_terms(work, job, store, num_cores)[0])
    others, untried = _compare_backends(work, terms.model) if compare_backends else ((), ())
    found = Measurement(
        model=job.model.name,
        num_images=num_images,
        cores=cores,
        num_workers=placement.num_workers,
        cores_per_worker=placement.num_threads,
        terms=terms,
        other_models=others,
        untried=(*untried, *_untried_here(job, scratch)),
        expectation=_expect(job, scratch, limit_here(terms), rows_per_s),
    )
    keep_expectation(job.spec, job.identity, placement, found.expectation)
    return found


def _draw(folder: Path) -> str:
    return str(draw_archive(folder, num_images=NUM_DRAWN, size=DRAWN_SIZE))


def _measure_terms(work: WorkerJob, job: Job, store: Store, num_cores: float) -> tuple[Terms, int]:
    """Measure each term of one worker alone; also return how many images were looked at."""
    uris, crop = sample_uris(work, job.plan, _NUM_SAMPLED), job.model.preprocess.crop
    with closing(open_reader(work)) as reader:
        fetch, images = measure_fetch(reader, uris, _source_of(work.policy))
    decode_core_s = measure_decode(open_decoder(work), images, work.num_threads)
    backend, _ = open_model(work)
    terms = Terms(
        num_cores=num_cores,
        fetch=fetch,
        decode_core_s=decode_core_s,
        model=measure_model(backend, crop),
        write=_measure_write(work, job, store, backend),
        transfer_images_per_s=measure_transfer(backend, crop),
    )
    return terms, len(images)


def _measure_write(work: WorkerJob, job: Job, store: Store, backend: Backend) -> WriteTerm:
    shard = spread(job.plan, _NUM_SAMPLED)[0]
    with closing(RowReader(job.manifest, job.spec.store)) as reader:
        return measure_write(work, store, reader.read(shard), shard, backend)


def _source_of(policy: UriPolicy) -> str:
    if policy.hosts:
        return "http"
    return "s3" if policy.buckets else "local disk"


def _compare_backends(work: WorkerJob, chosen: ModelTerm) -> tuple[tuple[ModelTerm, ...], tuple[Untried, ...]]:
    """Measure the model on the CPU backends that were not chosen."""
    if not chosen.on_cpu:
        work = replace(work, device="cpu", precision=resolve_precision("auto", "cpu"), batch_size=None)
    measured, untried = [], []
    for name in sorted({"openvino", "torch-eager"} - {chosen.backend}):
        try:
            backend, _ = open_model(replace(work, backend=name))
        except ModelError as error:
            untried.append(Untried(name, str(error)))
        else:
            measured.append(measure_model(backend, work.model.preprocess.crop))
    if chosen.backend != "torch-inductor":
        untried.append(Untried("torch-inductor", "compiling takes half a minute; --backend torch-inductor measures it"))
    return tuple(measured), tuple(untried)


def _untried_here(job: Job, scratch: str) -> Iterator[Untried]:
    if job.placement.device == "cpu":
        why = cuda_trouble() if num_cuda_devices() else "there is no such device here"
        yield Untried("CUDA and transfer to it", why or "--device cpu")
    if "://" in job.spec.output and "://" not in scratch:
        yield Untried(f"publishing to {job.spec.output}", "parts went to a local disk; `batchrec bench -o` tries it")


def _expect(job: Job, scratch: str, limit: Limit, rows_per_s: float) -> Expectation:
    # Whatever the cores do, workers cannot pass what they share.
    shared = [bound for name, bound in limit.bounds.items() if name != "cpu"]
    return Expectation(
        limit_images_per_s=limit.images_per_s,
        binds=limit.sentence,
        images_per_s=min(rows_per_s * job.placement.num_workers, *shared),
        outside_s=_outside_s(job, scratch),
        measured_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
    )


def _outside_s(job: Job, scratch: str) -> float:
    """Return the seconds of a run beside its images: remembered from the last one, or shown by one of a few rows."""
    if (known := recall_outside(job.spec, job.model, job.placement)) is not None:
        return known
    few = min(_ROWS_OF_A_START, job.plan.num_rows)
    spec = job.spec.replace(output=f"{scratch}/start", limit=few, rows_per_shard=None, deadline_s=None)
    summary = run_job(spec, site=job.site, model=job.model)
    return summary.wall_s - summary.steady_s
