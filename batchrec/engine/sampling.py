"""A short run of one whole worker on a sample of a job: the job's own code and images, published elsewhere."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from itertools import count, cycle

import numpy as np

from batchrec.engine.worker import Worker
from batchrec.engine.worker_job import WorkerJob
from batchrec.errors import Refused
from batchrec.manifest.planning import Plan
from batchrec.manifest.rows import RowReader
from batchrec.manifest.sampling import require_uris
from batchrec.records import Attempt, Shard, WorkerFacts

#: How long a worker is watched, and how long where its batches are slow.
RUN_S, LONGEST_RUN_S = 4.0, 20.0
#: How long the first batches are waited for.
LONGEST_WAIT_S = 120.0
#: Places of a manifest that are looked at: it may be sorted.
_PLACES = 8
_ROWS_OF_A_SHARD = 128
#: A rate is believed once so many batches came back after the first ones.
_MIN_EVENTS = 12
_MAX_SHARDS_AT_ONCE = 32
_LOOK_EVERY_S = 0.002

#: When rows came back, and how many there were then.
Event = tuple[float, int]


def spread(plan: Plan, num_rows: int) -> list[Shard]:
    """Return ranges of rows from all over a plan, about so many rows in all."""
    places = sorted({place * len(plan) // _PLACES for place in range(_PLACES)})
    each = -(-num_rows // len(places))
    return [replace(plan[place], num_rows=min(plan[place].num_rows, each)) for place in places]


def sample_uris(job: WorkerJob, plan: Plan, num_rows: int) -> list[str | None]:
    """Return images from all over a manifest, in no order.

    Raises:
        ManifestError: The manifest holds the images itself.
    """
    require_uris(job.manifest)
    with closing(RowReader(job.manifest, job.store)) as reader:
        uris = [uri for shard in spread(plan, num_rows) for uri in reader.read(shard).uris]
    random.Random(0).shuffle(uris)
    return uris


def run_sample(job: WorkerJob, plan: Plan) -> float:
    """Return the rows a second that one worker ends while it has work: no start, no tail.

    Args:
        job: Its output is a folder of its own, bound to the job.
        plan: Where the rows are; a small one is gone through again and again.

    Raises:
        Refused: The model is too slow to be watched.
        BatchrecError: What a worker of the job itself would raise.
    """
    worker, enough = Worker(job), threading.Event()
    turns = zip(count(), cycle(spread(plan, _PLACES * _ROWS_OF_A_SHARD)), strict=False)
    # As many rows under way as a pool gives to a worker.
    num_feeding = min(_MAX_SHARDS_AT_ONCE, max(2, 2 * plan.rows_per_shard // _ROWS_OF_A_SHARD))
    with ThreadPoolExecutor(num_feeding) as threads:
        try:
            facts = worker.start()
            feeders = [threads.submit(_feed, worker, turns, enough) for _ in range(num_feeding)]
            return steady_rate(_watch(worker, facts, feeders))
        finally:
            enough.set()
            worker.close()  # what is under way is given up


def steady_rate(events: Sequence[Event]) -> float:
    """Return the rate of rows that came back in batches: the slope of a line through all of them."""
    seconds = np.array([at for at, _ in events])
    rows = np.array([num for _, num in events], float)
    return float(np.polyfit(seconds - seconds[0], rows, 1)[0])


def _feed(worker: Worker, turns: Iterator[tuple[int, Shard]], enough: threading.Event) -> None:
    """Give a worker shards, each time one of another number, until it is closed."""
    try:
        while not enough.is_set():
            number, shard = next(turns)
            worker.run(Attempt(replace(shard, index=number), 1, f"sampled-{number}"))
    except RuntimeError:
        if not enough.is_set():
            raise


def _watch(worker: Worker, facts: WorkerFacts, feeders: Sequence[Future[None]]) -> list[Event]:
    """Note each time rows come back, the first batches left out, until enough is known."""
    first_rows, began = 2 * facts.num_predicting * facts.batch_size, time.monotonic()
    events: list[Event] = []
    while not _is_enough(events, time.monotonic() - began):
        if ended := next((feeder for feeder in feeders if feeder.done()), None):
            ended.result()  # raises: a feeder ends by itself for no other reason
        time.sleep(_LOOK_EVERY_S)
        counts = worker.live_counts()
        num_rows = counts.num_ok + counts.num_failed
        if num_rows >= first_rows and (not events or num_rows > events[-1][1]):
            events.append((time.monotonic(), num_rows))
    return events


def _is_enough(events: Sequence[Event], waited_s: float) -> bool:
    if len(events) < 2:
        if waited_s >= LONGEST_WAIT_S:
            raise Refused(
                f"no batch came back in {waited_s:.0f} s",
                advice="try a smaller --batch-size; `batchrec submit` needs no measurement",
            )
        return False
    watched_s = events[-1][0] - events[0][0]
    return (watched_s >= RUN_S and len(events) >= _MIN_EVENTS) or waited_s >= LONGEST_RUN_S
