"""Whole jobs over manifests that hold the images themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import batchrec
from batchrec.manifest.planning import Plan
from batchrec.output.verifying import verify

Cli = Callable[..., tuple[int, str, str]]
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def submit(manifest: Path, output: Path) -> pa.Table:
    settings = {"pool": "inline", "backend": "torch-eager", "max_failure_rate": 1.0, "rows_per_shard": 48}
    batchrec.submit(str(manifest), output=str(output), **settings)
    opened = batchrec.open(str(output))
    found = verify(opened.store, opened.layout, list(Plan.from_parquet(opened.store.read(opened.layout.plan_key))))
    assert (found.faults, found.complete) == ((), True)
    columns = ["row", "uri", "status", "error_code", "label", "score", "width", "height", "bytes"]
    return opened.predictions().to_table(columns=columns).sort_by("row")


def test_images_inside_the_manifest_are_recognised_as_files_are(archive: Path, tmp_path: Path) -> None:
    uris = pq.read_table(archive / "manifest.parquet", columns=["uri"])["uri"].to_pylist()
    there = [(archive / uri).read_bytes() if (archive / uri).is_file() else None for uri in uris]
    is_there = pa.array([data is not None for data in there])
    expected = submit(archive / "manifest.parquet", tmp_path / "expected").filter(is_there)
    columns = {
        "struct": pa.array([{"bytes": data, "path": uri} for data, uri in zip(there, uris, strict=True)], STRUCT),
        "bytes": pa.array(there, pa.binary()),
    }
    names = {"struct": uris, "bytes": [f"bytes.parquet#{row}" for row in range(len(uris))]}
    for kind, images in columns.items():
        pq.write_table(pa.table({"image": images}), tmp_path / f"{kind}.parquet", row_group_size=30)
        found = submit(tmp_path / f"{kind}.parquet", tmp_path / kind)
        assert found["uri"].to_pylist() == names[kind]
        assert found.filter(is_there).drop_columns("uri").equals(expected.drop_columns("uri"))


def test_rows_that_failed_are_retried_with_their_images(archive: Path, tmp_path: Path, run_cli: Cli) -> None:
    drawn = pq.read_table(archive / "manifest.parquet")
    whole = (archive / drawn.filter(pc.field("broken").is_null())["uri"][0].as_py()).read_bytes()
    images = [{"bytes": None, "path": "late.jpg"}, {"bytes": whole, "path": None}, {"bytes": whole[:99], "path": ""}]
    manifest, out = tmp_path / "m.parquet", tmp_path / "out"
    pq.write_table(pa.table({"image": pa.array(images, STRUCT)}), manifest)
    assert submit(manifest, out)["status"].to_pylist() == ["error", "ok", "error"]
    (tmp_path / "late.jpg").write_bytes(whole)
    code, _, err = run_cli("retry", out, "--code", "not_found", "--code", "truncated", "--set", "max_failure_rate=1")
    assert code == 0, err
    merged = batchrec.open(str(out)).predictions().to_table()
    assert merged["status"].to_pylist() == ["ok", "ok", "error"]
    assert merged["error_code"].to_pylist() == [None, None, "truncated"]
    assert merged["uri"].to_pylist()[:2] == ["late.jpg", "m.parquet#1"]
