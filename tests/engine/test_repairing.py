"""Whatever was done to an output, repairing it lets its own command make it whole again, with the same rows."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from batchrec.engine.claims import claim
from batchrec.engine.repairing import examine, repair
from batchrec.errors import OutputError
from batchrec.output.layout import OUTPUT_KEY, QUARANTINE_PREFIX, REPORT_KEY, SUCCESS_KEY
from batchrec.output.parts import publish_part
from batchrec.output.repairing import move_away
from batchrec.output.seal import read_seal, standing_parts
from batchrec.output.verifying import verify
from batchrec.spec import StoreOptions
from batchrec.storage import KeyMissing, Store, open_store, publishing
from tests.crashing import Crashed, CrashingStore, Moment
from tests.output.making import LAYOUT, NUM_ROWS, OTHER_JOB, PLAN, begin, part_of, publish_all, seal_it
from tests.output.test_verifying import TAMPERINGS, Tamper
from tests.s3_server import S3Server

SHARDS = list(PLAN)


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "PAUSE_S", 0.001)
    # Nothing here is about power cuts.
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def complete(tmp_path: Path) -> Store:
    store = open_store(str(tmp_path / "out"), StoreOptions())
    publish_all(store)
    seal_it(store)
    return store


def repaired(store: Store) -> str | None:
    return repair(examine(store.url, StoreOptions()))[1]


def finish(store: Store) -> None:
    """What a job's own command does."""
    begin(store)
    standing = standing_parts(store, LAYOUT, len(PLAN))
    for shard in PLAN:
        if shard.index not in standing:
            publish_part(store, LAYOUT.part_key(shard.index), part_of(shard, attempt_id="later"))
    seal_it(store)


def contents(store: Store) -> dict[str, bytes]:
    return {info.key: store.read(info.key) for info in store.list("")}


@pytest.mark.parametrize("tamper", [tamper for tamper, _ in TAMPERINGS.values()], ids=TAMPERINGS.keys())
def test_every_tampering_is_mended(complete: Store, tamper: Tamper) -> None:
    whole = verify(complete, LAYOUT, PLAN).rows_sha256
    tamper(complete)
    assert verify(complete, LAYOUT, PLAN).faults
    before = contents(complete)
    moved_to = repaired(complete)
    finish(complete)
    found = verify(complete, LAYOUT, PLAN)
    assert (found.faults, found.complete, found.num_rows, found.rows_sha256) == ((), True, NUM_ROWS, whole)
    kept = contents(complete)
    assert not [key for key, data in before.items() if kept.get(key) != data and kept.get(f"{moved_to}{key}") != data]


def test_a_sound_output_is_left_alone(complete: Store) -> None:
    before = contents(complete)
    examined = examine(complete.url, StoreOptions())
    assert (examined.diagnosis.damages, examined.diagnosis.left, examined.leftovers) == ([], [], [])
    assert repaired(complete) is None
    assert contents(complete) == before


def test_an_output_under_way_keeps_its_good_parts(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "out"), StoreOptions())
    begin(store)
    publish_part(store, LAYOUT.part_key(1), part_of(SHARDS[1]))
    store.create(LAYOUT.part_key(2), part_of(SHARDS[2])[:-20])
    repaired(store)
    assert sorted(standing_parts(store, LAYOUT, len(PLAN))) == [1]
    finish(store)
    assert verify(store, LAYOUT, PLAN).faults == ()


def test_a_crash_in_mid_seal_needs_no_repair(complete: Store) -> None:
    for keys in ((SUCCESS_KEY,), (LAYOUT.errors_key,), (LAYOUT.seal_key,)):
        for key in keys:
            complete.delete(key)
        assert examine(complete.url, StoreOptions()).diagnosis.damages == []


def test_a_part_replaced_between_seal_and_success_no_longer_leaves_the_folder_stuck(complete: Store) -> None:
    complete.delete(SUCCESS_KEY)
    complete.overwrite(LAYOUT.part_key(3), part_of(SHARDS[3], attempt_id="replaced"))
    with pytest.raises(OutputError, match=r"another .*SEAL\.json stands"):
        seal_it(complete)
    repaired(complete)
    assert sorted(standing_parts(complete, LAYOUT, len(PLAN))) == list(range(6))  # its rows are those that were sealed
    finish(complete)
    assert verify(complete, LAYOUT, PLAN).faults == ()


def test_a_foreign_file_among_the_parts_is_moved_and_other_names_stay(complete: Store) -> None:
    foreign = ["predictions/job=x/part-00000000.parquet", LAYOUT.part_key(6), LAYOUT.parts_prefix + "a.parquet"]
    for name in (*foreign, LAYOUT.parts_prefix + "_temporary"):
        complete.create(name, part_of(SHARDS[0]))
    moved_to = repaired(complete)
    assert read_seal(complete, LAYOUT) is not None  # nothing it counts was touched
    assert verify(complete, LAYOUT, PLAN).faults == ()
    assert {f"{moved_to}{name}" for name in foreign} <= contents(complete).keys()
    assert LAYOUT.parts_prefix + "_temporary" in contents(complete)


