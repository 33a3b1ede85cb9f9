"""What a worker tells of its rows, and when it may be helped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchrec.engine import worker
from batchrec.engine.identity import bind
from batchrec.errors import AccessLost, OutputError, StorageLost
from batchrec.job import worker_job
from batchrec.output.layout import Layout
from batchrec.planning import plan_job
from batchrec.records import Attempt, Shard
from batchrec.spec import JobSpec
from batchrec.storage import open_store
from tests.engine.helped_worker import HashingWorker
from tests.engine.thread_help import ThreadHelp
from tests.output.making import OTHER_JOB, part_of

ATTEMPT = Attempt(Shard(0, 0, 0, 40, 0), 1, "run-1-1")


@pytest.fixture
def spec(archive: Path, tmp_path: Path) -> JobSpec:
    """A job whose first ten images are missing."""
    uris = pq.read_table(archive / "manifest.parquet").column("uri").to_pylist()[:30]
    pq.write_table(pa.table({"uri": [f"absent-{row}.jpg" for row in range(10)] + uris}), tmp_path / "m.parquet")
    return JobSpec(
        source=(str(tmp_path / "m.parquet"),),
        output=str(tmp_path / "out"),
        pool="inline",
        manifest_root=str(archive),
    )


@pytest.fixture
def made(spec: JobSpec) -> Iterator[HashingWorker]:
    made = opened(spec)
    made.start()
    yield made
    made.close()


def opened(spec: JobSpec) -> HashingWorker:
    job, store = plan_job(spec), open_store(spec.output, spec.store)
    bind(store, job.identity)
    return HashingWorker(worker_job(job, store))


def num_rows(made: HashingWorker) -> int:
    counts = made.live_counts()
    return counts.num_ok + counts.num_failed


def test_rows_of_an_attempt_that_could_not_be_published_count_once_when_it_is_done_again(
    made: HashingWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(*_: object) -> NoReturn:
        raise StorageLost("the store does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(worker, "publish_part", lose)
        with pytest.raises(StorageLost):
            made.run(ATTEMPT)
    assert num_rows(made) == 0
    stats = made.run(ATTEMPT).stats
    counts = made.live_counts()
    assert (counts.num_ok, counts.num_errors) == (stats.num_ok, stats.num_errors)
    assert num_rows(made) == 40


def test_rows_of_an_attempt_that_was_refused_do_not_count(made: HashingWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> NoReturn:
        raise AccessLost("40 of 40 images of a shard could not be had: access_denied", advice="grant access")

    monkeypatch.setattr(worker, "refuse_systemic", refuse)
    with pytest.raises(AccessLost):
        made.run(ATTEMPT)
    assert num_rows(made) == 0
    assert not made.live_counts().num_errors


def test_a_repeated_attempt_takes_the_part_that_stands_and_reads_no_image(
    made: HashingWorker, spec: JobSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = made.run(ATTEMPT)
    again = opened(spec)
    again.start()

    def predict(*_: object) -> NoReturn:
        raise AssertionError("its part stands")

    monkeypatch.setattr(again, "_predict", predict)
    second = again.run(replace(ATTEMPT, number=2, attempt_id="run-1-2"))
    assert (second.attempt_id, second.published) == (first.attempt_id, False)
    assert (second.stats.num_ok, second.stats.num_errors) == (first.stats.num_ok, first.stats.num_errors)
    assert num_rows(again) == 40
    again.close()


def test_a_repeated_attempt_does_not_take_a_part_of_another_job(made: HashingWorker, spec: JobSpec) -> None:
    key = Layout(made._job.job_id).part_key(0)
    open_store(spec.output, spec.store).create(key, part_of(ATTEMPT.shard, job_id=OTHER_JOB))
    with pytest.raises(OutputError, match="is not a part of this job"):
        made.run(replace(ATTEMPT, number=2))


@pytest.mark.parametrize("embedded", [False, True])
def test_images_inside_the_manifest_are_nothing_to_help_with(spec: JobSpec, tmp_path: Path, embedded: bool) -> None:
    if embedded:
        pq.write_table(pa.table({"image": pa.array([b"one", b"two"])}), tmp_path / "held.parquet")
        spec = replace(spec, source=(str(tmp_path / "held.parquet"),))
    made = opened(spec)
    made.start(ThreadHelp())
    assert (made._helping is None) == embedded
    made.close()
