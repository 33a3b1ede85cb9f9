"""What a worker reads of a manifest."""

from __future__ import annotations

import os
import pickle
import random

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchrec.errors import ManifestError, StorageLost
from batchrec.manifest import rows as rows_module
from batchrec.manifest.planning import plan_shards
from batchrec.manifest.reading import RowReader
from batchrec.records import Shard
from batchrec.spec import StoreOptions

OPTIONS = StoreOptions()


def shard(first_row: int, num_rows: int, file: int = 0, first_position: int | None = None) -> Shard:
    return Shard(0, file, first_row, num_rows, first_row if first_position is None else first_position)


def all_shards(manifest, size, limit=None):
    return list(plan_shards([file.num_rows for file in manifest.files], size, limit))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows_by_file=st.lists(st.integers(0, 300), min_size=1, max_size=3).filter(any),
    group=st.integers(1, 130),
    size=st.integers(1, 130),
    window=st.sampled_from([0, 1_000, 2**20]),
    batch=st.sampled_from([7, 64]),
    seed=st.none() | st.integers(0, 5),
)
def test_shards_in_any_order_give_every_row_as_written(
    write, opened, tmp_path, monkeypatch, rows_by_file, group, size, window, batch, seed
):
    monkeypatch.setattr(rows_module, "WINDOW_BYTES", window)
    monkeypatch.setattr(rows_module, "_BATCH_ROWS", batch)
    for old in tmp_path.glob("lists/*"):
        old.unlink()
    for file, rows in enumerate(rows_by_file):
        uris = [None if row % 11 == 3 else f"{file}/{row}.jpg" for row in range(rows)]
        columns = {"uri": pa.array(uris, pa.string()), "n": pa.array(range(rows), pa.int64())}
        write(pa.table(columns), f"lists/{file}.parquet", row_group_size=group)
    manifest = opened(tmp_path / "lists", passthrough=("n",))
    reader, shards = RowReader(manifest, OPTIONS), all_shards(manifest, size)
    if seed is not None:
        random.Random(seed).shuffle(shards)
    for each in shards:
        rows, span = reader.read(each), range(each.first_row, each.first_row + each.num_rows)
        assert rows.uris == [None if row % 11 == 3 else f"{each.file}/{row}.jpg" for row in span]
        assert rows.passthrough["n"].to_pylist() == list(span)
        assert rows.ids.to_pylist() == [str(each.first_position + i) for i in range(each.num_rows)]
    reader.close()


def test_a_reader_works_in_another_process_from_a_pickled_manifest(write, opened):
    manifest = pickle.loads(pickle.dumps(opened(write({"uri": ["a", "b"]}))))
    assert RowReader(manifest, OPTIONS).read(shard(0, 2)).uris == ["a", "b"]


def test_without_pass_through_the_table_still_has_its_rows(write, opened):
    rows = RowReader(opened(write({"uri": ["a", "b", "c"]})), OPTIONS).read(shard(1, 2))
    assert (rows.passthrough.num_rows, rows.passthrough.num_columns) == (2, 0)


@pytest.mark.parametrize(
    "ids",
    [
        pa.array([7, None, -9]),
        pa.array(["7", None, "-9"]).dictionary_encode(),
        pa.array(["7", None, "-9"], pa.string_view()),
        pa.array([7, None, 247], pa.uint8()).dictionary_encode(),
    ],
    ids=lambda ids: str(ids.type),
)
def test_ids_come_as_strings(write, opened, ids):
    rows = RowReader(opened(write({"uri": ["a", "b", "c"], "id": ids})), OPTIONS).read(shard(0, 3))
    assert rows.ids.type == pa.string()
    assert rows.ids.to_pylist() in (["7", None, "-9"], ["7", None, "247"])


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int16(), pa.string())], ids=str)
def test_uris_of_every_text_type_come_as_strings(write, opened, kind):
    uris = ["a", None, "ü 😀", "", "x\0y\n"] * 3
    path = write({"uri": pa.array(uris, pa.string()).cast(kind)}, row_group_size=4)
    assert RowReader(opened(path), OPTIONS).read(shard(2, 12)).uris == uris[2:14]


def test_pass_through_columns_keep_their_values_and_nested_types(write, opened):
    nested = pa.array([[{"x": 1.5}], None, []], pa.list_(pa.struct([("x", pa.float32())])))
    brand = pa.array(["b", None, "b"]).dictionary_encode()
    manifest = opened(write({"uri": ["a", "b", "c"], "boxes": nested, "brand": brand}), passthrough=("brand", "boxes"))
    carried = RowReader(manifest, OPTIONS).read(shard(0, 3)).passthrough
    assert carried.schema == manifest.columns.passthrough_schema
    assert carried["boxes"].to_pylist() == nested.to_pylist()
    assert carried["brand"].to_pylist() == ["b", None, "b"]


