"""Terms measured with the worker's own parts, on a few real images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrec.engine import measuring, sampling
from batchrec.engine.identity import bind
from batchrec.engine.measuring import (
    busy_cores,
    measure_decode,
    measure_fetch,
    measure_model,
    measure_transfer,
    measure_write,
)
from batchrec.engine.sampling import run_sample, sample_uris, spread, steady_rate
from batchrec.engine.worker_job import WorkerJob, open_decoder, open_model, open_reader
from batchrec.errors import Refused
from batchrec.job import worker_job
from batchrec.manifest.planning import plan_shards
from batchrec.manifest.rows import RowReader
from batchrec.models.backends.transfer import copied_bytes_per_s
from batchrec.planning import Job, plan_job
from batchrec.spec import JobSpec, StoreOptions
from batchrec.storage import ImageReader, Store, open_store


@pytest.fixture(autouse=True)
def short_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FETCH_S", "DECODE_S", "MODEL_S", "CORES_S"):
        monkeypatch.setattr(measuring, name, 0.1)
    monkeypatch.setattr(sampling, "RUN_S", 0.2)


@pytest.fixture
def job(archive: Path, tmp_path: Path) -> Job:
    manifest = str(archive / "manifest.parquet")
    output = str(tmp_path / "out")
    return plan_job(JobSpec(source=(manifest,), output=output, pool="inline", backend="torch-eager", batch_size=8))


@pytest.fixture
def scratch(job: Job, tmp_path: Path) -> Store:
    store = open_store(str(tmp_path / "scratch"), StoreOptions())
    bind(store, job.identity)
    return store


@pytest.fixture
def work(job: Job, scratch: Store) -> WorkerJob:
    return worker_job(job, scratch)


@pytest.fixture
def reader(work: WorkerJob) -> Iterator[ImageReader]:
    reader = open_reader(work)
    yield reader
    reader.close()


def test_reading_is_measured_with_as_many_reads_as_a_worker_has(work: WorkerJob, job: Job, reader: ImageReader) -> None:
    uris = sample_uris(work, job.plan, 160)
    term, images = measure_fetch(reader, uris, "local disk")
    assert len(set(uris)) == 160
    assert (term.source, term.num_in_flight) == ("local disk", reader.concurrency())
    assert 0 < len(images) < 160  # some of the archive is missing, and the first reads only warm up
    assert term.image_bytes == pytest.approx(sum(map(len, images)) / len(images))
    assert min(term.images_per_s, term.latency_s, term.core_s) > 0


def test_a_sample_of_which_nothing_can_be_read_is_refused_with_the_reason(reader: ImageReader) -> None:
    with pytest.raises(Refused, match=r"no image of the sample could be read.*2 not_found"):
        measure_fetch(reader, ["gone.jpg", "gone-too.jpg"], "local disk")


def test_decoding_is_measured_on_readable_images_only(work: WorkerJob, job: Job, reader: ImageReader) -> None:
    _, images = measure_fetch(reader, sample_uris(work, job.plan, 40), "local disk")
    assert 1e-5 < measure_decode(open_decoder(work), [*images, b"no image"], 2) < 1
    with pytest.raises(Refused, match=r"no image of the sample could be decoded.*not_an_image"):
        measure_decode(open_decoder(work), [b"no image"], 1)


def test_the_model_is_measured_alone_and_parts_are_published(work: WorkerJob, job: Job, scratch: Store) -> None:
    backend, _ = open_model(work)
    term = measure_model(backend, job.model.preprocess.crop)
    assert (term.backend, term.on_cpu, term.batch_size) == ("torch-eager", True, 8)
    assert term.images_per_s > 0
    assert measure_transfer(backend, job.model.preprocess.crop) is None
    shard = spread(job.plan, 40)[0]
    rows = RowReader(job.manifest, job.spec.store).read(shard)
    written = measure_write(work, scratch, rows, shard, backend)
    assert min(written.images_per_s, written.core_s) > 0
    assert len(list(scratch.list("measured/"))) > 1


def test_a_whole_worker_is_watched_without_touching_the_output(work: WorkerJob, job: Job) -> None:
    assert run_sample(work, job.plan) > 1
    assert not Path(job.spec.output).exists()


def test_a_sample_that_cannot_be_predicted_raises_what_a_job_would(work: WorkerJob, job: Job, scratch: Store) -> None:
    elsewhere = replace(work, output=f"{work.output}-unprepared")
    with pytest.raises(Refused, match="is not the folder the coordinator prepared"):
        run_sample(elsewhere, job.plan)


def test_the_rate_is_that_of_rows_coming_back_not_of_the_wait_for_the_first() -> None:
    assert steady_rate([(100.0 + 0.5 * batch, 64 + 32 * batch) for batch in range(9)]) == pytest.approx(64)


@pytest.mark.parametrize("events", [[], [(100.0, 64)]])
def test_a_model_that_answers_nothing_is_not_watched_for_ever(events: list[sampling.Event]) -> None:
    assert not sampling._is_enough(events, 119)
    with pytest.raises(Refused, match="no batch came back in 120 s"):
        sampling._is_enough(events, 120)


def test_copies_are_measured_through_the_same_interface_without_a_device() -> None:
    assert copied_bytes_per_s("cpu", 2**20, seconds=0.01) > 2**20


def test_busy_threads_show_the_cores_there_are() -> None:
    assert 0 < busy_cores(1) < 1.5


@given(st.lists(st.integers(0, 3_000), min_size=1, max_size=6), st.integers(1, 2_000))
def test_a_sample_comes_from_all_over_the_manifest_and_only_from_it(rows_by_file: list[int], num_rows: int) -> None:
    plan = plan_shards([1, *rows_by_file], 256, None)
    shards = spread(plan, num_rows)
    assert 1 <= len(shards) <= 8
    assert shards[0].index == 0
    for shard in shards:
        whole = plan[shard.index]
        assert (shard.first_row, shard.file) == (whole.first_row, whole.file)
        assert 1 <= shard.num_rows <= whole.num_rows
