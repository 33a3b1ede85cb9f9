"""Stores that let their process die, lose an answer or stand still at one chosen operation."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from enum import Enum, auto
from typing import Any, BinaryIO

from batchrec.storage import ObjectInfo, Store, Uncertain


class Crashed(BaseException):
    """The process is gone; nothing catches this."""


class Moment(Enum):
    """When it happens."""

    BEFORE = auto()
    AFTER = auto()
    ANSWER_LOST = auto()


class CrashingStore:
    """Passes everything on to a store until the chosen operation; a dead process does nothing more.

    Attributes:
        operations: What was asked for, in order.
        dead: Whether the process crashed.
    """

    def __init__(self, store: Store, at: int | None = None, moment: Moment = Moment.BEFORE) -> None:
        self._store, self._at, self._moment = store, at, moment
        self._lock = threading.Condition()
        self._num_under_way = 0
        self.url = store.url
        self.operations: list[str] = []
        self.dead = False

    def create(self, key: str, data: bytes) -> None:
        self._do("create", key, self._store.create, key, data)

    def overwrite(self, key: str, data: bytes) -> None:
        self._do("overwrite", key, self._store.overwrite, key, data)

    def read(self, key: str) -> bytes:
        return bytes(self._do("read", key, self._store.read, key))

    def info(self, key: str) -> ObjectInfo:
        found: ObjectInfo = self._do("info", key, self._store.info, key)
        return found

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return iter(self._do("list", prefix, lambda: list(self._store.list(prefix))))

    def open(self, key: str) -> BinaryIO:
        stream: BinaryIO = self._do("open", key, self._store.open, key)
        return stream

    def delete(self, key: str) -> None:
        self._do("delete", key, self._store.delete, key)

    def die_if_dead(self) -> None:
        if self.dead:
            raise Crashed

    def wait_until_still(self) -> None:
        """Wait for what other threads had begun when the process died: it may still land."""
        with self._lock:
            assert self._lock.wait_for(lambda: self._num_under_way == 0, 60)

    def _do(self, name: str, key: str, act: Callable[..., Any], *arguments: Any) -> Any:
        with self._lock:
            self.die_if_dead()
            self.operations.append(f"{name} {key}")
            chosen = len(self.operations) == self._at
            self.dead = chosen and self._dies_there()
            self._num_under_way += 1
        try:
            return self._act(name, key, chosen, act, *arguments)
        finally:
            with self._lock:
                self._num_under_way -= 1
                self._lock.notify_all()

    def _dies_there(self) -> bool:
        return self._moment is not Moment.ANSWER_LOST

    def _act(self, name: str, key: str, chosen: bool, act: Callable[..., Any], *arguments: Any) -> Any:
        if chosen and self._moment is Moment.BEFORE:
            raise Crashed
        answer = act(*arguments)
        if chosen and self._moment is Moment.AFTER:
            if hasattr(answer, "close"):
                answer.close()
            raise Crashed
        if chosen and name == "create":
            raise Uncertain(key)
        return answer


class StandingStore(CrashingStore):
    """Stands still at the chosen operation, as a process does that is stopped, until it is let go.

    Args:
        store: What it passes everything on to.
        at: Number of the operation.
        moment: ``BEFORE`` applies it only when it is let go; otherwise it is applied, and its answer lost or late.
        dies: Whether the process dies after it instead of living on.
    """

    def __init__(self, store: Store, at: int, moment: Moment, *, dies: bool) -> None:
        super().__init__(store, at, moment)
        self._dies = dies
        self.standing, self._gone_on = threading.Event(), threading.Event()

    @property
    def has_gone_on(self) -> bool:
        """Whether it was let go."""
        return self._gone_on.is_set()

    def go_on(self) -> None:
        """Let it go."""
        self._gone_on.set()

    def _dies_there(self) -> bool:
        return False

    def _do(self, name: str, key: str, act: Callable[..., Any], *arguments: Any) -> Any:
        if self.standing.is_set():
            self._gone_on.wait()
        return super()._do(name, key, act, *arguments)

    def _act(self, name: str, key: str, chosen: bool, act: Callable[..., Any], *arguments: Any) -> Any:
        if chosen and self._moment is Moment.BEFORE:
            self._stand()
        answer = act(*arguments)
        if chosen and self._moment is not Moment.BEFORE:
            self._stand()
        if chosen and self._dies:
            self.dead = True
            if hasattr(answer, "close"):
                answer.close()
            raise Crashed
        if chosen and self._moment is Moment.ANSWER_LOST:
            raise Uncertain(key)
        return answer

    def _stand(self) -> None:
        self.standing.set()
        self._gone_on.wait()
