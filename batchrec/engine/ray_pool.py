"""Workers as Ray actors. The coordinator owns all retries, so Ray's own are off."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

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
from batchrec.errors import Refused
from batchrec.records import Attempt

# What an untouched local Ray would do by itself: ask about tokens, count usage at a distant host,
# start idle workers.
_LOCAL_ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_OBJECT_STORE_BYTES = 100 * 2**20
_IDLE_S = 0.1


@contextmanager
def connected_ray(num_cpus: int) -> Iterator[None]:
    """Use the Ray this process is connected to, or one of the run's own, started for it and stopped after it."""
    if ray.is_initialized():
        if (there := ray.cluster_resources().get("CPU", 0)) < num_cpus:
            raise Refused(
                f"the Ray this process is connected to has {there:g} CPUs",
                found=f"{num_cpus} are wanted",
                advice="connect to a larger one, or use pool=inline",
            )
        yield
        return
    start_local_ray(num_cpus)
    try:
        yield
    finally:
        ray.shutdown()


def start_local_ray(num_cpus: int) -> None:
    """Start a Ray of this process's own on this machine, whatever RAY_ADDRESS says."""
    os.environ.update(_LOCAL_ENVIRONMENT)
    on_terminate = signal.getsignal(signal.SIGTERM)
    ray.init(
        address="local",
        num_cpus=num_cpus,
        include_dashboard=False,
        object_store_memory=_OBJECT_STORE_BYTES,
        configure_logging=False,
        log_to_driver=True,
    )
    if threading.current_thread() is threading.main_thread():
        # Ray puts a handler of its own there, which prints a stack and ends the process on the spot.
        signal.signal(signal.SIGTERM, on_terminate)


@dataclass(slots=True)
class _Actor:
    handle: Any
    counts: LiveCounts
    ready: bool = False


class RayPool:
    """Runs workers as actors of the connected Ray.

    Args:
        make_worker: Makes one worker, in the actor's process.
        num_cpus: Cores a worker asks for.
        num_gpus: GPUs a worker asks for.
        shards_per_worker: Attempts a worker takes at once.
    """

    def __init__(
        self, make_worker: Callable[[], Runner], *, num_cpus: float, num_gpus: float = 0, shards_per_worker: int = 2
    ) -> None:
        self.shards_per_worker = shards_per_worker
        # One thread for each attempt, one for live_counts, so that counting never waits behind work.
        self._actor_class = ray.remote(
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=shards_per_worker + 1,
        )(_WorkerActor)
        self._make_worker = ray.put(make_worker)
        self._actors: dict[int, _Actor] = {}
        self._num_started = 0
        self._waiting: dict[Any, tuple[int, Attempt | None]] = {}
        self._counting: dict[Any, int] = {}

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

    def close(self) -> None:
        """See :class:`batchrec.engine.pool.Pool`."""
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
            return self._lost(number, (str(error).splitlines() or [type(error).__name__])[0])
        if attempt:
            return AttemptPublished(number, attempt, answer)
        self._actors[number].ready = True
        return WorkerReady(number, answer)

    def _failed(self, number: int, error: Exception) -> WorkerFailed:
        self._forget(number)
        return WorkerFailed(number, error)

    def _lost(self, number: int, reason: str) -> WorkerLost:
        self._forget(number)
        return WorkerLost(number, reason)

    def _forget(self, number: int) -> None:
        # One that is only unreachable may still write; killing it is best effort, its parts are harmless.
        ray.kill(self._actors.pop(number).handle, no_restart=True)
        self._waiting = {ref: owner for ref, owner in self._waiting.items() if owner[0] != number}
        self._counting = {ref: owner for ref, owner in self._counting.items() if owner != number}

    def _count(self) -> None:
        if self._counting:
            ready, _ = ray.wait(list(self._counting), num_returns=len(self._counting), timeout=0)
            for reference in ready:
                self._take_counts(self._counting.pop(reference), reference)
        asked = set(self._counting.values())
        for number, actor in self._actors.items():
            if actor.ready and number not in asked:
                self._counting[actor.handle.live_counts.remote()] = number

    def _take_counts(self, number: int, reference: Any) -> None:
        try:
            self._actors[number].counts = ray.get(reference)
        except RayError:
            return  # its attempts will say so


class _WorkerActor:
    """The actor around a worker."""

    def __init__(self, make_worker: Callable[[], Runner]) -> None:
        os.dup2(2, 1)  # what a library prints must not get between the lines of our own stdout
        self._worker = make_worker()

    def start(self) -> Any:
        return self._worker.start()

    def run(self, attempt: Attempt) -> Any:
        return self._worker.run(attempt)

    def live_counts(self) -> LiveCounts:
        return self._worker.live_counts()
