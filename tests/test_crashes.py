"""A job of six shards dies at every operation on its store, or loses an answer there, and is run again."""

from __future__ import annotations

import dataclasses
import itertools
import os
import random
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import Enum, auto
from pathlib import Path
from typing import BinaryIO

import pytest

from batchrec.engine import coordinator
from batchrec.engine.claims import claim, highest_claim
from batchrec.engine.coordinator import Coordinator
from batchrec.engine.counting import RunCounts
from batchrec.engine.drivers import Driver
from batchrec.engine.identity import bound_identity
from batchrec.engine.inline_pool import InlinePool
from batchrec.engine.ledger import Ledger
from batchrec.engine.pool import LiveCounts
from batchrec.engine.telling import Quiet
from batchrec.errors import StorageLost, Superseded
from batchrec.output.layout import SUCCESS_KEY
from batchrec.output.parts import encode_part, publish_part
from batchrec.output.seal import standing_parts
from batchrec.output.verifying import verify
from batchrec.records import Attempt, Shard, ShardResult, WorkerFacts
from batchrec.spec import StoreOptions
from batchrec.storage import Store, open_store, publishing, stands
from tests.crashing import Crashed, CrashingStore, Moment, StandingStore
from tests.output.making import (
    LAYOUT,
    NUM_ROWS,
    PLAN,
    begin,
    part_of,
    predictions,
    publish_all,
    rows_of,
    seal_it,
)
from tests.s3_server import Fault, Request, S3Server

#: Numbers no process has: every coordinator of these tests is a dead one to the next.
DEAD_PIDS = itertools.count(2**22 + 1)
ROWS = {shard.index: rows_of(shard) for shard in PLAN}


