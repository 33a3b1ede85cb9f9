"""From `batchrec submit --address` to the first published part, on a cluster that runs already.

python -m benchmarks.cluster [--rounds 3] [--nodes 2]

Starts a real Ray head without cores and nodes of this machine with token authentication, draws 400 images, submits
the same job once to warm the caches, then ROUNDS times into new folders. Prints JSON: seconds from the command to
the first part, and to the end; the median.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.cluster.raylets import Raylets, raylets


def first_part(cluster: Raylets, manifest: Path, out: Path) -> dict[str, float]:
    began = time.monotonic()
    command = [sys.executable, "-m", "batchrec", "submit", manifest, "-o", out, "--address", cluster.url]
    flags = ["--rows-per-shard", "64", "--max-failure-rate", "1"]
    process = subprocess.Popen(
        [*map(str, command), *flags],
        env=cluster.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not any(out.glob("predictions/*/part-*.parquet")):
        if process.poll() is not None and not any(out.glob("predictions/*/part-*.parquet")):
            sys.exit(f"the job ended without a part: {process.communicate()[1]}")
        time.sleep(0.01)
    found = {"first_part_s": time.monotonic() - began}
    process.communicate()
    return {**found, "whole_s": time.monotonic() - began}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--nodes", type=int, default=2)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, raylets() as cluster:
        archive = Path(folder) / "archive"
        draw = [sys.executable, "-m", "batchrec", "sample", archive, "--images", "400"]
        subprocess.run(list(map(str, draw)), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        cluster.start_head(num_cpus=0)
        for _ in range(asked.nodes):
            cluster.add_node(num_cpus=1)
        manifest = archive / "manifest.parquet"
        first_part(cluster, manifest, Path(folder) / "warm")
        rounds = [first_part(cluster, manifest, Path(folder) / f"out{number}") for number in range(asked.rounds)]
    median = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    print(json.dumps({"nodes": asked.nodes, "rounds": rounds, "median": median}, indent=1))


if __name__ == "__main__":
    main()
