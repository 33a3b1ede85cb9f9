"""What claims and the journal import from ``threading``, on the simulated clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.simulation.scheduling import Crashed, Scheduler, Task


class SimulatedThreading:
    """Stands in for the module ``threading`` where code under test starts threads of its own."""

    def __init__(self, scheduler: Callable[[], Scheduler]) -> None:
        self._scheduler = scheduler

    def Event(self) -> SimulatedEvent:
        return SimulatedEvent(self._scheduler())

    def Condition(self) -> SimulatedCondition:
        return SimulatedCondition(self._scheduler())

    def Thread(self, *, target: Callable[[], None], name: str, daemon: bool) -> SimulatedThread:
        return SimulatedThread(self._scheduler(), target, name)


class SimulatedEvent:
    """See :class:`threading.Event`."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler, self._is_set = scheduler, False

    def set(self) -> None:
        _die_if_dead(self._scheduler)
        self._is_set = True

    def is_set(self) -> bool:
        return self._is_set

    def wait(self, timeout: float | None = None) -> bool:
        return self._scheduler.wait(until=self.is_set, seconds=timeout)


class SimulatedThread:
    """See :class:`threading.Thread`."""

    def __init__(self, scheduler: Scheduler, target: Callable[[], None], name: str) -> None:
        self._scheduler, self._target, self._name = scheduler, target, name
        self._task: Task | None = None

    def start(self) -> None:
        self._task = self._scheduler.spawn(self._scheduler.process, self._name, self._target)

    def join(self, timeout: float | None = None) -> None:
        task = self._task
        assert task is not None, "start() comes first"
        self._scheduler.wait(until=lambda: task.done, seconds=timeout)


class SimulatedCondition:
    """See :class:`threading.Condition`. Nobody else runs between two waits, so it locks nothing."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def __enter__(self) -> SimulatedCondition:
        _die_if_dead(self._scheduler)
        return self

    def __exit__(self, *raised: object) -> None:
        return None

    def notify(self) -> None:
        """Whoever waits looks by itself."""

    def wait_for(self, predicate: Callable[[], Any]) -> None:
        self._scheduler.wait(until=lambda: bool(predicate()))


def _die_if_dead(scheduler: Scheduler) -> None:
    if not scheduler.process.alive:
        raise Crashed
