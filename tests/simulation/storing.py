"""A bucket in memory, and one process's linearizable but unreliable view of it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import BinaryIO, Protocol

from batchrec.errors import AccessError, StorageLost
from batchrec.storage import KeyExists, KeyMissing, ObjectInfo, Uncertain
from tests.simulation.faults import Fault
from tests.simulation.scheduling import Crashed, Process, Scheduler

URL = "s3://simulated/out"
_BEFORE = {Fault.LOST_BEFORE, Fault.CONFLICT, Fault.LATE, Fault.GONE_BEFORE, Fault.DENIED}
_BEFORE |= {Fault.CRASH_BEFORE, Fault.CRASH_LATE}


class Watcher(Protocol):
    """Who judges every change of the bucket."""

    def asked(self, process: Process, operation: str, key: str) -> Fault | None: ...
    def created(self, process: Process, key: str, data: bytes) -> None: ...
    def overwritten(self, process: Process, key: str, data: bytes) -> None: ...
    def deleted(self, process: Process, key: str) -> None: ...
    def listed(self, process: Process, prefix: str, keys: list[str]) -> None: ...


@dataclass(frozen=True, slots=True)
class Held:
    """One object."""

    data: bytes
    written_at: float
    version: int


class Bucket:
    """What is stored. ``clock_offset_s`` is how far its clock is off."""

    def __init__(self) -> None:
        self.objects: dict[str, Held] = {}
        self.clock_offset_s = 0.0
        self.num_writes = 0

    def put(self, key: str, data: bytes, now: float) -> None:
        self.num_writes += 1
        self.objects[key] = Held(data, now + self.clock_offset_s, self.num_writes)

    def info(self, key: str) -> ObjectInfo:
        held = self.objects[key]
        modified = datetime.fromtimestamp(1_700_000_000 + held.written_at, UTC)
        return ObjectInfo(key, len(held.data), modified, str(held.version))


class SimulatedStore:
    """The bucket as one process sees it; every operation may be disturbed, and others run before and after it."""

    url = URL

    def __init__(self, bucket: Bucket, scheduler: Scheduler, watcher: Watcher) -> None:
        self._bucket, self._scheduler, self._watcher = bucket, scheduler, watcher

    def create(self, key: str, data: bytes) -> None:
        process, put_late = self._scheduler.process, self._later(key, data)
        fault = self._begin("create", key)
        if fault in (Fault.LATE, Fault.CRASH_LATE):
            self._scheduler.after(1 + 90 * self._scheduler.rng.random(), put_late)
        self._before(fault, key)
        stood = key in self._bucket.objects
        if not stood:
            self._create(process, key, data)
        self._after(fault, key)
        if stood:
            raise KeyExists(key)

    def overwrite(self, key: str, data: bytes) -> None:
        fault = self._begin("overwrite", key)
        self._before(fault, key)
        self._bucket.put(key, data, self._scheduler.now)
        self._watcher.overwritten(self._scheduler.process, key, data)
        self._after(fault, key)

    def read(self, key: str) -> bytes:
        fault = self._begin("read", key)
        self._before(fault, key)
        held = self._bucket.objects.get(key)
        self._after(fault, key)
        if held is None:
            raise KeyMissing(key)
        return held.data

    def open(self, key: str) -> BinaryIO:
        return io.BytesIO(self.read(key))

    def info(self, key: str) -> ObjectInfo:
        fault = self._begin("info", key)
        self._before(fault, key)
        found = self._bucket.info(key) if key in self._bucket.objects else None
        self._after(fault, key)
        if found is None:
            raise KeyMissing(key)
        return found

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        fault = self._begin("list", prefix)
        self._before(fault, prefix)
        found = [self._bucket.info(key) for key in sorted(self._bucket.objects) if key.startswith(prefix)]
        self._watcher.listed(self._scheduler.process, prefix, [info.key for info in found])
        self._after(fault, prefix)
        return iter(found)

    def top(self) -> tuple[str, ...]:
        fault = self._begin("top", "")
        self._before(fault, "")
        return tuple(sorted({"".join(key.partition("/")[:2]) for key in self._bucket.objects}))

    def delete(self, key: str) -> None:
        fault = self._begin("delete", key)
        self._before(fault, key)
        self._bucket.objects.pop(key, None)
        self._watcher.deleted(self._scheduler.process, key)
        self._after(fault, key)

    def _later(self, key: str, data: bytes) -> Callable[[], None]:
        process = self._scheduler.process

        def put() -> None:
            if key not in self._bucket.objects:
                self._create(process, key, data)

        return put

    def _create(self, process: Process, key: str, data: bytes) -> None:
        self._bucket.put(key, data, self._scheduler.now)
        self._watcher.created(process, key, data)

    def _begin(self, operation: str, key: str) -> Fault | None:
        self._scheduler.pause()
        fault = self._watcher.asked(self._scheduler.process, operation, key)
        if fault is Fault.SLOW:
            self._scheduler.pause(40 * self._scheduler.rng.random())
        return fault

    def _before(self, fault: Fault | None, key: str) -> None:
        if fault not in _BEFORE:
            return
        if fault in (Fault.CRASH_BEFORE, Fault.CRASH_LATE):
            self._die()
        if fault is Fault.CONFLICT:
            raise KeyExists(key)
        if fault is Fault.GONE_BEFORE:
            raise StorageLost("the simulated store is gone", advice="run again")
        if fault is Fault.DENIED:
            raise AccessError("the simulated store denies it", advice="grant it")
        raise Uncertain(key)

    def _after(self, fault: Fault | None, key: str) -> None:
        if fault is Fault.CRASH_AFTER:
            self._die()
        if fault is Fault.LOST_AFTER:
            raise Uncertain(key)
        if fault is Fault.RETRIED:
            raise KeyExists(key)
        if fault is Fault.GONE_AFTER:
            raise StorageLost("the simulated store is gone", advice="run again")
        self._scheduler.pause(40 * self._scheduler.rng.random() if fault is Fault.SLOW else 0.0)

    def _die(self) -> None:
        self._scheduler.kill(self._scheduler.process)
        raise Crashed