def test_bucket_and_key_make_a_uri_with_the_key_as_it_is(write, opened):
    keys = ["a b.jpg", "ü/100%25 + x#1?.jpg", None, ""]
    rows = RowReader(opened(write({"bucket": ["photos"] * 4, "key": keys})), OPTIONS).read(shard(0, 4))
    assert rows.uris == ["s3://photos/a b.jpg", "s3://photos/ü/100%25 + x#1?.jpg", None, "s3://photos/"]


def test_a_uri_that_is_not_utf8_costs_no_other_row(write, opened):
    raw = pa.array([b"a.jpg", b"\xff\xfe.jpg", None])
    text = pa.Array.from_buffers(pa.string(), 3, raw.buffers(), null_count=1)
    rows = RowReader(opened(write({"uri": text, "id": text})), OPTIONS).read(shard(0, 3))
    assert rows.uris == ["a.jpg", "\ufffd\ufffd.jpg", None]
    assert rows.ids.to_pylist() == rows.uris


def test_a_neighbouring_shard_decodes_only_its_own_rows(write, opened, monkeypatch):
    monkeypatch.setattr(rows_module, "_BATCH_ROWS", 10)
    manifest = opened(write({"uri": [str(i) for i in range(100)]}))
    reader = RowReader(manifest, OPTIONS)
    decoded = []
    advance = rows_module._Window._advance
    monkeypatch.setattr(
        rows_module._Window, "_advance", lambda self, keep_from: (decoded.append(1), advance(self, keep_from))
    )
    for each in all_shards(manifest, 10):
        reader.read(each)
    for each in reversed(all_shards(manifest, 10)):
        reader.read(each)
    assert len(decoded) == 10


def test_a_long_row_group_is_not_kept_whole(write, opened, monkeypatch):
    monkeypatch.setattr(rows_module, "WINDOW_BYTES", 2**20)
    uris = [f"{i:0100d}" for i in range(200_000)]
    manifest = opened(write({"uri": uris}, row_group_size=200_000))
    before, reader = pa.total_allocated_bytes(), RowReader(manifest, OPTIONS)
    peak = 0
    for each in all_shards(manifest, 16_384):
        assert reader.read(each).uris[0] == uris[each.first_row]
        peak = max(peak, pa.total_allocated_bytes() - before)
    assert peak < 12 * 2**20 < len(uris) * 100
    reader.close()


def test_a_manifest_replaced_since_planning_is_refused(write, opened):
    path = write({"uri": ["a", "b"]})
    manifest = opened(path)
    write({"uri": ["a", "c"]})
    with pytest.raises(ManifestError, match="changed since the job was planned"):
        RowReader(manifest, OPTIONS).read(shard(0, 2))


def test_a_manifest_that_became_something_else_is_refused_as_changed(write, opened):
    path = write({"uri": ["a", "b"]})
    manifest = opened(path)
    path.write_bytes(b"")
    with pytest.raises(ManifestError, match="changed since the job was planned"):
        RowReader(manifest, OPTIONS).read(shard(0, 2))


def test_a_manifest_rewritten_while_being_read_is_refused(write, opened):
    path = write({"uri": [f"{i:050d}" for i in range(3000)]}, row_group_size=1000)
    reader = RowReader(opened(path), OPTIONS)
    reader.read(shard(0, 100))
    with path.open("r+b") as file:
        file.seek(-300, os.SEEK_END)
        file.write(b"\0" * 100)
    with pytest.raises(ManifestError, match="changed since the job was planned"):
        reader.read(shard(1500, 100))


def test_damaged_rows_are_named(write, opened):
    path = write({"uri": [f"{i:050d}" for i in range(3000)]}, row_group_size=1000)
    manifest = opened(path)
    with path.open("r+b") as file:
        file.seek(4)
        file.write(b"\xff" * 2000)
    reader = RowReader(manifest, OPTIONS)
    with pytest.raises(ManifestError, match=r"rows 0 to 10 .* cannot be decoded"):
        reader.read(shard(0, 10))
    assert reader.read(shard(2990, 10)).uris == [f"{i:050d}" for i in range(2990, 3000)]


def test_a_store_that_goes_away_while_reading_is_not_called_a_damaged_manifest(write, opened, monkeypatch):
    path = write({"uri": [f"{i:050d}" for i in range(3000)]})
    manifest = opened(path)
    reader = RowReader(manifest, OPTIONS)

    class Failing:
        def __init__(self, stream):
            self.stream, self.gone = stream, False

        def read(self, size=-1):
            if self.gone:
                raise StorageLost("the store does not answer")
            return self.stream.read(size)

        def __getattr__(self, name):
            return getattr(self.stream, name)

    failing = Failing(path.open("rb"))
    monkeypatch.setattr(rows_module, "open_input", lambda uri, options: failing)
    file = rows_module._OpenFile(manifest, 0, OPTIONS)
    failing.gone = True
    with pytest.raises(StorageLost):
        file.rows(0, 10)
    file.close()
    reader.close()
