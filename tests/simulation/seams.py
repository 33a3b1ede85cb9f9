"""Where the simulation is let in: clocks, threads, process numbers and what a worker needs a model for.

Everything else of a job runs as it is, from ``run_job`` down. A few pure functions are remembered by
their arguments, because a history makes the same rows over and over.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property, partial
from types import SimpleNamespace
from typing import Any, BinaryIO

import pyarrow as pa

from batchrec import job, planning
from batchrec.engine import claims, coordinator, drivers, ledger, stalling, telling, worker, worker_job
from batchrec.manifest.planning import Plan
from batchrec.output import parts, reading, seal, tables, verifying
from batchrec.output.digest import table_sha256
from batchrec.storage import publishing
from tests.simulation.scheduling import Process
from tests.simulation.threads import SimulatedThreading
from tests.simulation.work import BACKEND, SimulatedRows, SimulatedStream

#: The caps of the ledger, made small so that histories reach them.
MAX_LOST = 4
_MAX_REMEMBERED = 3000

World = Any  # tests.simulation.world.World, which imports this module


class _Released:
    """Nonces of claims that the running process let go of."""

    def __init__(self, process: Callable[[], Process]) -> None:
        self._process = process

    def add(self, nonce: str) -> None:
        self._process().released.add(nonce)

    def __contains__(self, nonce: object) -> bool:
        return nonce in self._process().released


class _InOrder:
    """A thread pool that does everything at once, in order."""

    def __init__(self, num_threads: int) -> None: ...
    def __enter__(self) -> _InOrder:
        return self

    def __exit__(self, *raised: object) -> None: ...
    def map(self, act: Callable[[Any], Any], over: Any) -> Iterator[Any]:
        return map(act, over)


class Remembered:
    """Results of a pure function by key, a bounded number of them."""

    def __init__(self, key: Callable[..., Any], function: Callable[..., Any]) -> None:
        self._key, self._function = key, function
        self._results: dict[Any, tuple[Any, Any]] = {}

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        key = self._key(*arguments, **named)
        if key not in self._results:
            if len(self._results) >= _MAX_REMEMBERED:
                self._results.clear()
            # The arguments are kept, so that no other object gets the identity of one of them.
            self._results[key] = (self._function(*arguments, **named), arguments)
        return self._results[key][0]


def _rows_key(rows: SimulatedRows, found: object, attempt: Any, labels: object) -> Any:
    return id(rows), id(found), attempt.number, attempt.shard


def _part_key(rows: pa.Table, *, job_id: str, shard: int, attempt_id: str, facts: object) -> Any:
    return id(rows), job_id, shard, attempt_id


def _table_key(data: bytes, columns: Any = None) -> Any:
    return data, tuple(columns or ())


def _digest_key(table: pa.Table, *, leave_out: frozenset[str] = frozenset()) -> Any:
    return id(table), leave_out


_read_bytes = Remembered(_table_key, lambda data, columns=None: tables.read_table(io.BytesIO(data), columns))
_digest = Remembered(_digest_key, table_sha256)
_prediction_rows = Remembered(_rows_key, worker.prediction_rows)
_encode_part = Remembered(_part_key, parts.encode_part)
_plan_of_bytes = Remembered(lambda data: data, Plan.from_parquet)
_bytes_of_plan = Remembered(lambda plan: (plan.rows_per_shard, plan.num_rows, len(plan)), Plan.to_parquet)


def _read_table(source: BinaryIO, columns: Any = None) -> pa.Table:
    assert isinstance(source, io.BytesIO)
    return _read_bytes(source.getvalue(), columns)


class _World:
    """The world whose task runs; seams are cut once and look here."""

    now: World = None


def current() -> World:
    """Return the world whose task runs."""
    return _World.now


def _pause(seconds: float) -> None:
    current().scheduler.pause(seconds)


def _clock() -> float:
    return float(current().scheduler.now)


def _unique() -> SimpleNamespace:
    number = current().next_number()
    return SimpleNamespace(hex=f"{number:012x}{number:020x}")


def _process() -> Process:
    process: Process = current().scheduler.process
    return process


def _pid_started(pid: int) -> int | None:
    started: int | None = current().pid_started(_process().host, pid)
    return started


def _open_store(url: str, options: object) -> Any:
    return current().store


def _nothing(*_: object) -> tuple[()]:
    return ()


#: What a worker notes of the images it decodes, where none is decoded.
_NO_NOTES = SimpleNamespace(open=lambda: SimpleNamespace(close=_nothing), suspects=_nothing, settle=_nothing)
_NO_HANDS = SimpleNamespace(mine=lambda: SimpleNamespace(at=lambda *_: nullcontext()), in_hand=_nothing)


def _seams() -> list[tuple[Any, str, Any]]:
    threads = SimulatedThreading(lambda: current().scheduler)
    unique = SimpleNamespace(uuid4=_unique)
    jitter = SimpleNamespace(uniform=lambda low, high: current().scheduler.rng.uniform(low, high))
    seams: list[tuple[Any, str, Any]] = [
        (claims, "threading", threads),
        (drivers, "os", SimpleNamespace(getpid=lambda: _process().pid)),
        (drivers, "socket", SimpleNamespace(gethostname=lambda: _process().host)),
        (drivers, "_boot_id", lambda: f"boot of {_process().host}"),
        (drivers, "_pid_started", _pid_started),
        (drivers, "uuid", unique),
        (drivers, "_released", _Released(_process)),
        (telling, "threading", threads),
        (publishing, "random", jitter),
        (coordinator, "_TICK_S", 5.0),
        (coordinator, "MAX_LOST", MAX_LOST),
        (coordinator, "MAX_LOSSES_IN_A_ROW", 2 * MAX_LOST + 5),
        (ledger, "MAX_LOST", MAX_LOST),
        (seal, "ThreadPoolExecutor", _InOrder),
        (Plan, "from_parquet", _plan_of_bytes),
        (Plan, "to_parquet", lambda plan: _bytes_of_plan(plan)),
        (job, "uuid", unique),
        (job, "time", SimpleNamespace(time=_clock, monotonic=_clock)),
        (planning, "open_manifest", lambda spec: current().manifest_of(spec)),
        (worker, "prediction_rows", _prediction_rows),
        (worker, "encode_part", _encode_part),
        (worker, "model_here", lambda model, store: model),
        (worker_job, "open_backend", lambda model, **options: (BACKEND, "no model")),
        (worker, "Stream", lambda *parts, **options: SimulatedStream(current())),
        (worker_job, "ImageReader", lambda *options: SimpleNamespace(concurrency=lambda: 1, members=lambda uris: None)),
        *((room, "Decoder", lambda *options: None) for room in (worker, worker_job)),
        (worker, "Notes", lambda *options: _NO_NOTES),
        (worker, "Hands", lambda *options: _NO_HANDS),
        (worker, "IsolatedReader", lambda *options: SimpleNamespace(read=None, rest=_nothing, close=_nothing)),
    ]
    # Before Python 3.12 one lock for all instances is held while a property is made, here across waits.
    lazy = [each for each in vars(reading.Output).values() if isinstance(each, cached_property)]
    seams += [(each, "lock", nullcontext()) for each in lazy if hasattr(each, "lock")]
    seams += [(room, "open_store", _open_store) for room in (job, planning, worker)]
    seams += [(room, "probe", lambda store: None) for room in (job, worker)]
    seams += [(room, "RowReader", lambda *parts, **limits: SimulatedRows()) for room in (job, worker)]
    seams += [(room, "read_table", _read_table) for room in (seal, verifying, reading)]
    seams += [(room, "table_sha256", _digest) for room in (seal, verifying, parts)]
    return seams


#: Waits and clocks that functions took as defaults when they were defined.
def _defaults() -> list[tuple[Any, str, Any]]:
    return [
        (claims.claim, "sleep", _pause),
        (publishing.create_or_find, "pause", _pause),
        (parts.publish_part, "pause", _pause),
        (coordinator.Coordinator.__init__, "clock", _clock),
        (stalling.StallWatch.__init__, "clock", _clock),
        (telling.Journal.__init__, "clock", _clock),
    ]


@contextmanager
def cut() -> Iterator[None]:
    """Let the simulation in, and close the seams again."""
    undo: list[Callable[[], None]] = []
    try:
        for room, name, stand_in in _seams():
            undo.append(partial(setattr, room, name, getattr(room, name)))
            setattr(room, name, stand_in)
        for function, name, stand_in in _defaults():
            defaults = function.__kwdefaults__
            undo.append(partial(defaults.__setitem__, name, defaults[name]))
            defaults[name] = stand_in
        yield
    finally:
        for put_back in undo:
            put_back()


@contextmanager
def inhabited(world: World) -> Iterator[None]:
    """Make a world the one whose tasks run."""
    _World.now, before = world, _World.now
    try:
        yield
    finally:
        _World.now = before


def drawn(rng: random.Random, share: float) -> bool:
    """Draw whether something of this share happens."""
    return rng.random() < share