@pytest.mark.parametrize("plan", [b"", b"PAR1", None])
def test_a_lost_plan_is_made_again_by_the_command(complete: Store, plan: bytes | None) -> None:
    complete.delete(LAYOUT.plan_key)
    if plan is not None:
        complete.create(LAYOUT.plan_key, plan)
    complete.overwrite(LAYOUT.part_key(4), part_of(SHARDS[4], job_id=OTHER_JOB))
    repaired(complete)
    finish(complete)
    assert verify(complete, LAYOUT, PLAN).faults == ()


def test_success_goes_first_whatever_interrupts_the_move(tmp_path: Path) -> None:
    at = 0
    while True:
        at += 1
        store = open_store(str(tmp_path / f"out{at}"), StoreOptions())
        publish_all(store)
        seal_it(store)
        store.overwrite(LAYOUT.part_key(1), b"")
        diagnosis = examine(store.url, StoreOptions()).diagnosis
        dying = CrashingStore(store, at, Moment.AFTER)
        try:
            move_away(dying, diagnosis.damages)
        except Crashed:
            crashed = True
        else:
            crashed = False
        try:
            store.info(SUCCESS_KEY)
        except KeyMissing:
            assert any(operation == f"delete {SUCCESS_KEY}" for operation in dying.operations)
        else:
            assert [key for key in contents(store) if key == LAYOUT.part_key(1)]
        repaired(store)
        finish(store)
        assert verify(store, LAYOUT, PLAN).faults == ()
        if not crashed:
            break
    assert at > 8


def test_a_running_coordinator_is_left_alone(complete: Store) -> None:
    complete.overwrite(LAYOUT.part_key(1), b"")
    held = claim(complete, LAYOUT)
    before = contents(complete)
    try:
        with pytest.raises(OutputError, match=r"is running .*is alive.*stop it, then repair"):
            repaired(complete)
    finally:
        assert contents(complete) == before
        held.release()
    assert repaired(complete) is not None


def test_leftovers_of_killed_processes_are_removed_once_they_are_old(complete: Store) -> None:
    staging = Path(complete.url, "_batchrec/tmp")
    for name, age_s in (("old", 7200), ("new", 60)):
        (staging / name).write_bytes(b"x")
        os.utime(staging / name, (time.time() - age_s,) * 2)
    complete.create("_batchrec/probe/old-twice", b"x")
    os.utime(Path(complete.url, "_batchrec/probe/old-twice"), (time.time() - 7200,) * 2)
    examined = examine(complete.url, StoreOptions())
    assert (examined.leftovers, examined.diagnosis.damages) == (["_batchrec/tmp/old", "_batchrec/probe/old-twice"], [])
    repair(examined)
    assert sorted(path.name for path in staging.iterdir()) == ["new"]
    assert examine(complete.url, StoreOptions()).leftovers == []


def test_what_was_moved_is_written_down(complete: Store) -> None:
    complete.overwrite(REPORT_KEY, b"<html>")
    moved_to = repaired(complete)
    assert moved_to is not None
    assert moved_to.startswith(QUARANTINE_PREFIX)
    assert json.loads(complete.read(f"{moved_to}REPAIR.json")) == [
        {"key": REPORT_KEY, "why": "report.json and the seal disagree"}
    ]
    assert complete.read(f"{moved_to}{REPORT_KEY}") == b"<html>"


def test_a_folder_nobody_knows_is_refused(tmp_path: Path, complete: Store) -> None:
    with pytest.raises(OutputError, match="nobody can tell whose output"):
        examine(str(tmp_path / "nothing"), StoreOptions())
    complete.delete(OUTPUT_KEY)
    complete.create(f"_batchrec/{OTHER_JOB}/plan.parquet", b"")
    with pytest.raises(OutputError, match="2 folders of jobs"):
        examine(complete.url, StoreOptions())


def test_an_output_in_a_bucket_is_mended(s3_server: S3Server) -> None:
    store = open_store("s3://photos/out", StoreOptions())
    publish_all(store)
    seal_it(store)
    store.overwrite(LAYOUT.part_key(2), b"")
    store.delete(LAYOUT.part_key(5))
    examined = examine(store.url, StoreOptions())
    assert (examined.diagnosis.num_redone, examined.diagnosis.reopens) == (2, True)
    repair(examined)
    finish(store)
    found = verify(store, LAYOUT, PLAN)
    assert (found.faults, found.complete, found.num_rows) == ((), True, NUM_ROWS)
