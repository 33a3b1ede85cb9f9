"""Sealing an output of many parts: seconds and memory, at two sizes.

    python benchmarks/seal.py [--parts 250000] [--latency-ms 0] [--record]

The store is simulated: it holds one real part of 4,096 rows and serves it under every name with that shard's number
in the footer, after ``--latency-ms`` of waiting for each request. Everything else is real: the list, the footers read
and checked, SEAL.json and errors.parquet written, the seal read again. One part in ten holds a failed row. Each
size runs in a process of its own, the first a tenth of the other.
"""

from __future__ import annotations

import argparse
import datetime as dt
import io
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa

from batchrec.manifest.planning import plan_shards
from batchrec.output.layout import Layout
from batchrec.output.parts import encode_part
from batchrec.output.schema import predictions_schema
from batchrec.output.seal import read_seal, seal
from batchrec.storage import KeyMissing, ObjectInfo
from benchmarks.history import record

ROWS_PER_SHARD = 4_096
FAILED_EVERY = 10
LAYOUT = Layout("0123456789abcdef" * 4)
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def part(shard: int, *, failed: bool) -> bytes:
    """Return a part of 4,096 rows, one of which may have failed."""
    rows = [
        {
            "image_id": f"{row:08d}",
            "uri": f"s3://archive/photos/{row:08x}.jpg",
            "row": row,
            "status": "ok",
            "label": "shirt",
            "score": 0.5 + row / 10_000,
            "margin": 0.1,
            "entropy": 1.0,
            "top_k": [{"label": "shirt", "score": 0.5}, {"label": "shoes", "score": 0.4}],
            "width": 500,
            "height": 375,
            "bytes": 110_000,
            "attempt": 1,
        }
        for row in range(ROWS_PER_SHARD)
    ]
    if failed:
        no_prediction = dict.fromkeys(("label", "score", "margin", "entropy", "top_k"))
        rows[7] |= {"status": "error", "error_code": "not_found", "error_detail": "404", **no_prediction}
    table = pa.Table.from_pylist(rows, schema=predictions_schema(pa.schema([("shelf", pa.string())])))
    facts = {"model": "resnet18", "weights_sha256": "0" * 64, "labels_sha256": "1" * 64, "batchrec": "0.1.0"}
    return encode_part(table, job_id=LAYOUT.job_id, shard=shard, attempt_id=f"{0:012x}-{shard}-1-{shard}", facts=facts)


class RepeatingStore:
    """Serves one part under the names of many; keeps what else is put.

    Args:
        num_parts: How many stand.
        latency_s: What each request takes.
    """

    url = "simulated://out"

    def __init__(self, num_parts: int, latency_s: float) -> None:
        self._num_parts, self._latency_s = num_parts, latency_s
        # Numbers of one length make footers of one length, so that a part can be turned into another's.
        lengths = range(1, len(str(num_parts)) + 1)
        self._parts = {(n, failed): part(10 ** (n - 1), failed=failed) for n in lengths for failed in (False, True)}
        self._size = len(self._parts[1, False])
        self.objects: dict[str, bytes] = {}

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Describe every part."""
        return (ObjectInfo(LAYOUT.part_key(n), self._size, NOW, None) for n in range(self._num_parts))

    def open(self, key: str) -> BinaryIO:
        """Return a part, for its own shard."""
        shard = LAYOUT.shard_of(key)
        assert shard is not None
        time.sleep(self._latency_s)
        data = self._parts[len(str(shard)), shard % FAILED_EVERY == 0]
        template = 10 ** (len(str(shard)) - 1)
        own = data.replace(b'"shard": %d}' % template, b'"shard": %d}' % shard)
        return io.BytesIO(own.replace(b"-%d-1-%d" % (template, template), b"-%d-1-%d" % (shard, shard)))

    def read(self, key: str) -> bytes:
        """Return what was put."""
        try:
            return self.objects[key]
        except KeyError:
            raise KeyMissing(key) from None

    def info(self, key: str) -> ObjectInfo:
        """Describe what was put."""
        return ObjectInfo(key, len(self.read(key)), NOW, None)

    def create(self, key: str, data: bytes) -> None:
        """Keep an object."""
        self.objects[key] = data


def measure(num_parts: int, latency_s: float) -> dict[str, float]:
    """Seal an output of so many parts in this process and return what it took."""
    store = RepeatingStore(num_parts, latency_s)
    plan = list(plan_shards([num_parts * ROWS_PER_SHARD], ROWS_PER_SHARD, None))
    began, began_cpu = time.perf_counter(), time.process_time()
    sealed = seal(store, LAYOUT, plan, ["manifest.parquet"])  # type: ignore[arg-type]
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - began_cpu
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    began = time.perf_counter()
    assert read_seal(store, LAYOUT) == sealed  # type: ignore[arg-type]
    return {
        "parts": num_parts,
        "seal_s": round(seconds, 1),
        "parts_per_s": round(num_parts / seconds),
        "cpu_us_per_part": round(1e6 * cpu_s / num_parts),
        "peak_mib": round(peak_mib),
        "read_again_s": round(time.perf_counter() - began, 2),
        "seal_mib": round(len(store.objects[LAYOUT.seal_key]) / 2**20, 1),
    }


def measure_apart(parts: int, latency_ms: float) -> dict[str, float]:
    """Measure one size in a process of its own, so that its peak memory is its own."""
    size = ["--parts", str(parts), "--latency-ms", str(latency_ms)]
    done = subprocess.run([sys.executable, __file__, "--one", *size], check=True, stdout=subprocess.PIPE, text=True)
    print(done.stdout.strip(), flush=True)
    return dict(json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=int, default=250_000)
    parser.add_argument("--latency-ms", type=float, default=0.0)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measure(asked.parts, asked.latency_ms / 1000)), flush=True)
        return
    _, whole = (measure_apart(parts, asked.latency_ms) for parts in (asked.parts // 10, asked.parts))
    if asked.record:
        size = f"sealing {asked.parts} parts, {asked.latency_ms:g} ms a request"
        record([(f"{size}, s", whole["seal_s"], "lower"), (f"{size}, peak MiB", whole["peak_mib"], "lower")])


if __name__ == "__main__":
    main()