class ModelFreeWorker:
    """Builds and publishes real parts of predictions made by hand."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def start(self, help_pool: object = None) -> WorkerFacts:
        return WorkerFacts("host", 1, "cpu", "null", "fp32", 1, "no model", 0.0)

    def run(self, attempt: Attempt) -> ShardResult:
        shard, key = attempt.shard.index, LAYOUT.part_key(attempt.shard.index)
        data = encode_part(ROWS[shard], job_id=LAYOUT.job_id, shard=shard, attempt_id=attempt.attempt_id, facts={})
        standing = publish_part(self._store, key, data, pause=lambda _: None)
        mine = standing.attempt_id == attempt.attempt_id
        return ShardResult(shard, standing.attempt_id, mine, predictions(attempt.shard).stats, 1.0, 2.0)

    def live_counts(self) -> LiveCounts:
        return LiveCounts()

    def close(self) -> None:
        pass


class ThievishStore(CrashingStore):
    """Takes an object away just before it is opened, the n-th that is."""

    def __init__(self, store: Store, at: int) -> None:
        super().__init__(store)
        self._thieved, self._at_open = store, at

    def open(self, key: str) -> BinaryIO:
        self._at_open -= 1
        if self._at_open == 0:
            self._thieved.delete(key)
        return super().open(key)


def never(seconds: float) -> None:
    raise AssertionError("a dead coordinator of this machine keeps nobody waiting")


def run(store: CrashingStore, *, workers: int = 1, looks: Callable[[], bool] = lambda: False) -> RunCounts:
    """One coordinator's life, from the binding to the seal; where it looks for others, it does so all the time."""
    begin(store)
    driver = dataclasses.replace(Driver.this_process(), pid=next(DEAD_PIDS))
    held = claim(store, LAYOUT, sleep=never, driver=driver)

    def superseded_by() -> int | None:
        store.die_if_dead()
        return held.look() if looks() else held.superseded_by

    def abandon(shard: Shard, reason: str) -> None:
        raise AssertionError(f"shard {shard.index} was given up: {reason}")

    try:
        ledger = Ledger(PLAN, standing_parts(store, LAYOUT, len(PLAN)), run_id=uuid.uuid4().hex)
        pool = InlinePool(lambda: ModelFreeWorker(store), shards_per_worker=1)
        life = Coordinator(
            ledger, pool, num_workers=workers, superseded_by=superseded_by, abandon=abandon, observer=Quiet()
        )
        counts = life.run() if not ledger.finished else RunCounts()
        seal_it(store)
    finally:
        with suppress(Crashed):
            held.release()
    return counts


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinator, "_TICK_S", 0.005)
    monkeypatch.setattr(publishing, "PAUSE_S", 0.001)
    # Processes die here, no machine does: what was written is there without waiting for the disk.
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def folders(tmp_path: Path) -> Iterator[Store]:
    """New output folders, as many as wanted."""
    return (open_store(str(tmp_path / f"out{number}"), StoreOptions()) for number in itertools.count())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of an output to which nothing happened."""
    store = open_store(str(tmp_path_factory.mktemp("undisturbed")), StoreOptions())
    run(CrashingStore(store))
    return verify(store, LAYOUT, PLAN).rows_sha256


def assert_complete(store: Store, digest: str) -> None:
    found = verify(store, LAYOUT, PLAN)
    assert (found.faults, found.notes, found.complete, found.num_rows) == ((), (), True, NUM_ROWS)
    assert found.rows_sha256 == digest


def assert_sound_so_far(store: Store, *, success: bool) -> None:
    if bound_identity(store) is None:
        assert list(store.list("")) == []
        return
    found = verify(store, LAYOUT, PLAN)
    assert (found.faults, found.complete) == ((), success)


def live(store: CrashingStore) -> bool:
    """Run a coordinator; whether it lived to the end."""
    try:
        run(store)
    except Crashed:
        store.wait_until_still()
        return False
    return True


@pytest.mark.parametrize("moment", Moment)
def test_a_job_disturbed_at_any_store_operation_ends_like_an_undisturbed_one(
    folders: Iterator[Store], undisturbed: str, moment: Moment
) -> None:
    watched = CrashingStore(next(folders))
    run(watched)
    # Only a create may answer in a way that says nothing.
    creates = [operation.startswith("create") for operation in watched.operations]
    for at in (at for at, create in enumerate(creates, start=1) if create or moment is not Moment.ANSWER_LOST):
        store = next(folders)
        disturbed = CrashingStore(store, at, moment)
        lived = live(disturbed)
        assert lived or disturbed.dead
        # Asked for means done, unless the process died on that very request.
        put_success = f"create {SUCCESS_KEY}"
        died_first = moment is Moment.BEFORE and disturbed.dead and disturbed.operations[-1] == put_success
        assert_sound_so_far(store, success=put_success in disturbed.operations and not died_first)
        standing = len(standing_parts(store, LAYOUT, len(PLAN)))
        assert run(CrashingStore(store)).num_published == len(PLAN) - standing
        assert_complete(store, undisturbed)


def test_a_job_that_dies_again_and_again_ends_too(folders: Iterator[Store], undisturbed: str) -> None:
    rng = random.Random(7)
    for _ in range(8):
        store = next(folders)
        while not live(CrashingStore(store, rng.randint(1, 24), rng.choice(list(Moment)))):
            assert highest_claim(store, LAYOUT) < 200
        assert_complete(store, undisturbed)


def test_two_coordinators_at_once_write_one_output(folders: Iterator[Store], undisturbed: str) -> None:
    for _ in range(6):
        store = next(folders)
        ends: list[str] = []

        def compete(store: Store = store, ends: list[str] = ends) -> None:
            try:
                run(CrashingStore(store), workers=2, looks=lambda: True)
                ends.append("complete")
            except Superseded:
                ends.append("superseded")

        threads = [threading.Thread(target=compete) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(ends) == 2
        assert "complete" in ends
        assert_complete(store, undisturbed)


class Then(Enum):
    """What a coordinator does that stood still while another did its job."""

    LOOKS = auto()
    DOES_NOT_LOOK = auto()
    DIES = auto()


def lasting(store: Store) -> dict[str, bytes]:
    """Everything in a folder but the claims and beats of coordinators."""
    infos = list(store.list(""))
    return {info.key: store.read(info.key) for info in infos if not info.key.startswith(LAYOUT.drivers_prefix)}


def overtaken(store: Store, at: int, moment: Moment, then: Then) -> str:
    """Let a coordinator stand still at an operation while another does the job to its end; how the first one ends."""
    first = StandingStore(store, at, moment, dies=then is Then.DIES)
    ends: list[str] = []

    def live_on() -> None:
        try:
            run(first, looks=lambda: then is Then.LOOKS and first.has_gone_on)
            ends.append("done")
        except (Superseded, Crashed) as end:
            ends.append(type(end).__name__)

    thread = threading.Thread(target=live_on)
    thread.start()
    try:
        assert first.standing.wait(60)
        run(CrashingStore(store))
        before = lasting(store)
    finally:
        first.go_on()
        thread.join()
    first.wait_until_still()
    assert lasting(store) == before
    return ends[0]


# To stand still after an operation is to stand still before the next.
@pytest.mark.parametrize("then", Then)
@pytest.mark.parametrize("moment", [Moment.BEFORE, Moment.ANSWER_LOST])
def test_a_coordinator_overtaken_at_any_store_operation_changes_nothing_whatever_it_does_then(
    folders: Iterator[Store], undisturbed: str, moment: Moment, then: Then
) -> None:
    watched = CrashingStore(next(folders))
    run(watched)
    for at, operation in enumerate(watched.operations, start=1):
        if moment is Moment.ANSWER_LOST and not operation.startswith("create"):
            continue
        store = next(folders)
        end = overtaken(store, at, moment, then)
        assert end == "done" or end == {Then.LOOKS: "Superseded", Then.DIES: "Crashed"}.get(then)
        assert_complete(store, undisturbed)


def test_a_zombie_that_publishes_after_the_seal_changes_nothing(folders: Iterator[Store], undisturbed: str) -> None:
    store = next(folders)
    run(CrashingStore(store))
    before = {info.key: store.read(info.key) for info in store.list("")}
    for shard in PLAN:
        standing = publish_part(store, LAYOUT.part_key(shard.index), part_of(shard, attempt_id="zombie"))
        assert standing.attempt_id != "zombie"
    seal_it(store)
    assert {info.key: store.read(info.key) for info in store.list("")} == before
    assert_complete(store, undisturbed)


def test_a_part_taken_away_during_the_seal_ends_the_run_resumable(folders: Iterator[Store], undisturbed: str) -> None:
    for opened in (1, len(PLAN) + 1):  # while the footers are read, and while the errors are
        store = next(folders)
        publish_all(store)
        thief = ThievishStore(store, opened)
        with pytest.raises(StorageLost, match="taken away"):
            seal_it(thief)
        assert not stands(store, SUCCESS_KEY)
    store = next(folders)
    publish_all(store)
    with pytest.raises(StorageLost):
        seal_it(ThievishStore(store, 1))
    assert run(CrashingStore(store)).num_published == 1
    assert_complete(store, undisturbed)


@pytest.mark.parametrize(
    "fault", [Fault(status=500, applied=True), Fault(reset=True, applied=True), Fault(status=503)], ids=repr
)
def test_a_bucket_that_fails_the_first_put_of_every_key_ends_with_the_same_output(
    s3_server: S3Server, undisturbed: str, fault: Fault
) -> None:
    met: set[str] = set()

    def first_put(request: Request) -> Fault | None:
        if request.method != "PUT" or request.key in met:
            return None
        met.add(request.key)
        return fault

    s3_server.fault = first_put
    store = open_store("s3://photos/out", StoreOptions())
    counts = run(CrashingStore(store), workers=3)
    assert counts.num_published == len(PLAN)
    assert len(met) > 10
    assert_complete(store, undisturbed)


def test_the_binding_comes_first_and_success_last(folders: Iterator[Store]) -> None:
    watched = CrashingStore(next(folders))
    run(watched)
    creates = [operation.split()[1] for operation in watched.operations if operation.startswith("create")]
    assert creates[0] == "_batchrec/OUTPUT.json"
    assert creates[-1] == SUCCESS_KEY
    assert creates.index(LAYOUT.seal_key) > max(creates.index(LAYOUT.part_key(i)) for i in range(len(PLAN)))
