"""Whole jobs of several programs on the same images and weights, in turn; medians of wall time.

    python benchmarks/compare.py --archive DIR --weights R18.pt --peers FOLDER --rounds 3 [--kernel inductor-bf16]

FOLDER holds peer scripts called as ``peer_NAME.py MANIFEST OUT --weights W [--kernel K]``. Each run must leave
one row for each image. Ratio: our median time over theirs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq


def absolute_manifest(archive: Path) -> Path:
    """Peers open URIs as they stand, so give everyone absolute ones."""
    path = archive / "absolute.parquet"
    uris = pq.read_table(archive / "manifest.parquet", columns=["uri"]).column("uri").to_pylist()
    pq.write_table(pa.table({"uri": [str((archive / uri).resolve()) for uri in uris]}), path)
    return path


def run(name: str, command: list[str], out: Path, num_images: int, log: Path, peers: Path) -> float | None:
    """Time one whole process; None if it did not do the work."""
    shutil.rmtree(out, ignore_errors=True)
    began = time.perf_counter()
    with log.open("ab") as stream:
        # Workers that a peer starts elsewhere find its modules and its interpreter by these.
        found = {"PYTHONPATH": str(peers), "PYSPARK_PYTHON": command[0]} if name != "batchrec" else {}
        done = subprocess.run(command, stdout=stream, stderr=stream, env={**os.environ, **found})
    wall_s = time.perf_counter() - began
    parts = sorted(map(str, (out / "predictions" if name == "batchrec" else out).rglob("*.parquet")))
    rows = ds.dataset(parts).count_rows() if parts else 0
    if done.returncode or rows != num_images:
        print(f"{name} failed: exit {done.returncode}, {rows} rows of {num_images}; see {log}", flush=True)
        return None
    return wall_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--archive", type=Path, required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--names", default="dataloader,daft,spark,raydata,raydata_fused")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has the peers installed")
    parser.add_argument("--kernel", default="fp32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scratch", type=Path, default=Path("/tmp/batchrec-compare"))
    arguments = parser.parse_args()
    arguments.scratch.mkdir(parents=True, exist_ok=True)
    manifest = absolute_manifest(arguments.archive)
    num_images = pq.read_metadata(manifest).num_rows
    ours = ["-m", "batchrec", "submit", str(manifest), "-m", f"file:{arguments.weights}+resnet18"]
    commands = {"batchrec": [sys.executable, *ours, "-o", str(arguments.scratch / "batchrec")]}
    for name in filter(None, arguments.names.split(",")):
        script, out = arguments.peers / f"peer_{name}.py", arguments.scratch / name
        peer = [arguments.peer_python, str(script), str(manifest), str(out)]
        commands[name] = [*peer, "--weights", arguments.weights, "--kernel", arguments.kernel]
    times: dict[str, list[float]] = defaultdict(list)
    for number in range(arguments.rounds):
        for name, command in commands.items():
            log = arguments.scratch / f"{name}.log"
            wall_s = run(name, command, arguments.scratch / name, num_images, log, arguments.peers)
            if wall_s is not None:
                times[name].append(wall_s)
                print(f"round {number}: {name} {wall_s:.1f} s", flush=True)
    best = statistics.median(times["batchrec"])
    for name, seconds in times.items():
        median = statistics.median(seconds)
        print(f"{name:16} {median:7.1f} s  ours/theirs {best / median:.2f}  kernel {arguments.kernel}", flush=True)


if __name__ == "__main__":
    main()
