"""Jobs on real images, where there are any."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import batchrec
from batchrec.manifest.planning import Plan
from batchrec.output.verifying import verify
from tests.pipeline.hostile import hostile_codes


def test_every_hostile_file_gives_one_row_and_the_job_ends(test_data: Path, tmp_path: Path) -> None:
    files = sorted(path for path in (test_data / "hostile").rglob("*") if path.is_file())
    assert len(files) == 223
    pq.write_table(pa.table({"path": [str(path) for path in files]}), tmp_path / "hostile.parquet")
    summary = batchrec.submit(
        str(tmp_path / "hostile.parquet"),
        output=str(tmp_path / "out"),
        pool="inline",
        input_roots=str(test_data),
        max_failure_rate=1.0,
    )
    opened = batchrec.open(str(tmp_path / "out"))
    plan = Plan.from_parquet(opened.store.read(opened.layout.plan_key))
    found = verify(opened.store, opened.layout, list(plan))
    assert (found.faults, found.num_rows, summary.attempts_failed) == ((), 223, 0)
    rows = opened.predictions().to_table().to_pylist()
    codes = {row["uri"].rpartition("/hostile/")[2]: row["error_code"] or row["status"] for row in rows}
    assert codes == hostile_codes()


def test_real_photographs_are_recognised_without_an_error(test_data: Path, tmp_path: Path) -> None:
    photographs = sorted((test_data / "clothing" / "images").iterdir())[:200]
    pq.write_table(pa.table({"image": [str(path) for path in photographs]}), tmp_path / "clothing.parquet")
    summary = batchrec.submit(
        str(tmp_path / "clothing.parquet"), output=str(tmp_path / "out"), pool="inline", input_roots=str(test_data)
    )
    assert (summary.num_ok, summary.errors) == (200, {})
