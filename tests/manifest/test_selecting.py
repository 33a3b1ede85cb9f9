"""Some rows of a manifest as a manifest of their own."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchrec.errors import ManifestError
from batchrec.manifest import selecting
from batchrec.manifest.definition import Manifest
from batchrec.manifest.reading import open_manifest
from batchrec.manifest.selecting import position_column, select_rows
from batchrec.spec import JobSpec, StoreOptions


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """Three files: 100 rows in groups of 7, none, and 50 whose ids are of another type."""
    for name, rows, kind in (
        ("a", range(100), pa.int32()),
        ("b", range(0), pa.int64()),
        ("c", range(100, 150), pa.int64()),
    ):
        table = pa.table({"uri": [f"{row}.jpg" for row in rows], "id": pa.array(list(rows), kind), "other": list(rows)})
        table = table.set_column(0, pa.field("uri", pa.string()), pa.array([f"{row}.jpg" for row in rows], pa.string()))
        pq.write_table(table, tmp_path / f"{name}.parquet", row_group_size=7)
    return open_manifest(JobSpec(source=(str(tmp_path),), output="out"))


def selected(manifest: Manifest, positions: list[int]) -> list[pa.Table]:
    files = list(select_rows(manifest, np.array(positions, np.int64), ["uri", "id"], "parent_row", StoreOptions()))
    tables = [pq.read_table(io.BytesIO(file.data), use_threads=False) for file in files]
    assert [table.num_rows for table in tables] == [file.num_rows for file in files]
    return tables


@pytest.mark.parametrize(
    "positions",
    [[0], [149], [99, 100], [0, 6, 7, 13, 14, 50, 98, 99, 100, 101, 148], list(range(150)), list(range(3, 150, 11))],
    ids=lambda positions: f"{len(positions)} rows",
)
def test_exactly_the_rows_asked_for_come_in_order(manifest: Manifest, positions: list[int]) -> None:
    rows = [row for table in selected(manifest, positions) for row in table.to_pylist()]
    assert [row["parent_row"] for row in rows] == positions
    assert [(row["uri"], row["id"]) for row in rows] == [(f"{position}.jpg", position) for position in positions]


def test_files_of_other_types_do_not_share_one(manifest: Manifest) -> None:
    tables = selected(manifest, [5, 6, 120])
    assert [table.schema.field("id").type for table in tables] == [pa.int32(), pa.int64()]
    assert tables[0].column_names == ["uri", "id", "parent_row"]


def test_a_large_selection_is_cut_into_files(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selecting, "_ROWS_PER_GROUP", 10)
    monkeypatch.setattr(selecting, "MAX_FILE_BYTES", 1)
    tables = selected(manifest, list(range(150)))
    assert len(tables) > 5
    assert [row for table in tables for row in table["parent_row"].to_pylist()] == list(range(150))


def test_uris_that_are_no_text_stay_as_they_are(tmp_path: Path) -> None:
    raw = pa.array([b"a\xff.jpg", b"b.jpg"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"uri": raw}), tmp_path / "m.parquet")
    manifest = open_manifest(JobSpec(source=(str(tmp_path / "m.parquet"),), output="out"))
    (file,) = select_rows(manifest, np.array([0]), ["uri"], "parent_row", StoreOptions())
    assert pq.read_table(io.BytesIO(file.data), use_threads=False)["uri"].cast(pa.binary()).to_pylist() == [
        b"a\xff.jpg"
    ]


def test_a_file_that_was_rewritten_is_refused(manifest: Manifest) -> None:
    pq.write_table(pa.table({"uri": ["x.jpg"] * 100, "id": list(range(100))}), manifest.files[0].uri)
    with pytest.raises(ManifestError, match="is being rewritten"):
        selected(manifest, [3])


def test_the_column_of_positions_takes_no_other_name() -> None:
    assert position_column(["uri", "id"]) == "parent_row"
    assert position_column(["uri", "Parent_Row", "parent_row_"]) == "parent_row__"
