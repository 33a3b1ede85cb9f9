"""Peak memory of coordinator plus worker, for a short and a long manifest of the same images.

    python benchmarks/memory.py [--rows 1000 50000]

Samples the sum of the proportional set sizes of the command's process and its workers; Ray's own daemons are
shown apart.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from batchrec.learning.drawing import draw_archive


def pss_mib(process: psutil.Process) -> float:
    """Memory of a process with shared pages split among their users; 0 when it is gone."""
    try:
        return float(process.memory_full_info().pss) / 2**20
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return 0.0


def is_worker(process: psutil.Process) -> bool:
    """Whether a process is one of our actors; those come and go."""
    try:
        return "_WorkerActor" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def peak(command: list[str]) -> tuple[float, float]:
    """Peak MiB of coordinator plus worker, and of everything else the command starts."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    root, ours, others = psutil.Process(process.pid), 0.0, 0.0
    while process.poll() is None:
        children = root.children(recursive=True)
        workers = [child for child in children if is_worker(child)]
        ours = max(ours, sum(map(pss_mib, [root, *workers])))
        others = max(others, sum(pss_mib(child) for child in children if child not in workers))
        time.sleep(0.25)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return ours, others


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 50_000])
    parser.add_argument("--pool", default="ray")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        manifest = draw_archive(Path(scratch) / "archive", num_images=1000)
        table = pq.read_table(manifest)
        for rows in arguments.rows:
            path = manifest.parent / f"rows-{rows}.parquet"
            pq.write_table(pa.concat_tables([table] * -(-rows // len(table))).slice(0, rows), path)
            command = [sys.executable, "-m", "batchrec", "submit", str(path), "--pool", arguments.pool]
            ours, others = peak(command)
            print(
                f"{rows} rows: coordinator and worker {ours:.0f} MiB at most, Ray's daemons {others:.0f} MiB",
                flush=True,
            )


if __name__ == "__main__":
    main()
