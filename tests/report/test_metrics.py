"""Metrics, scraped from the endpoint of a real Ray."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pyarrow.parquet as pq
import pytest

# A process of its own, whose counters start at nothing.
JOB = """
import os, sys
os.environ.update(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0")
import ray, batchrec
ray.init(address="local", num_cpus=2, include_dashboard=False, configure_logging=False,
         object_store_memory=80 * 2**20)
batchrec.submit(sys.argv[1], output=sys.argv[2], limit=1200, rows_per_shard=300, max_failure_rate=1)
print("logs", ray._private.worker._global_node.get_logs_dir_path())
print("port", ray.nodes()[0]["MetricsExportPort"], flush=True)
sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def scraped(long_manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """The output of a job, and what the endpoint said after it."""
    output = tmp_path_factory.mktemp("metrics") / "out"
    command = [sys.executable, "-c", JOB, str(long_manifest), str(output)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            said: dict[str, str] = {}
            while "port" not in said:
                word, _, value = process.stdout.readline().strip().partition(" ")
                assert word, "the job ended before it was through"
                said[word] = value
            try:
                return output, scrape(int(said["port"]), num_shards=4)
            except AssertionError as error:
                raise AssertionError(f"{error}; the job's process: {process.poll()}\n{ends(said['logs'])}") from error
        finally:
            process.communicate("\n")


def scrape(port: int, *, num_shards: int, within_s: float = 120) -> dict[str, float]:
    """Read the endpoint until all shards are done there: Ray passes values on every ten seconds."""
    give_up_at = time.monotonic() + within_s
    while True:
        try:
            text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
        except OSError as error:  # refused, reset or slow
            text = f"the endpoint is not there: {error}"
        found = dict(samples(text))
        if found.get("shards state=done") == num_shards:
            return found
        assert time.monotonic() < give_up_at, text
        time.sleep(0.5)


def ends(logs: str) -> str:
    """The last lines of what Ray's processes say, for whoever asks why an endpoint is gone."""
    names = ("raylet.out", "raylet.err", "gcs_server.out", "dashboard_agent.log", "dashboard_agent.err")
    lines = [f"{name}: {line[:200]}" for name in names for line in (Path(logs) / name).read_text().splitlines()[-12:]]
    return "\n".join(lines)


def samples(text: str) -> list[tuple[str, float]]:
    own = re.compile(r"ray_batchrec_(\w+)\{(.*)\} (\S+)")
    labels = re.compile(r'(status|code|direction|reason|stage|state|queue)="([^"]*)"')
    return [
        (f"{match[1]} " + " ".join(f"{name}={value}" for name, value in labels.findall(match[2])), float(match[3]))
        for line in text.splitlines()
        if (match := own.match(line))
    ]


@pytest.mark.ray
def test_every_image_is_counted_by_status_and_code(scraped: tuple[Path, dict[str, float]]) -> None:
    output, found = scraped
    errors = pq.read_table(next(output.glob("errors/*/*.parquet")), use_threads=False)
    codes = errors.column("error_code").to_pylist()
    counted = {
        name.partition("code=")[2].split()[0]: value
        for name, value in found.items()
        if name.startswith("images_total") and "status=error" in name
    }
    assert counted == {code: float(codes.count(code)) for code in set(codes)}
    ok = [value for name, value in found.items() if name.startswith("images_total") and "status=ok" in name]
    assert ok == [1200.0 - len(codes)]


@pytest.mark.ray
def test_shards_attempts_bytes_and_stages_are_counted(scraped: tuple[Path, dict[str, float]]) -> None:
    output, found = scraped
    parts = sum(part.stat().st_size for part in output.glob("predictions/*/*.parquet"))
    assert found["shards state=pending"] == found["shards state=in_flight"] == found["shards state=abandoned"] == 0
    assert found["attempts_total reason=published"] == 4
    assert found["bytes_total direction=written"] == parts
    assert found["bytes_total direction=read"] > 100_000
    assert all(found[f"stage_seconds_total stage={stage}"] > 0 for stage in ("fetch", "decode", "predict", "write"))
    assert found["workers state=ready"] == 1
    assert 0 <= found["queue_fill queue=images"] <= 1
