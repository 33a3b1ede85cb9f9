"""Sealing: everything counted again from the parts, and `_SUCCESS` the very last."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from batchrec.errors import OutputError, StorageLost
from batchrec.manifest.planning import plan_shards
from batchrec.output.layout import SUCCESS_KEY
from batchrec.output.parts import publish_part
from batchrec.output.seal import Seal, foreign_names, read_seal, seal, standing_parts
from batchrec.output.tables import read_table
from batchrec.output.verifying import verify
from batchrec.spec import StoreOptions
from batchrec.storage import KeyMissing, Store, open_store
from tests.crashing import Crashed, CrashingStore, Moment
from tests.output.making import (
    FILES,
    LAYOUT,
    NUM_FAILED,
    NUM_ROWS,
    OTHER_JOB,
    PLAN,
    begin,
    fails,
    part_of,
    publish_all,
    rows_of,
    seal_it,
)

SHARDS = list(PLAN)


def replace_part(store: Store, index: int, data: bytes) -> None:
    store.delete(LAYOUT.part_key(index))
    store.create(LAYOUT.part_key(index), data)


def assert_not_sealed(store: Store) -> None:
    for key in (SUCCESS_KEY, LAYOUT.seal_key):
        with pytest.raises(KeyMissing):
            store.info(key)


def test_a_seal_counts_every_part(store: Store) -> None:
    publish_all(store)
    sealed = seal_it(store)
    assert (sealed.num_rows, sealed.num_ok) == (NUM_ROWS, NUM_ROWS - NUM_FAILED)
    assert sealed.num_errors == Counter({"corrupt": 4, "not_found": 3})
    assert sealed.failure_rate == pytest.approx(NUM_FAILED / NUM_ROWS)
    assert [part.size for part in sealed.parts] == [len(store.read(LAYOUT.part_key(i))) for i in range(6)]
    assert read_seal(store, LAYOUT) == sealed
    success = json.loads(store.read(SUCCESS_KEY))
    assert (success["job_id"], success["num_rows"], success["num_ok"]) == (LAYOUT.job_id, 50, 43)
    assert verify(store, LAYOUT, PLAN).faults == ()


def test_there_is_no_seal_before_success(local_store: Store) -> None:
    publish_all(local_store)
    assert read_seal(local_store, LAYOUT) is None
    seal_it(local_store)
    local_store.delete(SUCCESS_KEY)
    assert read_seal(local_store, LAYOUT) is None


@pytest.mark.parametrize("missing", range(6))
def test_a_missing_part_is_named_and_the_same_command_helps(local_store: Store, missing: int) -> None:
    publish_all(local_store)
    local_store.delete(LAYOUT.part_key(missing))
    with pytest.raises(StorageLost, match=rf"1 of 6 parts are missing.*part-0000000{missing}"):
        seal_it(local_store)
    assert_not_sealed(local_store)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (part_of(SHARDS[2], job_id=OTHER_JOB), "job cdcdcdcdcdcd"),
        (part_of(SHARDS[3]), "shard 3 of job"),
        (part_of(SHARDS[2], rows=rows_of(SHARDS[0])), "10 rows where the plan has 5"),
        (part_of(SHARDS[2])[:-9], "not Parquet"),
        (b"", "not Parquet"),
    ],
    ids=["other job", "other shard", "too many rows", "truncated", "empty"],
)
def test_a_part_that_is_not_ours_stops_the_seal_with_its_name(local_store: Store, data: bytes, found: str) -> None:
    publish_all(local_store)
    replace_part(local_store, 2, data)
    with pytest.raises(OutputError, match=rf"part-00000002\.parquet.*{found}"):
        seal_it(local_store)
    assert_not_sealed(local_store)


@pytest.mark.parametrize("counts", [{"num_rows": 11}, {"num_ok": 9}, {"num_errors": {}}, {"num_rows": 11, "num_ok": 9}])
def test_a_footer_that_counts_otherwise_stops_the_seal(local_store: Store, counts: dict[str, object]) -> None:
    publish_all(local_store)
    rows = read_table(io.BytesIO(local_store.read(LAYOUT.part_key(1))))
    footer = {**json.loads(rows.schema.metadata[b"batchrec"]), **counts}
    sink = io.BytesIO()
    pq.write_table(rows.replace_schema_metadata({b"batchrec": json.dumps(footer).encode()}), sink)
    replace_part(local_store, 1, sink.getvalue())
    with pytest.raises(OutputError, match=r"part-00000001\.parquet"):
        seal_it(local_store)
    assert_not_sealed(local_store)


FOREIGN = (
    "part-00000006.parquet",
    "part-1.parquet",
    "part-000000001.parquet",
    "_temporary",
    "part-00000001.parquet.crc",
)


@pytest.mark.parametrize("name", [*(LAYOUT.parts_prefix + name for name in FOREIGN), "predictions/job=x/a.parquet"])
def test_a_foreign_name_is_passed_over_and_said(local_store: Store, name: str) -> None:
    publish_all(local_store)
    local_store.create(name, part_of(SHARDS[0]))
    assert sorted(standing_parts(local_store, LAYOUT, 6)) == list(range(6))
    assert foreign_names(local_store, LAYOUT, 6) == [name]
    seal_it(local_store)
    found = verify(local_store, LAYOUT, PLAN)
    assert found.num_rows == NUM_ROWS
    if name.endswith(".parquet"):
        assert found.faults == (f"{name} is no part of this job",)
    else:
        assert (found.faults, name in found.notes[0]) == ((), True)


def test_a_second_sealer_finds_the_same_and_changes_nothing(store: Store) -> None:
    publish_all(store)
    first = seal_it(store)
    before = {info.key: store.read(info.key) for info in store.list("")}
    assert seal_it(store) == first
    assert {info.key: store.read(info.key) for info in store.list("")} == before


@pytest.mark.parametrize("key", [LAYOUT.seal_key, LAYOUT.errors_key, SUCCESS_KEY])
@pytest.mark.parametrize("standing", [b"", b"{}", b"null", b"[", b"\xff"])
def test_a_sealer_refuses_what_differs(local_store: Store, key: str, standing: bytes) -> None:
    publish_all(local_store)
    local_store.create(key, standing)
    with pytest.raises(OutputError, match="stands in"):
        seal_it(local_store)
    assert local_store.read(key) == standing


def test_a_part_replaced_after_the_seal_is_not_sealed_again_silently(complete: Store) -> None:
    complete.delete(SUCCESS_KEY)
    replace_part(complete, 3, part_of(SHARDS[3], attempt_id="later"))
    with pytest.raises(OutputError, match=r"another .*SEAL\.json stands"):
        seal_it(complete)
    assert read_seal(complete, LAYOUT) is None


def test_another_jobs_success_is_not_taken_for_ours(local_store: Store) -> None:
    publish_all(local_store)
    local_store.create(SUCCESS_KEY, b'{"job_id": "other"}')
    assert read_seal(local_store, LAYOUT) is None
    with pytest.raises(OutputError):
        seal_it(local_store)
    assert "_SUCCESS and the seal disagree" in verify(local_store, LAYOUT, PLAN).faults


@pytest.mark.parametrize("limit", [None, 50, 37, 25, 3])
def test_errors_point_into_the_manifest(tmp_path: Path, limit: int | None) -> None:
    plan = list(plan_shards([25, 0, 25], 10, limit))
    files = (FILES[0], "empty.parquet", FILES[1])
    store = open_store(str(tmp_path / "out"), StoreOptions())
    for shard in plan:
        publish_part(store, LAYOUT.part_key(shard.index), part_of(shard))
    seal(store, LAYOUT, plan, files)
    errors = read_table(io.BytesIO(store.read(LAYOUT.errors_key))).to_pylist()
    rows = [position for position in range(limit or 50) if fails(position)]
    assert [error["row"] for error in errors] == rows
    pointers = [(error["manifest_file"], error["file_row"]) for error in errors]
    assert pointers == [(FILES[position // 25], position % 25) for position in rows]
    assert [error["uri"] for error in errors] == [f"images/{position}.jpg" for position in rows]


def test_errors_of_a_perfect_job_are_an_empty_table(local_store: Store) -> None:
    begin(local_store)
    shard = next(iter(plan_shards([3], 10, None)))
    publish_part(local_store, LAYOUT.part_key(0), part_of(shard))
    seal(local_store, LAYOUT, [shard], FILES)
    assert pq.read_table(io.BytesIO(local_store.read(LAYOUT.errors_key))).num_rows == 0


def test_a_file_name_that_is_no_text_can_be_pointed_at(local_store: Store) -> None:
    publish_all(local_store)
    seal(local_store, LAYOUT, SHARDS, ("a\udcff.parquet", "b.parquet"))
    names = read_table(io.BytesIO(local_store.read(LAYOUT.errors_key))).column("manifest_file")
    assert set(names.to_pylist()) == {"a?.parquet", "b.parquet"}


@pytest.mark.parametrize("damage", [b"", b"[]", b"{}", b"\xff", b'{"job_id": "x", "parts": [{}]}'])
def test_a_damaged_seal_is_an_error_and_no_crash(complete: Store, damage: bytes) -> None:
    complete.overwrite(LAYOUT.seal_key, damage)
    with pytest.raises(OutputError, match="seal of this output is damaged"):
        read_seal(complete, LAYOUT)


def test_a_seal_of_a_later_version_is_understood(complete: Store) -> None:
    plain = json.loads(complete.read(LAYOUT.seal_key))
    later = {**plain, "signed": True, "parts": [{**part, "seconds": 1.0} for part in plain["parts"]]}
    assert Seal.from_json(later).to_json() == plain


def run_until_crash(store: CrashingStore) -> bool:
    try:
        seal_it(store)
    except Crashed:
        return True
    return False


def test_success_is_last_and_the_seal_stands_before_it(local_store: Store) -> None:
    publish_all(local_store)
    watched = CrashingStore(local_store)
    seal_it(watched)
    creates = [operation for operation in watched.operations if operation.startswith("create")]
    assert creates == [f"create {key}" for key in (LAYOUT.seal_key, LAYOUT.errors_key, SUCCESS_KEY)]
    assert watched.operations[-1] == creates[-1]


@pytest.mark.parametrize("moment", Moment)
def test_a_crash_at_any_store_operation_of_sealing_is_healed_by_sealing_again(
    local_store: Store, tmp_path: Path, moment: Moment, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A process dies here, no machine does: nothing needs to wait for the disk.
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    publish_all(local_store)
    at = 0
    while True:
        at += 1
        copy = shutil.copytree(local_store.url, tmp_path / f"crashed{at}")
        store = open_store(str(copy), StoreOptions())
        dying = CrashingStore(store, at, moment)
        crashed = run_until_crash(dying)
        succeeded = dying.operations[-1] == f"create {SUCCESS_KEY}" and not (crashed and moment is Moment.BEFORE)
        found = verify(store, LAYOUT, PLAN)
        assert (found.faults, found.complete) == ((), succeeded or not crashed)
        seal_it(store)
        found = verify(store, LAYOUT, PLAN)
        assert (found.faults, found.complete, found.num_rows) == ((), True, NUM_ROWS)
        if at > len(dying.operations):
            break
    assert at > 10
