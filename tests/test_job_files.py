"""The job files people copy, run as they stand on drawn images, and the queries in their comments."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchrec
from batchrec.jobfile import read_job_file
from batchrec.storage import s3_client
from tests.s3_server import S3Server

Cli = Callable[..., tuple[int, str, str]]
JOBS = Path(__file__).parent.parent / "jobs"
RETAIL, RECOUNT = JOBS / "retail-tagging.yaml", JOBS / "inventory-recount.yaml"
NUM_IMAGES, NUM_BINS = 60, 7
TAKEN = datetime(2026, 10, 1, 6, tzinfo=UTC)


def queries(job_file: Path) -> list[str]:
    """The SQL in the comments of a job file: indented lines from SELECT to a semicolon."""
    code = "\n".join(line[6:] for line in job_file.read_text().splitlines() if line.startswith("#     "))
    return re.findall(r"^SELECT\b[^;]*;", code, re.MULTILINE)


def answers(query: str, connection: duckdb.DuckDBPyConnection | None = None) -> list[dict[str, Any]]:
    return (connection or duckdb.connect()).sql(query).to_arrow_table().to_pylist()


@pytest.fixture
def catalogue(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Sixty drawn products where retail-tagging.yaml looks for them; their rows."""
    rows = pq.read_table(archive / "manifest.parquet").to_pylist()[:NUM_IMAGES]
    rows = [{**row, "sku": f"SKU-{place:03}"} for place, row in enumerate(rows)]
    shutil.copytree(archive / "images", tmp_path / "catalogue" / "images", copy_function=os.link)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "catalogue" / "manifest.parquet")
    monkeypatch.chdir(tmp_path)
    return rows


@pytest.fixture
def warehouse(archive: Path, s3_server: S3Server) -> list[str]:
    """Sixty drawn photographs of seven bins, and their S3 Inventory, where inventory-recount.yaml looks; their keys."""
    s3_client._client.cache_clear()
    for bucket in ("warehouse-photos", "warehouse-inventory", "warehouse-counts"):
        s3_server.create_bucket(bucket)
    rows = pq.read_table(archive / "manifest.parquet").to_pylist()[:NUM_IMAGES]
    keys = [f"bins/A-{place % NUM_BINS:02}/{place:04}.jpg" for place in range(NUM_IMAGES)]
    for key, row in zip(keys, rows, strict=True):
        if (path := archive / row["uri"]).exists():
            s3_server.put("warehouse-photos", key, path.read_bytes())
    for part, listed in enumerate((keys[:40], keys[40:]), start=1):
        data = inventory(listed)
        s3_server.put("warehouse-inventory", f"warehouse-photos/daily/data/part-{part}.parquet", data)
    return keys


def inventory(keys: list[str]) -> bytes:
    """One file of an S3 Inventory, with the columns Amazon gives it."""
    columns = {
        "bucket": ["warehouse-photos"] * len(keys),
        "key": keys,
        "size": pa.array([20_000] * len(keys), pa.int64()),
        "last_modified_date": pa.array([TAKEN] * len(keys), pa.timestamp("ms", tz="UTC")),
        "e_tag": ["d41d8cd98f00b204e9800998ecf8427e"] * len(keys),
    }
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return bytes(sink.getvalue())


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_the_retail_job_file_tags_a_catalogue_on_ray(catalogue: list[dict[str, Any]], run_cli: Cli) -> None:
    code, out, err = run_cli("submit", "-j", RETAIL)
    assert code == 4, err  # a twentieth of the drawn files are broken, the file allows a fiftieth
    assert out.startswith("Complete, but over the failure limit: ")
    tags, untagged = (answers(query) for query in queries(RETAIL))
    predicted = batchrec.open("catalogue/tags").predictions().to_table().to_pylist()
    assert [row["sku"] for row in predicted] == [row["sku"] for row in catalogue]
    assert {row["sku"]: row["label"] for row in tags} == {row["sku"]: row["label"] for row in predicted if row["label"]}
    assert [row["sku"] for row in tags] == sorted(row["sku"] for row in tags)
    assert {row["sku"] for row in untagged} == {row["sku"] for row in catalogue} - {row["sku"] for row in tags} != set()
    assert all(row["error_code"] for row in untagged)


def test_the_recount_job_file_counts_photographs_by_label_in_each_bin(warehouse: list[str], run_cli: Cli) -> None:
    code, out, err = run_cli("submit", "-j", RECOUNT, "--pool", "inline")
    assert code == 4, err
    assert out.startswith("Complete, but over the failure limit: ")
    connection = duckdb.connect()
    connection.register_filesystem(fsspec.filesystem("s3", skip_instance_cache=True))
    counts, doubtful = (answers(query, connection) for query in queries(RECOUNT))
    rows = batchrec.open("s3://warehouse-counts/2026-10").predictions().to_table().to_pylist()
    assert [(row["key"], row["last_modified_date"]) for row in rows] == [(key, TAKEN) for key in warehouse]
    assert [row["uri"] for row in rows] == [f"s3://warehouse-photos/{key}" for key in warehouse]
    expected = Counter((row["key"].split("/")[1], row["label"]) for row in rows if row["status"] == "ok")
    assert {(row["bin"], row["label"]): row["photographs"] for row in counts} == expected
    assert sum(row["unread"] for row in doubtful) == NUM_IMAGES - expected.total() > 0
    assert sum(row["unsure"] for row in doubtful) == sum((row["score"] or 1) < 0.6 for row in rows)
    assert len({row["bin"] for row in counts}) == NUM_BINS


@pytest.mark.parametrize(("job_file", "number"), [(RETAIL, 2), (RECOUNT, 2)], ids=["retail", "recount"])
def test_every_query_of_a_job_file_is_found_and_reads_its_own_output(job_file: Path, number: int) -> None:
    found, output = queries(job_file), read_job_file(str(job_file)).values["output"]
    assert len(found) == number
    assert all(f"'{output}/predictions/*/*.parquet'" in query for query in found)
