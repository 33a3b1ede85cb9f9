"""Whole jobs against a real S3 protocol over HTTP: manifest, images and output in buckets."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchrec
from batchrec.errors import AccessError, AccessLost, OutputError
from batchrec.manifest.planning import Plan
from batchrec.output.verifying import verify
from batchrec.storage import s3_client
from tests.s3_server import Fault, Request, S3Server

Cli = Callable[..., tuple[int, str, str]]
SOURCE, OUT = "s3://photos/archive/manifest.parquet", "s3://photos/out"


@pytest.fixture
def bucket(s3_server: S3Server, archive: Path) -> S3Server:
    """The drawn archive, uploaded."""
    s3_client._client.cache_clear()
    for path in archive.rglob("*"):
        if path.is_file():
            s3_server.put("photos", f"archive/{path.relative_to(archive)}", path.read_bytes())
    return s3_server


def submit(**settings: object) -> object:
    return batchrec.submit(SOURCE, **{"output": OUT, "pool": "inline", "max_failure_rate": 1.0, **settings})


def sound(output: str = OUT) -> str:
    opened = batchrec.open(output)
    found = verify(opened.store, opened.layout, list(Plan.from_parquet(opened.store.read(opened.layout.plan_key))))
    assert (found.faults, found.complete, found.num_rows) == ((), True, 160)
    return found.rows_sha256


def test_a_job_in_buckets_ends_with_the_same_rows_as_on_disk(bucket: S3Server, archive: Path, tmp_path: Path) -> None:
    submit()
    batchrec.submit(
        str(archive / "manifest.parquet"), output=str(tmp_path / "out"), pool="inline", max_failure_rate=1.0
    )
    names = [key for key in bucket.keys("photos") if key.startswith("out/predictions/")]
    assert len(names) == 1
    assert sound(OUT)
    columns = ["image_id", "uri", "row", "status", "error_code", "label", "score", "width", "height", "bytes"]
    on_s3 = batchrec.open(OUT).predictions().to_table(columns=columns)
    assert on_s3.equals(batchrec.open(str(tmp_path / "out")).predictions().to_table(columns=columns))


def test_the_same_command_again_reads_no_image(bucket: S3Server) -> None:
    submit()
    before = len(bucket.requests("GET"))
    submit()
    keys = {access.key for access in bucket.requests("GET")[before:]}
    assert not any(key.endswith(".jpg") for key in keys)


def test_answers_that_lie_about_being_applied_cost_nothing(bucket: S3Server) -> None:
    seen: set[str] = set()
    lock = threading.Lock()

    def fault(request: Request) -> Fault | None:
        with lock:
            if request.method != "PUT" or "/probe/" in request.key or request.key in seen:
                return None
            seen.add(request.key)
        return Fault(status=500, applied=True)

    bucket.fault = fault
    submit(rows_per_shard=16)
    assert sum("part-" in key for key in seen) == 10
    sound()


def test_slow_downs_are_waited_out(bucket: S3Server) -> None:
    bucket.fault = lambda request: Fault(status=503, code="SlowDown") if request.number % 7 == 0 else None
    submit(rows_per_shard=32)
    sound()


def test_all_workers_together_keep_to_the_request_budget(bucket: S3Server) -> None:
    seen: list[int] = []

    def look(request: Request) -> Fault:
        keys = [each.key for each in bucket.under_way.values()]
        seen.append(sum(key.startswith("archive/") and not key.endswith(".parquet") for key in keys))
        return Fault(delay_s=0.01)

    bucket.fault = look
    submit(workers=2, max_requests=3, rows_per_shard=16)
    assert max(seen) == 3
    sound()


def test_credentials_that_expire_in_mid_run_leave_no_error_rows_and_new_ones_resume(bucket: S3Server) -> None:
    images = 0

    def expire(request: Request) -> Fault | None:
        nonlocal images
        images += request.key.endswith(".jpg")
        return Fault(status=403, code="ExpiredToken") if images > 80 and request.key.endswith(".jpg") else None

    bucket.fault = expire
    with pytest.raises(AccessLost, match="credentials_expired") as stopped:
        submit(rows_per_shard=16)
    assert stopped.value.exit_code == 5
    codes = batchrec.open(OUT).errors().column("error_code").to_pylist()
    assert codes.count("credentials_expired") == 0
    bucket.fault = None
    submit(rows_per_shard=16)
    sound()


def test_a_store_without_conditional_puts_is_refused_before_any_work(archive: Path, s3_server: S3Server) -> None:
    s3_client._client.cache_clear()
    s3_server.conditional_put = False
    with pytest.raises(OutputError):
        batchrec.submit(str(archive / "manifest.parquet"), output=OUT, pool="inline")
    assert not any("predictions" in key or "OUTPUT" in key for key in s3_server.keys("photos"))


def test_another_bucket_is_refused_until_it_is_allowed(bucket: S3Server, tmp_path: Path, archive: Path) -> None:
    bucket.create_bucket("others")
    rows = pq.read_table(archive / "manifest.parquet").to_pylist()
    good = next(row["uri"] for row in rows if row["broken"] is None)
    bucket.put("others", "a.jpg", (archive / good).read_bytes())
    pq.write_table(pa.table({"uri": ["s3://others/a.jpg"]}), tmp_path / "m.parquet")
    bucket.put("photos", "m.parquet", (tmp_path / "m.parquet").read_bytes())
    arguments = {"pool": "inline", "max_failure_rate": 1.0}
    batchrec.submit("s3://photos/m.parquet", output="s3://photos/out1", **arguments)
    row = batchrec.open("s3://photos/out1").predictions().to_table().to_pylist()[0]
    assert row["error_code"] == "uri_refused"
    assert "--allow-bucket others" in row["error_detail"]
    batchrec.submit("s3://photos/m.parquet", output="s3://photos/out2", allow_buckets="others", **arguments)
    assert batchrec.open("s3://photos/out2").predictions().to_table().column("status").to_pylist() == ["ok"]


def test_denied_manifests_are_refused_with_the_reason(bucket: S3Server) -> None:
    bucket.fault = lambda request: Fault(status=403, code="AccessDenied")
    with pytest.raises(AccessError):
        submit()


@pytest.mark.ray
def test_the_command_runs_on_ray_with_everything_in_buckets(bucket: S3Server, run_cli: Cli) -> None:
    command = [sys.executable, "-m", "batchrec", "submit", SOURCE, "-o", OUT, "--max-failure-rate", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    sound()
    assert run_cli("status", OUT)[1].startswith("complete")


def test_duckdb_reads_an_output_copied_from_a_bucket(bucket: S3Server, tmp_path: Path) -> None:
    submit(rows_per_shard=32)
    for key in bucket.keys("photos"):
        if key.startswith("out/predictions/"):
            path = tmp_path / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bucket.get("photos", key) or b"")
    assert duckdb.sql(f"SELECT count(*) FROM '{tmp_path}/out/predictions/*/*.parquet'").fetchall() == [(160,)]
