"""What a worker makes sure of before it takes work."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from batchrec.engine import worker
from batchrec.engine.identity import bind
from batchrec.engine.worker import Worker
from batchrec.engine.worker_job import WorkerJob, open_model
from batchrec.errors import ModelError, OutputError
from batchrec.job import worker_job
from batchrec.models.backends import Backend
from batchrec.planning import Job, plan_job
from batchrec.spec import JobSpec, StoreOptions
from batchrec.storage import Store, open_store, probe


@pytest.fixture
def planned(archive: Path, tmp_path: Path) -> Job:
    return plan_job(JobSpec(source=(str(archive / "manifest.parquet"),), output=str(tmp_path / "out"), pool="inline"))


def test_a_worker_refuses_a_folder_that_is_not_the_coordinators(planned: Job, tmp_path: Path) -> None:
    """On another machine a local path is another disk, where nothing was prepared."""
    store = open_store(planned.spec.output, StoreOptions())
    with pytest.raises(OutputError, match=r"is not the folder the coordinator prepared .*no job"):
        Worker(worker_job(planned, store)).start()


def test_a_batch_that_does_not_fit_into_memory_is_refused_by_its_setting(planned: Job) -> None:
    store = open_store(planned.spec.output, StoreOptions())
    bind(store, planned.identity)
    job = worker_job(planned, store)
    with pytest.raises(ModelError, match=r"batches of 9,999,999,999 images do not fit into memory .*--batch-size"):
        Worker(replace(job, backend="openvino", batch_size=9_999_999_999)).start()


def test_a_folder_that_is_anothers_is_told_rather_than_a_model_that_cannot_be_loaded(planned: Job) -> None:
    job = worker_job(planned, open_store(planned.spec.output, StoreOptions()))
    with pytest.raises(OutputError, match="is not the folder the coordinator prepared"):
        Worker(replace(job, backend="openvino", batch_size=9_999_999_999)).start()


def test_a_store_is_proven_while_the_model_is_loaded(planned: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(planned.spec.output, StoreOptions())
    bind(store, planned.identity)
    proving, loading = threading.Event(), threading.Event()

    def slow_probe(store: Store) -> None:
        proving.set()
        assert loading.wait(60), "the model waits for the store"
        probe(store)

    def slow_model(job: WorkerJob) -> tuple[Backend, str]:
        loading.set()
        assert proving.wait(60), "the store waits for the model"
        return open_model(job)

    monkeypatch.setattr(worker, "probe", slow_probe)
    monkeypatch.setattr(worker, "open_model", slow_model)
    started = Worker(worker_job(planned, store))
    assert started.start().device == "cpu"
    started.close()


def test_a_worker_refuses_a_folder_of_another_job(planned: Job, archive: Path, tmp_path: Path) -> None:
    store = open_store(planned.spec.output, StoreOptions())
    other = plan_job(planned.spec.replace(top_k=2))
    bind(store, other.identity)
    with pytest.raises(OutputError, match=f"found: job {other.identity.job_id[:12]}"):
        Worker(worker_job(planned, store)).start()
