"""Whole jobs over images inside tar archives."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchrec
from batchrec.manifest.planning import Plan
from batchrec.output.verifying import verify
from tests.s3_server import S3Server

Cli = Callable[..., tuple[int, str, str]]
COLUMNS = ["status", "error_code", "label", "score", "width", "height", "bytes"]
NUM_ARCHIVES = 4


def submit(manifest: str, output: str) -> pa.Table:
    settings = {"pool": "inline", "backend": "torch-eager", "max_failure_rate": 1.0, "rows_per_shard": 48}
    batchrec.submit(manifest, output=output, **settings)
    opened = batchrec.open(output)
    found = verify(opened.store, opened.layout, list(Plan.from_parquet(opened.store.read(opened.layout.plan_key))))
    assert (found.faults, found.complete) == ((), True)
    return opened.predictions().to_table().sort_by("row")


@pytest.fixture
def files(archive: Path) -> list[str]:
    """The images that are there, in the order of the manifest."""
    uris = pq.read_table(archive / "manifest.parquet", columns=["uri"])["uri"].to_pylist()
    return [uri for uri in uris if (archive / uri).is_file()]


@pytest.fixture
def tars(archive: Path, files: list[str], tmp_path: Path) -> Path:
    """The images in a few archives, in order."""
    folder = tmp_path / "tars"
    folder.mkdir()
    each = -(-len(files) // NUM_ARCHIVES)
    for number in range(NUM_ARCHIVES):
        with tarfile.open(folder / f"{number}.tar", "w") as opened:
            for uri in files[number * each : (number + 1) * each]:
                opened.add(archive / uri, uri)
    return folder


def test_images_in_archives_are_recognised_as_files_are(
    archive: Path, files: list[str], tars: Path, tmp_path: Path, run_cli: Cli
) -> None:
    pq.write_table(pa.table({"uri": files}), archive / "those-there.parquet")
    expected = submit(str(archive / "those-there.parquet"), str(tmp_path / "expected"))
    code, _, err = run_cli("index", tars, "-o", tars / "members.parquet")
    assert code == 0, err
    found = submit(str(tars / "members.parquet"), str(tmp_path / "out"))
    assert found["image_id"].to_pylist() == files
    assert found.select(COLUMNS).equals(expected.select(COLUMNS))


def test_archives_in_a_bucket_are_read_by_ranges_and_never_whole(
    files: list[str], tars: Path, s3_server: S3Server, tmp_path: Path, run_cli: Cli
) -> None:
    for path in tars.glob("*.tar"):
        s3_server.put("photos", f"in/{path.name}", path.read_bytes())
    code, _, err = run_cli("index", "s3://photos/in", "-o", "s3://photos/in/members.parquet")
    assert code == 0, err
    num_before = len(s3_server.log)
    found = submit("s3://photos/in/members.parquet", "s3://photos/out")
    assert found["image_id"].to_pylist() == files
    reads = [line for line in s3_server.log[num_before:] if line.key.endswith(".tar")]
    assert all(line.range for line in reads)
    assert len(reads) < len(files) / 4


def test_rows_of_an_archive_that_came_late_are_retried(tars: Path, tmp_path: Path, run_cli: Cli) -> None:
    code, _, err = run_cli("index", tars, "-o", tars / "members.parquet")
    assert code == 0, err
    (tars / "2.tar").rename(tmp_path / "away.tar")
    out = str(tmp_path / "out")
    missing = submit(str(tars / "members.parquet"), out)["error_code"].to_pylist().count("not_found")
    assert missing > 30
    (tmp_path / "away.tar").rename(tars / "2.tar")
    code, _, err = run_cli("retry", out, "--code", "not_found", "--set", "max_failure_rate=1")
    assert code == 0, err
    assert "not_found" not in batchrec.open(out).predictions().to_table()["error_code"].to_pylist()
