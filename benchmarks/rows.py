"""What a row costs, and what memory a job takes, from a thousand rows to a million.

    python benchmarks/rows.py [--rows 1000 10000 100000] [--threads 2] [--record]

Whole jobs with a model that answers at once, in one process (`--pool inline`), on manifests of any length that name
the same 32 small images over and over: what is left is everything but the model. Each length runs in a process of
its own, short ones several times in it, and the median counts. Microseconds a row are those from the first row to
the last, without starting and sealing. Peak memory is that of the whole process.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import batchrec
from batchrec.engine import worker_job
from batchrec.learning.drawing import draw_archive
from batchrec.models.backends import Scores
from batchrec.models.bundle import ModelSpec
from benchmarks.history import record

NUM_IMAGES, SIDE = 32, 96
#: Short jobs are over in a fraction of a second, so they run again until they have done so many rows.
ROWS_OF_A_LENGTH = 10_000


class NullBackend:
    """Says the same of every image, at once."""

    name, device, precision = "null", "cpu", "fp32"

    def __init__(self, batch_size: int, num_threads: int, top_k: int, crop: int) -> None:
        self.batch_size, self.concurrency, self._crop = batch_size, num_threads, crop
        labels = np.tile(np.arange(top_k, dtype=np.int32), (batch_size, 1))
        scores = np.full((batch_size, top_k), 1 / top_k, dtype=np.float32)
        self._scores = Scores(scores, labels, np.zeros(batch_size, dtype=np.float32))

    def new_slab(self) -> np.ndarray:
        return np.zeros((self.batch_size, self._crop, self._crop, 3), dtype=np.uint8)

    def predict(self, images: np.ndarray) -> Scores:
        return self._scores


def open_null(
    model: ModelSpec, *, batch_size: int | None, num_threads: int, top_k: int, **_: object
) -> tuple[NullBackend, str]:
    """Stand in for :func:`batchrec.models.backends.open_backend`."""
    return NullBackend(batch_size or 32, num_threads, top_k, model.preprocess.crop), "answers at once"


def write_manifest(archive: Path, num_rows: int) -> Path:
    """Write a manifest of so many rows over the images of an archive."""
    uris = pq.read_table(archive / "manifest.parquet", columns=["uri"]).column("uri").combine_chunks()
    path = archive / f"rows-{num_rows}.parquet"
    indices = pa.array(np.arange(num_rows) % len(uris), pa.int32())
    pq.write_table(pa.table({"uri": pa.DictionaryArray.from_arrays(indices, uris)}), path, row_group_size=100_000)
    return path


def measure(archive: Path, num_rows: int, num_threads: int) -> dict[str, float]:
    """Run jobs of this length in this process and return the medians of what they took."""
    worker_job.open_backend = open_null  # type: ignore[assignment]
    manifest, found = write_manifest(archive, num_rows), []
    for number in range(1 + max(1, ROWS_OF_A_LENGTH // num_rows)):
        output = archive / f"out-{num_rows}-{number}"
        settings = {"pool": "inline", "cores_per_worker": num_threads, "max_failure_rate": 1.0}
        found.append(batchrec.submit(manifest, output=str(output), **settings))
    warm = found[1:]  # the first one imports, and fills the caches
    assert all(summary.num_ok == num_rows for summary in warm)
    return {
        "rows": num_rows,
        "shards": warm[0].num_shards,
        "jobs": len(warm),
        "us_per_row": round(statistics.median(1e6 * summary.steady_s / num_rows for summary in warm), 1),
        "us_per_row_with_sealing": round(
            statistics.median(1e6 * (summary.wall_s - summary.start_s) / num_rows for summary in warm), 1
        ),
        "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--archive", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.archive is not None:
        print(json.dumps(measure(asked.archive, asked.rows[0], asked.threads)), flush=True)
        return
    with tempfile.TemporaryDirectory() as scratch:
        archive = Path(scratch) / "archive"
        draw_archive(archive, num_images=NUM_IMAGES, size=(SIDE, SIDE))
        found = []
        for num_rows in asked.rows:
            one = ["--rows", str(num_rows), "--threads", str(asked.threads), "--archive", str(archive)]
            done = subprocess.run([sys.executable, __file__, *one], check=True, stdout=subprocess.PIPE, text=True)
            print(done.stdout.strip(), flush=True)
            found.append(json.loads(done.stdout))
    costs = [each["us_per_row"] for each in found]
    print(f"dearest over cheapest row: {max(costs) / min(costs):.2f}")
    if asked.record:
        record([(f"a row of {each['rows']}, null model, us", each["us_per_row"], "lower") for each in found])


if __name__ == "__main__":
    main()
