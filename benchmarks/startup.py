"""From command to first published part, warm cache, in new processes.

python benchmarks/startup.py [--rounds 5]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from batchrec.learning.drawing import draw_archive


def first_part_s(manifest: Path, out: Path, pool: str) -> tuple[float, float]:
    """Seconds until the first part stands, and until the command ends."""
    command = [sys.executable, "-m", "batchrec", "submit", str(manifest), "-o", str(out), "--pool", pool]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(out.glob("predictions/*/part-*.parquet")):
        if process.poll() is not None:
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
        time.sleep(0.01)
    first_s = time.perf_counter() - began
    process.wait()
    return first_s, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        manifest = draw_archive(Path(scratch) / "archive", num_images=1000)
        first_part_s(manifest, Path(scratch) / "warm", "inline")
        times: dict[str, list[float]] = {"ray": [], "inline": []}
        for number in range(arguments.rounds):
            for pool, seconds in times.items():
                seconds.append(first_part_s(manifest, Path(scratch) / f"{pool}{number}", pool)[0])
        for pool, seconds in times.items():
            median = statistics.median(seconds)
            print(f"{pool}: first part after {median:.1f} s ({min(seconds):.1f} to {max(seconds):.1f})")


if __name__ == "__main__":
    main()
