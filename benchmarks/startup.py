"""From command to first published part, and to the command's end, warm cache, in new processes.

python benchmarks/startup.py [--rounds 5] [--images 1000] [--latency-ms 60]

With --latency-ms manifest, images and output lie in a bucket of an S3 server that answers so much late.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from material import serving

from batchrec.learning.drawing import draw_archive

PORT = 19_745


def first_part_s(manifest: str, out: str, folder: Path, *options: str) -> tuple[float, float]:
    """Seconds until the first part stands in the folder that ``out`` names, and until the command ends."""
    command = [sys.executable, "-m", "batchrec", "submit", manifest, "-o", out, *options]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(folder.glob("predictions/*/part-*.parquet")):
        if process.poll() is not None:
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
        time.sleep(0.01)
    first_s = time.perf_counter() - began
    process.wait()
    return first_s, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--latency-ms", type=float, help="from a store that is so late, instead of the local disk")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as servers:
        folder = Path(scratch) / "bucket"
        draw_archive(folder / "archive", num_images=arguments.images)
        place, options = str(folder), []
        if arguments.latency_ms is not None:
            os.environ.update(AWS_ACCESS_KEY_ID="key", AWS_SECRET_ACCESS_KEY="secret", AWS_REGION="us-east-1")
            late = serving(Path(scratch), PORT, "--latency-s", str(arguments.latency_ms / 1000))
            place, options = "s3://bucket", ["--s3-endpoint", servers.enter_context(late)]

        def run(name: str, pool: str) -> tuple[float, float]:
            manifest = f"{place}/archive/manifest.parquet"
            return first_part_s(manifest, f"{place}/{name}", folder / name, "--pool", pool, *options)

        run("warm", "inline")
        times: dict[str, list[tuple[float, float]]] = {"ray": [], "inline": []}
        for number in range(arguments.rounds):
            for pool, seconds in times.items():
                seconds.append(run(f"{pool}{number}", pool))
    for pool, seconds in times.items():
        for what, measured in zip(("first part", "end"), zip(*seconds, strict=True), strict=True):
            median = statistics.median(measured)
            print(f"{pool}: {what} after {median:.1f} s ({min(measured):.1f} to {max(measured):.1f})")


if __name__ == "__main__":
    main()
