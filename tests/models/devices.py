"""Devices that are no CUDA device: one that is never late, and one that is as late as it may be."""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torchvision.io import ImageReadMode, decode_jpeg

Work = Callable[[], object]


class _Done:
    def wait(self) -> None:
        pass


class _PromptQueue:
    def put(self, work: Work) -> None:
        work()

    def mark(self) -> _Done:
        return _Done()

    def wait_for(self, mark: _Done) -> None:
        pass


class HostDevice:
    """The CPU: whatever is put into a queue is done at once."""

    name, kind = "cpu", "a CPU"

    def new_queue(self) -> _PromptQueue:
        return _PromptQueue()

    def new_host_tensor(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype)

    def record(self, queue: object, work: Work) -> Work:
        return lambda: work()

    def decode_jpegs(self, encoded: list[torch.Tensor]) -> list[torch.Tensor]:
        decoded: list[torch.Tensor] = decode_jpeg(encoded, mode=ImageReadMode.RGB)
        return decoded

    def settle(self) -> None:
        pass

    def empty_cache(self) -> None:
        pass


@dataclass
class _Queue:
    device: LateDevice
    pending: deque[Work | _Mark] = field(default_factory=deque)
    num_put: int = 0
    num_done: int = 0

    def put(self, work: Work) -> None:
        with self.device.lock:
            self._append(work)
            self.device.move()

    def mark(self) -> _Mark:
        with self.device.lock:
            return _Mark(self, self.num_put)

    def wait_for(self, mark: _Mark) -> None:
        with self.device.lock:
            self._append(mark)

    def _append(self, step: Work | _Mark) -> None:
        self.pending.append(step)
        self.num_put += 1

    def step(self) -> None:
        """Do the next thing, and first whatever in another queue it has to come after."""
        step = self.pending.popleft()
        try:
            step.reach() if isinstance(step, _Mark) else step()
        finally:
            self.num_done += 1


@dataclass
class _Mark:
    queue: _Queue
    place: int

    def wait(self) -> None:
        with self.queue.device.lock:
            self.reach()

    def reach(self) -> None:
        while self.queue.num_done < self.place:
            self.queue.step()


class LateDevice(HostDevice):
    """Does nothing that nobody waits for, but for a whim now and then: every order a CUDA device may take.

    Args:
        seed: Decides its whims; none when None.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.lock = threading.RLock()
        self.queues: list[_Queue] = []
        self._whims = random.Random(seed) if seed is not None else None

    def new_queue(self) -> _Queue:  # type: ignore[override]
        self.queues.append(_Queue(self))
        return self.queues[-1]

    def settle(self) -> None:
        with self.lock:
            for queue in self.queues:
                while queue.pending:
                    queue.step()

    def move(self) -> None:
        """Do something that nobody waits for, or not."""
        if self._whims is not None:
            for _ in range(self._whims.randrange(3)):
                if busy := [queue for queue in self.queues if queue.pending]:
                    self._whims.choice(busy).step()
