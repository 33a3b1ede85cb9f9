"""Tasks that run one at a time, in an order a seed decides, on a clock that moves when all of them wait.

A task is a thread, so that the code under test runs as it is; but only the one that holds the baton runs,
and it hands the baton on at its own store operations and waits. So the same seed gives the same history.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import itemgetter

from tests.simulation.faults import Violation

#: Share of the steps at which whoever runs goes on, if it can.
STICKINESS = 0.5


class Crashed(BaseException):
    """The process is gone; nothing catches this."""


@dataclass(eq=False)
class Process:
    """What lives and dies as one: a coordinator with its threads, or a worker.

    Attributes:
        name: For the printed history.
        host: Name of its machine.
        pid: Its number there.
        alive: Whether it exists; a stopped one does.
        stopped_until: When it goes on after SIGSTOP.
        epoch: How often the folder had been wiped when it began.
        born_at: When it began.
        died_at: When it ended.
        on_death: Called then.
        released: Nonces of claims it let go of.
    """

    name: str
    host: str
    pid: int
    alive: bool = True
    stopped_until: float = 0.0
    epoch: int = 0
    born_at: float = 0.0
    died_at: float = float("inf")
    on_death: Callable[[], None] = lambda: None
    released: set[str] = field(default_factory=set)


@dataclass(eq=False)
class Task:
    """One thread of control of a process."""

    process: Process
    name: str
    target: Callable[[], None]
    wake_at: float | None = 0.0
    until: Callable[[], bool] | None = None
    done: bool = False
    gate: threading.Lock = field(default_factory=threading.Lock)

    def ready(self, now: float) -> bool:
        process = self.process
        if not process.alive:
            return True
        if process.stopped_until > now:
            return False
        return (self.wake_at is not None and self.wake_at <= now) or (self.until is not None and self.until())


class Carrier(threading.Thread):
    """A thread that runs one task after another, of this world and the next."""

    idle: list[Carrier] = []  # noqa: RUF012  shared on purpose: starting threads is what costs

    def __init__(self) -> None:
        super().__init__(daemon=True, name="carrier")
        self.work = threading.Lock()
        self.work.acquire()
        self.job: Callable[[], None] = lambda: None
        self.start()

    def run(self) -> None:
        while True:
            self.work.acquire()
            self.job()

    @classmethod
    def carry(cls, job: Callable[[], None]) -> None:
        """Run a job on a thread that has nothing to do."""
        carrier = cls.idle.pop() if cls.idle else cls()
        carrier.job = job
        carrier.work.release()


class Scheduler:
    """Hands the baton round.

    Args:
        rng: Decides who goes on.
        max_steps: Steps after which a history is said never to end.
    """

    def __init__(self, rng: random.Random, max_steps: int = 40_000) -> None:
        self.rng, self.now, self.steps, self.max_steps = rng, 0.0, 0, max_steps
        self.current: Task | None = None
        self.tasks: list[Task] = []
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.failure: BaseException | None = None
        self._budget = 0
        self._horizon = float("inf")
        self._stop: Callable[[], bool] | None = None
        self._home = threading.Lock()
        self._home.acquire()

    @property
    def process(self) -> Process:
        """Whose code runs now."""
        assert self.current is not None, "only a task has a process"
        return self.current.process

    def spawn(self, process: Process, name: str, target: Callable[[], None]) -> Task:
        """Add a task; it runs when its turn comes."""
        task = Task(process, name, target, wake_at=self.now)
        task.gate.acquire()
        self.tasks.append(task)
        Carrier.carry(lambda: self._carry(task))
        return task

    def run(self, *, steps: int = 1 << 60, until: Callable[[], bool] | None = None, seconds: float = 1e12) -> None:
        """Let tasks run until the condition holds, the steps or seconds are over, or nobody has anything to do.

        Raises:
            Violation: A task found one, or the history does not end.
        """
        self._budget, self._stop, self._horizon = steps, until, self.now + seconds
        following = self._next(None)
        if following is not None:
            self._hand_to(following)
            self._home.acquire()
        self.current = None
        if self.failure is not None:
            raise self.failure

    def pause(self, seconds: float = 0.0) -> None:
        """Let others run, at least so many simulated seconds."""
        self.wait(seconds=seconds)

    def wait(self, *, until: Callable[[], bool] | None = None, seconds: float | None = None) -> bool:
        """Wait for a condition, seconds, or whichever comes first; whether the condition holds.

        Raises:
            Crashed: The process died meanwhile.
        """
        task = self.current
        assert task is not None, "only a task waits"
        if not task.process.alive:
            raise Crashed
        task.until, task.wake_at = until, None if seconds is None else self.now + seconds
        following = self._next(task)
        if following is not task:
            if following is None:
                self._home.release()
            else:
                self._hand_to(following)
            task.gate.acquire()
            self.current = task
        if not task.process.alive:
            raise Crashed
        return until is not None and until()

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Do something later, whoever lives then: what is under way in the network."""
        self.timers.append((self.now + seconds, act))

    def kill(self, process: Process) -> None:
        """End a process; its tasks unwind when their turn comes, and can do nothing more."""
        if process.alive:
            process.alive, process.died_at = False, self.now
            process.on_death()

    def fail(self, found: str) -> None:
        """Note a violation; it is raised where the world is run, not in the code under test."""
        self.failure = self.failure or Violation(found)

    def clear(self) -> None:
        """Unwind every task that is left."""
        self.failure = None
        for task in self.tasks:
            task.process.alive = False
        self.max_steps = 1 << 60
        self.timers.clear()
        while any(not task.done for task in self.tasks):
            self.run()
            self.failure = None

    def _hand_to(self, task: Task) -> None:
        self.current = task
        task.gate.release()

    def _carry(self, task: Task) -> None:
        task.gate.acquire()
        self.current = task
        carrier = threading.current_thread()
        assert isinstance(carrier, Carrier)
        try:
            if task.process.alive:
                task.target()
        except Crashed:
            pass
        except BaseException as error:  # noqa: BLE001  the border of a task: it is raised where the world runs
            self.failure = self.failure or error
        task.done = True
        self.tasks.remove(task)
        Carrier.idle.append(carrier)
        following = self._next(None)
        if following is None:
            self._home.release()
        else:
            self._hand_to(following)

    def _next(self, current: Task | None) -> Task | None:
        """Choose who runs; None when the world is to be looked at, or nobody ever will."""
        if self.failure is not None or (self._stop is not None and self._stop()):
            return None
        while self._budget > 0 and self.failure is None:
            self._fire()
            ready = [task for task in self.tasks if task.ready(self.now)]
            if ready:
                self._count()
                if current in ready and self.rng.random() < STICKINESS:
                    return current
                return ready[int(self.rng.random() * len(ready))]
            if not self._move_clock():
                return None
        return None

    def _count(self) -> None:
        self.steps += 1
        self._budget -= 1
        if self.steps > self.max_steps:
            self.fail(f"the history does not end within {self.steps} steps")

    def _fire(self) -> None:
        due = [timer for timer in self.timers if timer[0] <= self.now]
        for timer in sorted(due, key=itemgetter(0)):  # those of one moment in the order they were set
            self.timers.remove(timer)
            timer[1]()

    def _move_clock(self) -> bool:
        wakes = [
            max(task.wake_at if task.wake_at is not None else self.now, task.process.stopped_until)
            for task in self.tasks
            if task.wake_at is not None or (task.until is not None and task.process.stopped_until > self.now)
        ]
        wakes += [timer[0] for timer in self.timers]
        later = [moment for moment in wakes if moment > self.now]
        if not later or min(later) > self._horizon:
            return False
        self.now = min(later)
        return True
