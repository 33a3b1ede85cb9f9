"""Outputs as their readers see them: `batchrec.open`, DuckDB, Polars and pandas."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import duckdb
import pandas
import polars
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import batchrec
from batchrec.engine.identity import bind
from batchrec.errors import OutputError
from batchrec.manifest.planning import plan_shards
from batchrec.output.layout import OUTPUT_KEY, REPORT_KEY
from batchrec.output.schema import OUTPUT_COLUMNS
from batchrec.storage import Store
from tests.output.making import (
    IDENTITY,
    LAYOUT,
    NUM_FAILED,
    NUM_ROWS,
    PLAN,
    begin,
    fails,
    part_of,
    passthrough,
    publish_all,
    rows_of,
    seal_it,
)

WHOLE = pa.concat_tables([rows_of(shard) for shard in PLAN])


def test_predictions_are_the_rows_in_plan_order(store: Store) -> None:
    publish_all(store)
    assert batchrec.open(store.url).predictions().to_table().equals(WHOLE)
    seal_it(store)
    opened = batchrec.open(store.url)
    assert opened.predictions().to_table().equals(WHOLE)
    assert opened.predictions().to_table().slice(0, 50).column_names[: len(OUTPUT_COLUMNS)] == list(OUTPUT_COLUMNS)


def test_columns_and_rows_are_read_when_they_are_asked_for(complete: Store) -> None:
    rows = batchrec.open(complete.url).predictions().to_table(columns=["row"], filter=pc.field("label") == "hat")
    assert rows.column("row").to_pylist() == [p for p in range(NUM_ROWS) if p % 4 == 2 and not fails(p)]


def test_a_foreign_part_is_no_prediction(complete: Store) -> None:
    complete.create(LAYOUT.part_key(6), part_of(PLAN[0]))
    complete.create(LAYOUT.parts_prefix + "part-1.parquet", part_of(PLAN[0]))
    assert batchrec.open(complete.url).predictions().count_rows() == NUM_ROWS


def test_more_parts_than_a_process_may_open_can_be_read(local_store: Store) -> None:
    plan = plan_shards([150], 1, None)
    begin(local_store)
    local_store.overwrite(LAYOUT.plan_key, plan.to_parquet())
    for shard in plan:
        local_store.overwrite(LAYOUT.part_key(shard.index), part_of(shard))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 60, hard))
    try:
        rows = batchrec.open(local_store.url).predictions().to_table(columns=["row"], use_threads=False)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert rows.column("row").to_pylist() == list(range(150))


def test_errors_of_a_complete_and_of_a_running_job(local_store: Store) -> None:
    publish_all(local_store)
    running = batchrec.open(local_store.url).errors()
    seal_it(local_store)
    complete = batchrec.open(local_store.url).errors()
    assert running.equals(complete.select(running.column_names))
    assert complete.num_rows == NUM_FAILED
    assert complete.column("file_row").to_pylist() == [3, 10, 17, 24, 6, 13, 20]


def test_a_folder_of_no_job_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(OutputError, match="is not the output of a job"):
            batchrec.open(str(folder))


@pytest.mark.parametrize(
    "record",
    [b"", b"[]", b"{}", b"\xff", b'{"job_id": 5, "identity": {}}', b'{"job_id": "../../x", "identity": {}}'],
)
def test_a_damaged_binding_is_refused(local_store: Store, record: bytes) -> None:
    local_store.create(OUTPUT_KEY, record)
    with pytest.raises(OutputError, match=r"OUTPUT\.json cannot be read"):
        batchrec.open(local_store.url)


def test_a_job_that_only_began_has_no_predictions(local_store: Store) -> None:
    bind(local_store, IDENTITY)
    opened = batchrec.open(local_store.url)
    for read in (opened.predictions, opened.errors):
        with pytest.raises(OutputError, match="has no predictions yet"):
            read()
    assert (opened.seal, opened.parts, opened.progress()) == (None, [], None)
    assert opened.identity == dict(IDENTITY.fields)


def test_the_report_is_read_back_or_its_lack_explained(complete: Store) -> None:
    with pytest.raises(OutputError, match=r"report\.json is not there"):
        batchrec.open(complete.url).report()
    complete.overwrite(REPORT_KEY, json.dumps({"num_ok": 43}).encode())
    assert batchrec.open(complete.url).report() == {"num_ok": 43}
    complete.overwrite(REPORT_KEY, b"<html>")
    with pytest.raises(OutputError, match=r"report\.json cannot be read"):
        batchrec.open(complete.url).report()


def test_a_damaged_plan_is_an_error_and_no_crash(complete: Store) -> None:
    complete.overwrite(LAYOUT.plan_key, b"PAR1")
    with pytest.raises(OutputError, match=r"plan\.parquet is damaged"):
        batchrec.open(complete.url).predictions()


def test_lost_errors_are_an_error_and_no_crash(complete: Store) -> None:
    complete.delete(LAYOUT.errors_key)
    with pytest.raises(OutputError, match=r"errors\.parquet is not there"):
        batchrec.open(complete.url).errors()


@pytest.fixture
def glob(complete: Store) -> str:
    """What people write to read the parts without batchrec."""
    return f"{complete.url}/predictions/*/*.parquet"


def test_duckdb_reads_the_parts(glob: str) -> None:
    query = f"SELECT count(*), sum(price), count(label), max(tags.a), max(len(top_k)), max(seen) FROM '{glob}'"
    total, price, labelled, last, k, seen = duckdb.sql(query).fetchall()[0]
    prices = passthrough(0, NUM_ROWS).column("price").to_pylist()
    assert (total, price, labelled, last, k) == (NUM_ROWS, sum(prices), NUM_ROWS - NUM_FAILED, 49, 2)
    assert str(seen) == "2024-01-03 01:00:00"
    listed = duckdb.sql(f"SELECT top_k[1].label = label FROM '{glob}' WHERE status = 'ok'").fetchall()
    assert set(listed) == {(True,)}


def test_polars_reads_the_parts(glob: str) -> None:
    rows = polars.read_parquet(glob, hive_partitioning=False).sort("row")
    assert rows["row"].to_list() == list(range(NUM_ROWS))
    for name in passthrough(0, 1).column_names:
        assert rows[name].to_list() == WHOLE.column(name).to_pylist(), name
    assert rows["top_k"].to_list() == WHOLE.column("top_k").to_pylist()


def test_pandas_reads_the_parts(complete: Store) -> None:
    rows = pandas.read_parquet(f"{complete.url}/predictions").sort_values("row", ignore_index=True)
    assert rows["row"].tolist() == list(range(NUM_ROWS))
    assert rows["price"].tolist() == WHOLE.column("price").to_pylist()
    assert int(rows["label"].isna().sum()) == NUM_FAILED


def test_pyarrow_reads_the_folder_as_one_table(complete: Store) -> None:
    rows = pq.read_table(f"{complete.url}/predictions", partitioning=None, use_threads=False)
    assert rows.equals(WHOLE)
