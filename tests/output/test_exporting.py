"""Large files of a job's rows: nothing lost at their borders, and nothing taken for complete that is not."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchrec
from batchrec.errors import OutputError, StorageLost
from batchrec.output import exporting
from batchrec.output.exporting import EXPORT_KEY, export
from batchrec.output.verifying import verify
from batchrec.storage import Store, uploading
from tests.output.making import LAYOUT, NUM_FAILED, NUM_ROWS, PLAN, rows_of
from tests.s3_server import S3Server

WHOLE = pa.concat_tables([rows_of(shard) for shard in PLAN])


@pytest.mark.parametrize("rows_per_group", [1, 15, 22, 65_536])
def test_rows_and_order_and_digest_are_kept_however_files_are_cut(
    complete: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_per_group: int
) -> None:
    monkeypatch.setattr(exporting, "_ROWS_PER_GROUP", rows_per_group)
    written = export(batchrec.open(complete.url), str(tmp_path / "new"), merged=True, check=True, file_bytes=1)
    assert len(written.files) == {1: 6, 15: 3, 22: 2, 65_536: 1}[rows_per_group]
    paths = sorted((tmp_path / "new").glob("*.parquet"))
    assert [path.name for path in paths] == [file.name for file in written.files]
    assert pa.concat_tables([pq.read_table(path, use_threads=False) for path in paths]).equals(WHOLE)
    assert written.rows_sha256 == verify(complete, LAYOUT, PLAN).rows_sha256
    said = json.loads((tmp_path / "new" / "_SUCCESS").read_text())
    assert (said["num_rows"], said["num_ok"], said["num_errors"]) == (50, 43, {"corrupt": 4, "not_found": 3})
    assert sum(file["num_rows"] for file in said["files"]) == NUM_ROWS


def test_other_readers_read_what_was_exported(complete: Store, tmp_path: Path) -> None:
    export(batchrec.open(complete.url), str(tmp_path / "new"), merged=False)
    query = f"SELECT count(*), count(label), max(tags.a) FROM '{tmp_path}/new/*.parquet'"
    assert duckdb.sql(query).fetchall() == [(NUM_ROWS, NUM_ROWS - NUM_FAILED, 49)]
    frame = polars.read_parquet(f"{tmp_path}/new/*.parquet")
    for name in WHOLE.column_names:
        assert frame[name].to_list() == WHOLE.column(name).to_pylist(), name


def test_of_two_who_export_into_one_folder_at_once_one_is_refused(
    complete: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Both found the folder empty.
    monkeypatch.setattr("batchrec.storage.local_store.LocalStore.top", lambda self: ())
    export(batchrec.open(complete.url), str(tmp_path / "new"), merged=False)
    with pytest.raises(OutputError, match=r"another _batchrec/EXPORT\.json stands"):
        export(batchrec.open(complete.url), str(tmp_path / "new"), merged=False)


def test_an_export_that_ends_early_is_not_called_complete_and_its_folder_not_used_again(
    complete: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise StorageLost("no space left")

    monkeypatch.setattr(exporting, "_put", full)
    with pytest.raises(StorageLost):
        export(batchrec.open(complete.url), str(tmp_path / "new"), merged=False)
    assert not (tmp_path / "new" / "_SUCCESS").exists()
    assert (tmp_path / "new" / EXPORT_KEY).exists()
    monkeypatch.undo()
    with pytest.raises(OutputError, match="holds other things already"):
        export(batchrec.open(complete.url), str(tmp_path / "new"), merged=False)


def test_a_file_that_is_not_what_was_written_is_noticed(
    complete: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = exporting._put

    def put_less(store: Store, name: str, data: bytes, output: object) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(pq.read_table(pa.BufferReader(data), use_threads=False).slice(1), sink)
        put(store, name, sink.getvalue().to_pybytes(), output)

    monkeypatch.setattr(exporting, "_put", put_less)
    with pytest.raises(OutputError, match="was not read back as it was written"):
        export(batchrec.open(complete.url), str(tmp_path / "new"), merged=False, check=True)
    assert not (tmp_path / "new" / "_SUCCESS").exists()


def test_a_job_that_lost_a_part_is_not_exported(complete: Store, tmp_path: Path) -> None:
    complete.delete(LAYOUT.part_key(2))
    with pytest.raises(OutputError, match=r"has lost parts .*5 of 6"):
        export(batchrec.open(complete.url), str(tmp_path / "new"), merged=False)


def test_one_file_is_not_made_larger_than_it_may_be(complete: Store, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="do not fit into one file"):
        export(batchrec.open(complete.url), str(tmp_path / "one.parquet"), merged=False, file_bytes=100)
    assert not (tmp_path / "one.parquet").exists()


def test_large_files_reach_a_bucket_in_pieces(
    s3_server: S3Server, complete: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploading, "SINGLE_BYTES", 1)
    written = export(batchrec.open(complete.url), "s3://photos/new", merged=False, check=True, file_bytes=1)
    keys = [f"new/{file.name}" for file in written.files]
    tables = [pq.read_table(pa.BufferReader(s3_server.get("photos", key)), use_threads=False) for key in keys]
    assert pa.concat_tables(tables).equals(WHOLE)
    assert "new/_SUCCESS" in s3_server.keys("photos")
