"""Parents and retries as one: made by hand, so that every shape of overlap is met."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import batchrec
from batchrec.engine.identity import Identity, bind
from batchrec.errors import OutputError
from batchrec.manifest.planning import plan_shards
from batchrec.output.children import ChildRecord, Origin, OriginFile, add_record, children_of, keep_origin
from batchrec.output.layout import Layout
from batchrec.output.merging import MergedPredictions, _replaced
from batchrec.output.parts import encode_part
from batchrec.output.schema import OK
from batchrec.output.seal import seal
from batchrec.spec import StoreOptions
from batchrec.storage import Store, open_store
from batchrec.storage.local_store import LocalStore
from tests.output.making import LAYOUT, NUM_ROWS, PLAN, fails, publish_all, rows_of, seal_it

WHOLE = pa.concat_tables([rows_of(shard) for shard in PLAN])
FAILED = [row for row in range(NUM_ROWS) if fails(row)]
Retry = Callable[..., Store]


def recognised(rows: pa.Table, label: str) -> pa.Table:
    """The rows as if a model had found a label for each."""
    ok = {
        "status": pa.array([OK] * rows.num_rows),
        "error_code": pa.nulls(rows.num_rows, pa.string()),
        "error_detail": pa.nulls(rows.num_rows, pa.string()),
        "label": pa.array([label] * rows.num_rows),
        "top_k": pa.array([[{"label": label, "score": 0.5}]] * rows.num_rows, rows.schema.field("top_k").type),
    }
    for name, values in ok.items():
        at = rows.schema.get_field_index(name)
        rows = rows.set_column(at, rows.schema.field(at), values)
    return rows


@pytest.fixture
def retry(tmp_path: Path) -> Retry:
    """Make a sealed retry of some rows of an output, a part for every two, in which some are recognised."""

    def make(
        parent: Store,
        layout: Layout,
        number: int,
        rows: list[int],
        found: list[int],
        *,
        sealed: bool = True,
        base: pa.Table = WHOLE,
    ) -> Store:
        store = open_store(str(tmp_path / f"child-{Path(parent.url).name}-{number}"), StoreOptions())
        identity = Identity({"manifest": [["m.parquet", number, "ab"]], "of": layout.job_id})
        own, plan = Layout(identity.job_id), plan_shards([len(rows)], 2, None)
        add_record(parent, layout, ChildRecord(number, store.url, ("not_found",), {}, f"{number}"))
        keep_origin(
            store,
            Origin(layout.job_id, parent.url, "parent_row", "/", (OriginFile("m.parquet", number, len(rows), "ab"),)),
        )
        bind(store, identity)
        store.create(own.plan_key, plan.to_parquet())
        for shard in plan:
            wanted = rows[shard.first_position : shard.first_position + shard.num_rows]
            tables = [
                recognised(base.slice(row, 1), f"by {number}") if row in found else base.slice(row, 1) for row in wanted
            ]
            table = pa.concat_tables(tables).set_column(
                2,
                base.schema.field("row"),
                pa.array(range(shard.first_position, shard.first_position + shard.num_rows)),
            )
            table = table.append_column(pa.field("parent_row", pa.int64(), nullable=False), pa.array(wanted))
            data = encode_part(table, job_id=own.job_id, shard=shard.index, attempt_id="r", facts={})
            store.create(own.part_key(shard.index), data)
        if sealed:
            seal(store, own, list(plan), ["m.parquet"])
        return store

    return make


def labels(store: Store) -> dict[int, str]:
    """What retries say of the rows that failed."""
    rows = batchrec.open(store.url).predictions().to_table()
    assert rows["row"].to_pylist() == list(range(NUM_ROWS))
    assert rows.filter(pc.is_in(rows["row"], pa.array([r for r in range(NUM_ROWS) if not fails(r)]))).equals(
        WHOLE.filter(pa.array([not fails(row) for row in range(NUM_ROWS)]))
    )
    return {row: rows["label"][row].as_py() for row in FAILED if rows["status"][row].as_py() == OK}


def test_an_output_without_retries_is_the_dataset_it_was(complete: Store) -> None:
    assert not isinstance(batchrec.open(complete.url).predictions(), MergedPredictions)


@pytest.mark.parametrize("found", [[], FAILED[:1], FAILED[-1:], FAILED[1::2], FAILED])
def test_the_rows_a_retry_recognised_stand_in_their_places(complete: Store, retry: Retry, found: list[int]) -> None:
    retry(complete, LAYOUT, 1, FAILED, found)
    assert labels(complete) == dict.fromkeys(found, "by 1")
    errors = batchrec.open(complete.url).errors()
    assert errors["row"].to_pylist() == [row for row in FAILED if row not in found]
    assert errors.schema.equals(batchrec.open(complete.url).errors(merged=False).schema)


def test_a_later_error_does_not_replace_a_prediction_and_a_later_prediction_an_error(
    complete: Store, retry: Retry
) -> None:
    retry(complete, LAYOUT, 1, FAILED, FAILED[:2])
    retry(complete, LAYOUT, 2, FAILED, FAILED[1:4])
    retry(complete, LAYOUT, 3, FAILED[5:6], [])
    assert labels(complete) == {FAILED[0]: "by 1", FAILED[1]: "by 1", FAILED[2]: "by 2", FAILED[3]: "by 2"}


def test_a_retry_that_is_not_sealed_does_not_count(complete: Store, retry: Retry) -> None:
    retry(complete, LAYOUT, 1, FAILED, FAILED, sealed=False)
    assert [child.sealed for child in children_of(batchrec.open(complete.url))] == [False]
    assert labels(complete) == {}


def test_retries_of_an_unsealed_job_do_not_count(local_store: Store, retry: Retry) -> None:
    publish_all(local_store)
    retry(local_store, LAYOUT, 1, FAILED, FAILED)
    assert labels(local_store) == {}


def test_a_retry_of_a_retry_counts_for_the_first_job(complete: Store, retry: Retry) -> None:
    child = retry(complete, LAYOUT, 1, FAILED, FAILED[:1])
    opened = batchrec.open(child.url)
    rows = opened.predictions(merged=False).to_table().drop_columns(["parent_row"]).replace_schema_metadata(None)
    retry(child, opened.layout, 1, [1, 3], [3], base=rows)
    assert labels(complete) == {FAILED[0]: "by 1", FAILED[3]: "by 1"}
    assert batchrec.open(child.url).errors()["row"].to_pylist() == [1, 2, 4, 5, 6]


def test_columns_are_read_alone_and_in_the_order_they_were_named(complete: Store, retry: Retry) -> None:
    retry(complete, LAYOUT, 1, FAILED, FAILED)
    rows = batchrec.open(complete.url).predictions()
    assert rows.to_table(columns=["label", "shelf"]).column_names == ["label", "shelf"]
    assert rows.to_table(columns=["uri"]).equals(WHOLE.select(["uri"]))
    assert rows.count_rows() == NUM_ROWS
    assert rows.count_rows(pc.field("label") == "by 1") == len(FAILED)
    assert rows.head(4, ["row"])["row"].to_pylist() == [0, 1, 2, 3]
    assert pa.RecordBatchReader.from_stream(rows).read_all().num_rows == NUM_ROWS


def test_embeddings_come_from_the_retry_too() -> None:
    kind = pa.list_(pa.field("element", pa.float16()), 2)
    own = pa.array([None, [np.float16(1), np.float16(2)]], kind)
    newer = pa.array([[np.float16(3), np.float16(4)]], kind)
    both = _replaced(pa.chunked_array([own]), pa.chunked_array([newer]), np.array([2, 1]))
    assert both.to_pylist() == [[3.0, 4.0], [1.0, 2.0]]


def test_a_retry_whose_rows_do_not_rise_is_refused(complete: Store, retry: Retry) -> None:
    retry(complete, LAYOUT, 1, [FAILED[1], FAILED[0]], [])
    with pytest.raises(OutputError, match="does not rise from row to row"):
        labels(complete)


def test_retries_that_go_round_are_refused(complete: Store, retry: Retry) -> None:
    child = retry(complete, LAYOUT, 1, FAILED, [])
    opened = batchrec.open(child.url)
    origin = json.loads(child.read("_batchrec/retry/RETRY.json"))
    child.overwrite("_batchrec/retry/RETRY.json", json.dumps({**origin, "parent_job_id": opened.job_id}).encode())
    add_record(child, opened.layout, ChildRecord(1, child.url, (), {}, "x"))
    with pytest.raises(OutputError, match="go round"):
        batchrec.open(child.url).predictions().to_table()


@pytest.mark.parametrize("record", [b"", b"[]", b"{}", b"\xff", b'{"output": 1, "codes": 3, "settings": {}}'])
def test_a_damaged_record_is_an_error_and_no_crash(complete: Store, record: bytes) -> None:
    complete.create(LAYOUT.child_key(1), record)
    with pytest.raises(OutputError, match=r"children/0001\.json cannot be read"):
        batchrec.open(complete.url).predictions()


def test_of_two_who_take_one_number_one_has_it(complete: Store) -> None:
    records = [ChildRecord(1, f"/{nonce}", (), {}, nonce) for nonce in "ab"]
    assert [add_record(complete, LAYOUT, record) for record in records] == [True, False]
    seal_it(complete)
    assert [child.record.nonce for child in children_of(batchrec.open(complete.url))] == ["a"]


def test_a_view_is_read_part_by_part(complete: Store, retry: Retry, monkeypatch: pytest.MonkeyPatch) -> None:
    retry(complete, LAYOUT, 1, FAILED, FAILED)
    rows = batchrec.open(complete.url).predictions()
    rows.schema  # noqa: B018  the first part is opened for it, once
    opened: list[str] = []
    own_open = LocalStore.open

    def watched(store: LocalStore, key: str) -> object:
        opened.append(key)
        return own_open(store, key)

    monkeypatch.setattr(LocalStore, "open", watched)
    batches = iter(rows.reader())
    next(batches)
    parts = [key.rpartition("-")[2] for key in opened if "part-" in key]
    # Ten rows of the parent, of which the fourth failed, and of the retry the part of that one.
    assert parts == ["00000000.parquet", "00000000.parquet", "00000000.parquet"]
    assert sum(1 for _ in batches) == len(PLAN) - 1
