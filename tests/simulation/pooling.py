"""A pool of simulated worker processes, whose fates and messages the world decides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from batchrec.engine.devices import Placement
from batchrec.engine.inline_pool import Runner
from batchrec.engine.pool import (
    AttemptFailed,
    AttemptPublished,
    Event,
    LiveCounts,
    WorkerFailed,
    WorkerLost,
    WorkerReady,
)
from batchrec.engine.sites import OpenPool
from batchrec.records import Attempt
from batchrec.spec import JobSpec
from tests.simulation.scheduling import Process, Scheduler

ROOM = 2


class Fates(Protocol):
    """What the world says of messages and workers."""

    def new_worker(self, coordinator: Process) -> Process: ...
    def message_delays_s(self) -> list[float]: ...
    def outlives(self, worker: Process) -> bool: ...
    def dispatched(self, pool: SimulatedPool, worker: int, attempt: Attempt) -> None: ...
    def delivered(self, pool: SimulatedPool, event: Event) -> None: ...


@dataclass(eq=False)
class SimulatedWorker:
    """One worker process as its pool knows it."""

    process: Process
    runner: Runner
    reported_lost: bool = False


@dataclass(eq=False)
class SimulatedPool:
    """The pool protocol over simulated processes; see :class:`batchrec.engine.pool.Pool`."""

    scheduler: Scheduler
    fates: Fates
    make_worker: Callable[[], Runner]
    owner: Process
    shards_per_worker: int = 2
    workers: list[SimulatedWorker] = field(default_factory=list)
    inbox: list[tuple[float, int, Event]] = field(default_factory=list)
    in_flight: dict[int, dict[str, Attempt]] = field(default_factory=dict)
    num_posted: int = 0
    closed: bool = False

    def start_workers(self, num_workers: int) -> None:
        for _ in range(num_workers):
            number = len(self.workers)
            worker = SimulatedWorker(self.fates.new_worker(self.owner), self.make_worker())
            self.workers.append(worker)
            self.in_flight[number] = {}
            worker.process.on_death = partial(self._died, number)
            self.scheduler.spawn(worker.process, "start", lambda n=number: self._start(n))  # type: ignore[misc]

    def dispatch(self, worker: int, attempt: Attempt) -> None:
        self.fates.dispatched(self, worker, attempt)
        self.in_flight[worker][attempt.attempt_id] = attempt
        if self.workers[worker].process.alive:
            self.scheduler.spawn(self.workers[worker].process, "run", lambda: self._run(worker, attempt))

    def wait(self, timeout_s: float) -> list[Event]:
        self.scheduler.wait(until=self._has_mail, seconds=timeout_s)
        due = sorted(mail for mail in self.inbox if mail[0] <= self.scheduler.now)
        self.inbox = [mail for mail in self.inbox if mail not in due]
        events = [event for _, _, event in due]
        for event in events:
            self.fates.delivered(self, event)
        return events

    def live_counts(self) -> dict[int, LiveCounts]:
        return {}

    def room(self) -> int:
        return ROOM

    def lacking(self, num_workers: int) -> str:
        return "the machines are starting"

    def end(self, worker: int, reason: str) -> None:
        self.fates.delivered(self, WorkerLost(worker, reason))
        self.workers[worker].reported_lost = True
        self.scheduler.kill(self.workers[worker].process)

    def close(self) -> None:
        self.closed = True
        for worker in self.workers:
            if not self.fates.outlives(worker.process):
                self.scheduler.kill(worker.process)

    def lose(self, number: int, *, with_node: bool, delay_s: float) -> None:
        """Tell the coordinator that a worker is gone, whether it is or not."""
        if not self.workers[number].reported_lost:
            self.workers[number].reported_lost = True
            self._put(delay_s, WorkerLost(number, "it was killed", with_node))

    def _died(self, number: int) -> None:
        if not self.closed:
            rng = self.scheduler.rng
            self.lose(number, with_node=rng.random() < 0.1, delay_s=10 * rng.random())

    def _start(self, number: int) -> None:
        try:
            event: Event = WorkerReady(number, self.workers[number].runner.start())
        except Exception as error:  # noqa: BLE001  the border of a worker, as in the real pools
            event = WorkerFailed(number, error)
        if not self.workers[number].reported_lost:
            self._put(0.0, event)

    def _run(self, number: int, attempt: Attempt) -> None:
        try:
            event: Event = AttemptPublished(number, attempt, self.workers[number].runner.run(attempt))
        except Exception as error:  # noqa: BLE001  the border of a shard, as in the real pools
            event = AttemptFailed(number, attempt, error)
        # Each may come late, twice, and after its worker was called lost.
        for delay_s in self.fates.message_delays_s():
            self._put(delay_s, event)

    def _put(self, delay_s: float, event: Event) -> None:
        self.num_posted += 1
        self.inbox.append((self.scheduler.now + delay_s, self.num_posted, event))
        # The clock must stop there, so that whoever waits sees it in time.
        self.scheduler.after(delay_s, lambda: None)

    def _has_mail(self) -> bool:
        return any(due <= self.scheduler.now for due, _, _ in self.inbox)


@dataclass(eq=False)
class SimulatedSite:
    """Where a job's workers run; see :class:`batchrec.engine.sites.Site`."""

    open: Callable[[Callable[[], Runner]], SimulatedPool]
    spans_machines: bool = False

    def place(self, spec: JobSpec) -> Placement:
        return Placement("cpu", ROOM, 1)

    @contextmanager
    def starting(self, placement: Placement) -> Iterator[OpenPool]:
        yield self.open
