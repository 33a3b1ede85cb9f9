"""The checker: a sound output has no faults, and whatever is done to one has a name."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from batchrec.output.layout import OUTPUT_KEY, REPORT_KEY, SUCCESS_KEY
from batchrec.output.parts import encode_part, publish_part
from batchrec.output.tables import read_table
from batchrec.output.verifying import verify
from batchrec.storage import Store
from tests.output.making import (
    LAYOUT,
    NUM_ROWS,
    OTHER_JOB,
    PLAN,
    begin,
    part_of,
    publish_all,
    rows_of,
    seal_it,
)

SHARDS = list(PLAN)
KEY = LAYOUT.part_key(1)

Tamper = Callable[[Store], None]


def test_a_complete_output_is_sound(store: Store) -> None:
    publish_all(store)
    assert verify(store, LAYOUT, PLAN).notes == ("not complete: 6 of 6 parts stand",)
    seal_it(store)
    found = verify(store, LAYOUT, PLAN)
    assert (found.faults, found.notes, found.complete, found.num_rows) == ((), (), True, NUM_ROWS)


def test_an_output_under_way_is_sound_and_says_so(local_store: Store) -> None:
    begin(local_store)
    publish_part(local_store, KEY, part_of(SHARDS[1]))
    found = verify(local_store, LAYOUT, PLAN)
    assert (found.faults, found.notes, found.complete) == ((), ("not complete: 1 of 6 parts stand",), False)


def test_attempts_and_compression_do_not_change_the_digest_of_an_output(complete: Store) -> None:
    before = verify(complete, LAYOUT, PLAN).rows_sha256
    complete.overwrite(KEY, part_of(SHARDS[1], rows=rows_of(SHARDS[1], number=3), attempt_id="x"))
    assert verify(complete, LAYOUT, PLAN).rows_sha256 == before


def part(change: Callable[[pa.Table], pa.Table]) -> Tamper:
    """Rewrite one part with a footer that is true of the new rows."""

    def tamper(store: Store) -> None:
        store.overwrite(KEY, part_of(SHARDS[1], rows=change(rows_of(SHARDS[1])), attempt_id="run-1"))

    return tamper


def under_old_footer(change: Callable[[pa.Table], pa.Table]) -> Tamper:
    """Rewrite one part and keep its footer."""

    def tamper(store: Store) -> None:
        rows = read_table(io.BytesIO(store.read(KEY)))
        sink = io.BytesIO()
        pq.write_table(change(rows).replace_schema_metadata(rows.schema.metadata), sink)
        store.overwrite(KEY, sink.getvalue())

    return tamper


def record(key: str, change: Callable[[Any], Any]) -> Tamper:
    def tamper(store: Store) -> None:
        store.overwrite(key, json.dumps(change(json.loads(store.read(key)))).encode())

    return tamper


def raw(key: str, data: bytes) -> Tamper:
    return lambda store: store.overwrite(key, data)


def gone(key: str) -> Tamper:
    return lambda store: store.delete(key)


def put(name: str, values: list[Any]) -> Callable[[pa.Table], pa.Table]:
    def change(rows: pa.Table) -> pa.Table:
        at = rows.schema.get_field_index(name)
        return rows.set_column(
            at, rows.schema.field(at).with_nullable(True), pa.array(values, rows.schema.field(at).type)
        )

    return change


def column(name: str, index: int, value: Any) -> Callable[[pa.Table], pa.Table]:
    def change(rows: pa.Table) -> pa.Table:
        values = rows.column(name).to_pylist()
        values[index] = value
        return put(name, values)(rows)

    return change


def footer(**changes: Any) -> Tamper:
    def tamper(store: Store) -> None:
        rows = read_table(io.BytesIO(store.read(KEY)))
        plain = {**json.loads(rows.schema.metadata[b"batchrec"]), **changes}
        sink = io.BytesIO()
        pq.write_table(rows.replace_schema_metadata({b"batchrec": json.dumps(plain).encode()}), sink)
        store.overwrite(KEY, sink.getvalue())

    return tamper


def swap(store: Store) -> None:
    one, two = store.read(LAYOUT.part_key(0)), store.read(LAYOUT.part_key(1))
    store.overwrite(LAYOUT.part_key(0), two)
    store.overwrite(LAYOUT.part_key(1), one)


def errors(change: Callable[[pa.Table], pa.Table]) -> Tamper:
    def tamper(store: Store) -> None:
        sink = io.BytesIO()
        pq.write_table(change(read_table(io.BytesIO(store.read(LAYOUT.errors_key)))), sink)
        store.overwrite(LAYOUT.errors_key, sink.getvalue())

    return tamper


def seal_part(**changes: Any) -> Tamper:
    def change(plain: Any) -> Any:
        plain["parts"][1].update(changes)
        return plain

    return record(LAYOUT.seal_key, change)


def inflate(store: Store) -> None:
    """Count three rows more in the seal and in `_SUCCESS` alike."""
    seal_part(num_rows=13, num_ok=11)(store)
    for key in (LAYOUT.seal_key, SUCCESS_KEY):
        record(key, lambda plain: {**plain, "num_rows": plain["num_rows"] + 3, "num_ok": plain["num_ok"] + 3})(store)


def drop_sealed_part(store: Store) -> None:
    plain = json.loads(store.read(LAYOUT.seal_key))
    last = plain["parts"].pop()
    failed = sum(last["num_errors"].values())
    counts = {code: count - last["num_errors"].get(code, 0) for code, count in plain["num_errors"].items()}
    totals = {
        "num_rows": 45,
        "num_ok": plain["num_ok"] - 5 + failed,
        "num_errors": {k: v for k, v in counts.items() if v},
    }
    store.overwrite(LAYOUT.seal_key, json.dumps({**plain, **totals}).encode())
    store.overwrite(SUCCESS_KEY, json.dumps({k: v for k, v in {**plain, **totals}.items() if k != "parts"}).encode())


FAILED_ROW, OK_ROW = 0, 1  # of shard 1: manifest row 10 fails, row 11 does not

TAMPERINGS: dict[str, tuple[Tamper, str]] = {
    "the definition is garbage": (raw(LAYOUT.spec_key, b"[]"), "does not define this job"),
    "the definition is another job's": (raw(LAYOUT.spec_key, b'{"identity": {}}'), "does not define this job"),
    "a part is gone": (gone(KEY), "is sealed, but is not there"),
    "a part is empty": (raw(KEY, b""), "not Parquet"),
    "a part is cut": (lambda store: store.overwrite(KEY, store.read(KEY)[:-7]), "not Parquet"),
    "a page is damaged": (
        lambda store: store.overwrite(KEY, store.read(KEY)[:40] + bytes(400) + store.read(KEY)[440:]),
        "part-00000001",
    ),
    "a part of another job": (lambda store: store.overwrite(KEY, part_of(SHARDS[1], job_id=OTHER_JOB)), "another job"),
    "two parts changed places": (swap, "belongs to another job or shard"),
    "a row is lost": (part(lambda rows: rows.slice(1)), "9 rows where the plan has 10"),
    "a row is doubled": (part(lambda rows: pa.concat_tables([rows.slice(0, 9), rows.slice(8, 1)])), "planned rows"),
    "rows changed places": (part(lambda rows: rows.take([1, 0, *range(2, 10)])), "planned rows in order"),
    "a row has no position": (part(column("row", 3, None)), "planned rows"),
    "a value changed under its footer": (under_old_footer(column("score", OK_ROW, 0.25)), "another digest"),
    "a pass-through value changed": (under_old_footer(column("shelf", 4, "elsewhere")), "another digest"),
    "a value changed with its footer": (part(column("score", OK_ROW, 0.25)), "has other rows than were sealed"),
    "ok with a code": (part(column("error_code", OK_ROW, "corrupt")), "ok and carry a code"),
    "failed without a code": (part(column("error_code", FAILED_ROW, None)), "ok and carry a code, or neither"),
    "a status of neither kind": (part(column("status", OK_ROW, "maybe")), "neither ok nor error"),
    "no status": (part(column("status", OK_ROW, None)), "neither ok nor error"),
    "a label on a failed row": (part(column("label", FAILED_ROW, "hat")), "failed with one"),
    "no label on an ok row": (part(column("label", OK_ROW, None)), "ok without a label"),
    "a code of no list": (part(column("error_code", FAILED_ROW, "cosmic_ray")), "outside the closed list"),
    "other columns": (part(lambda rows: rows.drop_columns(["margin"])), "other columns"),
    "a footer counts other rows": (footer(num_rows=11), "counts other rows"),
    "a footer counts other predictions": (footer(num_ok=10), "counts other predictions"),
    "a footer counts other errors": (footer(num_errors={"corrupt": 9}), "counts other errors"),
    "a footer has another digest": (footer(rows_sha256="0" * 64), "another digest in its footer"),
    "a footer names another attempt": (footer(attempt_id="run-9"), "count differently|bytes, sealed with"),
    "the seal has another size": (seal_part(size=1), "bytes, sealed with 1"),
    "the seal has another digest": (seal_part(rows_sha256="0" * 64), "other rows than were sealed"),
    "the seal has another attempt": (seal_part(attempt_id="x"), "the seal count differently"),
    "the seal and _SUCCESS count too many rows": (inflate, "the seal count differently"),
    "the seal counts other totals": (
        record(LAYOUT.seal_key, lambda plain: {**plain, "num_rows": 51}),
        "totals that are not the sums",
    ),
    "the seal leaves a part out": (drop_sealed_part, "other shards than the plan"),
    "the seal is another job's": (record(LAYOUT.seal_key, lambda plain: {**plain, "job_id": OTHER_JOB}), "damaged"),
    "the seal is no JSON": (raw(LAYOUT.seal_key, b"{"), "damaged"),
    "the seal is gone": (gone(LAYOUT.seal_key), "_SUCCESS stands without a seal"),
    "_SUCCESS is empty": (raw(SUCCESS_KEY, b""), "_SUCCESS and the seal disagree"),
    "_SUCCESS is a list": (raw(SUCCESS_KEY, b"[]"), "_SUCCESS and the seal disagree"),
    "_SUCCESS counts otherwise": (
        record(SUCCESS_KEY, lambda plain: {**plain, "num_ok": 50}),
        "_SUCCESS and the seal disagree",
    ),
    "errors are gone": (gone(LAYOUT.errors_key), "errors.parquet is not there"),
    "errors are no Parquet": (raw(LAYOUT.errors_key, b"PAR1"), "errors.parquet cannot be read"),
    "an error is missing": (errors(lambda rows: rows.slice(1)), "6 rows where the parts have 7"),
    "an error points elsewhere": (errors(column("file_row", 0, 24)), "other rows than the failed ones"),
    "an error names another file": (errors(column("manifest_file", 0, "x")), "other rows than the failed ones"),
    "an error has another URI": (errors(column("uri", 0, "x")), "other rows than the failed ones"),
    "the binding is gone": (gone(OUTPUT_KEY), "OUTPUT.json is not there"),
    "the binding is another job's": (
        record(OUTPUT_KEY, lambda plain: {**plain, "job_id": OTHER_JOB}),
        "binds the folder to another job",
    ),
    "the binding is no JSON": (raw(OUTPUT_KEY, b"\xff{"), "OUTPUT.json cannot be read"),
    "the report counts otherwise": (
        raw(REPORT_KEY, json.dumps({"job_id": LAYOUT.job_id, "num_rows": 50, "num_ok": 50}).encode()),
        "report.json and the seal disagree",
    ),
    "the report is no JSON": (raw(REPORT_KEY, b"<html>"), "report.json and the seal disagree"),
}


@pytest.mark.parametrize(("tamper", "fault"), TAMPERINGS.values(), ids=TAMPERINGS.keys())
def test_every_tampering_is_reported(complete: Store, tamper: Tamper, fault: str) -> None:
    tamper(complete)
    found = verify(complete, LAYOUT, PLAN)
    assert pc.any(pc.match_substring_regex(pa.array(found.faults, pa.string()), fault)).as_py(), found.faults


def test_success_in_a_folder_of_missing_parts_is_a_fault(local_store: Store) -> None:
    begin(local_store)
    local_store.create(SUCCESS_KEY, b"{}")
    found = verify(local_store, LAYOUT, PLAN)
    assert (found.faults, found.complete) == (("_SUCCESS stands without a seal",), False)


def test_a_part_of_no_rows_and_no_columns_is_a_fault_and_no_crash(complete: Store) -> None:
    for rows in (rows_of(SHARDS[1]).slice(0, 0), pa.table({"error_code": pa.array([], pa.string()), "status": []})):
        data = encode_part(rows, job_id=LAYOUT.job_id, shard=1, attempt_id="x", facts={})
        complete.overwrite(KEY, data)
        assert verify(complete, LAYOUT, PLAN).faults
