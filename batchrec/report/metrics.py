"""A run's metrics, through Ray to whatever scrapes the cluster. Ray puts ``ray_`` before each name.

    batchrec_images_total{job_id, status, code}    counter
    batchrec_bytes_total{job_id, direction}        counter   read, written
    batchrec_attempts_total{job_id, reason}        counter   published, failed, lost
    batchrec_stage_seconds_total{job_id, stage}    counter   thread-seconds in fetch, decode, predict, write
    batchrec_workers{job_id, state}                gauge     wanted, ready; and decode helpers
    batchrec_shards{job_id, state}                 gauge     pending, in_flight, done, abandoned
    batchrec_queue_fill{job_id, queue}             gauge     0 to 1, mean over the workers: images, batches

Images, bytes and stage seconds are counted when their shard is published.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from ray.util.metrics import Counter, Gauge

from batchrec.records import WorkerFacts
from batchrec.stats import RunProgress


class _Observer(Protocol):
    """Who is told how the run goes; see :class:`batchrec.engine.coordinator.Observer`."""

    def worker_ready(self, facts: WorkerFacts) -> None: ...
    def say(self, message: str) -> None: ...
    def tick(self, progress: RunProgress) -> None: ...


class RayMetrics:
    """Passes everything on, and exports it as metrics of the connected Ray.

    Args:
        observer: Who else is told.
        job_id: Distinguishes jobs; the first twelve characters are enough.
    """

    def __init__(self, observer: _Observer, job_id: str) -> None:
        self._observer, self._job_id = observer, job_id
        self._images = _Total("batchrec_images_total", "Images by status and error code.", ("status", "code"))
        self._bytes = _Total("batchrec_bytes_total", "Bytes read and written.", ("direction",))
        self._attempts = _Total("batchrec_attempts_total", "Attempts by what became of them.", ("reason",))
        self._stage_s = _Total("batchrec_stage_seconds_total", "Thread-seconds by stage.", ("stage",))
        self._workers = Gauge("batchrec_workers", "Workers by state.", ("job_id", "state"))
        self._shards = Gauge("batchrec_shards", "Shards by state.", ("job_id", "state"))
        self._fill = Gauge("batchrec_queue_fill", "How full the workers' queues are, 0 to 1.", ("job_id", "queue"))

    def worker_ready(self, facts: WorkerFacts) -> None:
        """See :class:`batchrec.engine.coordinator.Observer`."""
        self._observer.worker_ready(facts)

    def say(self, message: str) -> None:
        """See :class:`batchrec.engine.coordinator.Observer`."""
        self._observer.say(message)

    def tick(self, progress: RunProgress) -> None:
        """See :class:`batchrec.engine.coordinator.Observer`."""
        self._observer.tick(progress)
        stats, job_id = progress.stats, self._job_id
        images: dict[tuple[str, ...], float] = {("error", code): n for code, n in stats.num_errors.items()}
        images["ok", ""] = stats.num_ok
        self._images.rise(job_id, images)
        self._bytes.rise(job_id, {("read",): stats.read_bytes, ("written",): stats.written_bytes})
        self._attempts.rise(job_id, {(reason,): count for reason, count in progress.attempts.items()})
        self._stage_s.rise(job_id, {(stage,): seconds for stage, seconds in stats.stage_s.items()})
        for gauge, tag, values in (
            (self._workers, "state", progress.workers),
            (self._shards, "state", progress.shards),
            (self._fill, "queue", progress.fill),
        ):
            for name, value in values.items():
                gauge.set(value, {"job_id": job_id, tag: name})


class _Total:
    """A counter that is told totals and passes on how much they rose."""

    def __init__(self, name: str, description: str, tags: tuple[str, ...]) -> None:
        self._counter = Counter(name, description, ("job_id", *tags))
        self._tags = tags
        self._told: dict[tuple[str, ...], float] = {}

    def rise(self, job_id: str, totals: Mapping[tuple[str, ...], float]) -> None:
        for values, total in totals.items():
            if (rise := total - self._told.get(values, 0.0)) > 0:
                self._told[values] = total
                self._counter.inc(rise, {"job_id": job_id, **dict(zip(self._tags, values, strict=True))})
