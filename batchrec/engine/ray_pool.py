"""Workers as Ray actors. The coordinator owns all retries, so Ray's own are off."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayError, RayTaskError

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
from batchrec.engine.ray_connection import ENDING, cluster_nodes, num_pending_nodes
from batchrec.engine.ray_help import RayHelp
from batchrec.errors import ClusterLost
from batchrec.own_process import begin_actor
from batchrec.records import Attempt

_IDLE_S = 0.1
_COUNT_EVERY_S = 1.0


@dataclass(slots=True)
class _Actor:
    handle: Any
    counts: LiveCounts
    node_id: str | None = None


class RayPool:
    """Runs workers as actors of the connected Ray.

    Args:
        make_worker: Makes one worker, in the actor's process.
        placement: What a worker asks for.
        shards_per_worker: Attempts a worker takes at once.
        missing: Names what died of the Ray that runs them, before Ray ends this process for it without a word.
    """

    def __init__(
        self,
        make_worker: Callable[[], Runner],
        placement: Placement,
        *,
        shards_per_worker: int = 2,
        missing: Callable[[], str] = lambda: "",
    ) -> None:
        self.shards_per_worker, self._missing = shards_per_worker, missing
        self._placement = placement
        # One thread for each attempt, one for live_counts, so that counting never waits behind work.
        self._actor_class = ray.remote(
            num_cpus=placement.num_threads,
            num_gpus=placement.num_gpus,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=shards_per_worker + 1,
            scheduling_strategy="SPREAD",
        )(_WorkerActor)
        self._make_worker = ray.put(make_worker)
        self._actors: dict[int, _Actor] = {}
        self._num_started = 0
        self._waiting: dict[Any, tuple[int, Attempt | None]] = {}
        self._counting: dict[Any, int] = {}
        self._count_at = 0.0

    def start_workers(self, num_workers: int) -> None:
        """See :class:`batchrec.engine.pool.Pool`."""
        for _ in range(num_workers):
            number, self._num_started = self._num_started, self._num_started + 1
            actor = self._actor_class.remote(self._make_worker)
            self._actors[number] = _Actor(actor, LiveCounts())
            self._waiting[actor.start.remote()] = (number, None)

    def dispatch(self, worker: int, attempt: Attempt) -> None:
        """See :class:`batchrec.engine.pool.Pool`."""
        self._waiting[self._actors[worker].handle.run.remote(attempt)] = (worker, attempt)

    def wait(self, timeout_s: float) -> list[Event]:
        """See :class:`batchrec.engine.pool.Pool`."""
        with _signals_afterwards():
            return self._wait(timeout_s)

    def _wait(self, timeout_s: float) -> list[Event]:
        if missing := self._missing():
            raise ClusterLost("the Ray of this run died", found=missing, advice="the same command resumes")
        self._count()
        waiting = list(self._waiting)
        if not waiting:
            time.sleep(min(timeout_s, _IDLE_S))
            return []
        ready, _ = ray.wait(waiting, num_returns=1, timeout=timeout_s)
        if ready:
            ready, _ = ray.wait(waiting, num_returns=len(waiting), timeout=0)
        return [event for reference in ready if (event := self._event(reference)) is not None]

    def live_counts(self) -> dict[int, LiveCounts]:
        """See :class:`batchrec.engine.pool.Pool`."""
        return {number: actor.counts for number, actor in self._actors.items()}

    def allow(self, worker: int, num_reads: int) -> None:
        """See :class:`batchrec.engine.pool.Pool`."""
        self._actors[worker].handle.allow.remote(num_reads)

    def room(self) -> int:
        """See :class:`batchrec.engine.pool.Pool`."""
        return self._placement.room_on(cluster_nodes())

    def lacking(self, num_workers: int) -> str:
        """See :class:`batchrec.engine.pool.Pool`."""
        nodes = cluster_nodes()
        if self._placement.room_on(nodes) >= num_workers:
            kind = "GPU" if self._placement.num_gpus else "CPU"
            free = ray.available_resources().get(kind, 0)
            return f"the workers are starting, or wait for what others hold ({free:g} {kind}s are free)"
        pending = f" ({pending} nodes pending)" if (pending := num_pending_nodes()) else ""
        if self._placement.num_gpus:
            return f"need {num_workers} GPUs, cluster has {sum(node.num_gpus for node in nodes)}{pending}"
        num_cores = sum(node.num_cores for node in nodes)
        each = f"{num_workers} x {self._placement.num_threads}"
        return f"need {each} CPUs, cluster has {num_cores} on {len(nodes)} nodes{pending}"

    def end(self, worker: int, reason: str) -> None:
        """See :class:`batchrec.engine.pool.Pool`."""
        self._forget(worker)  # a process that is stopped does not hear ray.kill, but Ray sees to it that it goes

    def close(self) -> None:
        """See :class:`batchrec.engine.pool.Pool`."""
        if not self._missing():
            for actor in self._actors.values():
                ray.kill(actor.handle, no_restart=True)
        self._actors.clear()
        self._waiting.clear()
        self._counting.clear()

    def _event(self, reference: Any) -> Event | None:
        if reference not in self._waiting:
            return None  # its worker was found lost a moment ago
        number, attempt = self._waiting.pop(reference)
        try:
            answer = ray.get(reference)
        except RayTaskError as error:
            cause = error.cause if isinstance(error.cause, Exception) else error
            return AttemptFailed(number, attempt, cause) if attempt else self._failed(number, cause)
        except RayError as error:
            # ActorDiedError, ActorUnavailableError, a lost object or node: all mean that it is gone.
            return self._lost(number, error)
        if attempt:
            return AttemptPublished(number, attempt, answer)
        facts, self._actors[number].node_id = answer
        return WorkerReady(number, facts)

    def _failed(self, number: int, error: Exception) -> WorkerFailed:
        self._forget(number)
        return WorkerFailed(number, error)

    def _lost(self, number: int, error: RayError) -> WorkerLost:
        node_id = self._actors[number].node_id
        # Where its machine stopped answering Ray says "unavailable" at once, and only later that the node died.
        with_node = isinstance(error, ActorUnavailableError) or "node has died" in str(error)
        if not with_node and node_id is not None:
            with_node = all(node["NodeID"] != node_id for node in ray.nodes() if node["Alive"])
        self._forget(number)
        return WorkerLost(number, (str(error).splitlines() or [type(error).__name__])[0], with_node)

    def _forget(self, number: int) -> None:
        # One that is only unreachable may still write; killing it is best effort, its parts are harmless.
        ray.kill(self._actors.pop(number).handle, no_restart=True)
        self._waiting = {ref: owner for ref, owner in self._waiting.items() if owner[0] != number}
        self._counting = {ref: owner for ref, owner in self._counting.items() if owner != number}

    def _count(self) -> None:
        """Ask every worker how far it is, now and then: asked at every event, a hundred cost more than their work."""
        if time.monotonic() < self._count_at:
            return
        self._count_at = time.monotonic() + _COUNT_EVERY_S
        if self._counting:
            ready, _ = ray.wait(list(self._counting), num_returns=len(self._counting), timeout=0)
            for reference in ready:
                self._take_counts(self._counting.pop(reference), reference)
        asked, alone = set(self._counting.values()), self._waits_for_cores()
        for number, actor in self._actors.items():
            if actor.node_id is not None and number not in asked:
                self._counting[actor.handle.live_counts.remote(alone)] = number

    def _waits_for_cores(self) -> bool:
        """Tell whether a worker is starting for which there is room: decode helpers must not hold its cores."""
        starting = any(actor.node_id is None for actor in self._actors.values())
        return starting and self.room() >= len(self._actors)

    def _take_counts(self, number: int, reference: Any) -> None:
        try:
            self._actors[number].counts = ray.get(reference)
        except RayError:
            return  # its attempts will say so


class _WorkerActor:
    """The actor around a worker."""

    def __init__(self, make_worker: Callable[[], Runner]) -> None:
        begin_actor()
        self._worker, self._help = make_worker(), RayHelp()

    def start(self) -> tuple[Any, str]:
        return self._worker.start(self._help), ray.get_runtime_context().get_node_id()

    def run(self, attempt: Attempt) -> Any:
        return self._worker.run(attempt)

    def live_counts(self, alone: bool) -> LiveCounts:
        self._help.yields = alone
        return self._worker.live_counts()

    def allow(self, num_reads: int) -> None:
        self._worker.allow(num_reads)


@contextmanager
def _signals_afterwards() -> Iterator[None]:
    """Let handlers of signals run after a call into Ray, which cannot pass on what they raise."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[signal.Signals] = []
    handlers = {number: signal.signal(number, lambda sent, _: came.append(signal.Signals(sent))) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for sent in came:
            signal.raise_signal(sent)
