"""From command to first published part, and to the command's end, warm cache, in new processes.

python benchmarks/startup.py [--rounds 5] [--images 1000]
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
    parser.add_argument("--images", type=int, default=1000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        manifest = draw_archive(Path(scratch) / "archive", num_images=arguments.images)
        first_part_s(manifest, Path(scratch) / "warm", "inline")
        times: dict[str, list[tuple[float, float]]] = {"ray": [], "inline": []}
        for number in range(arguments.rounds):
            for pool, seconds in times.items():
                seconds.append(first_part_s(manifest, Path(scratch) / f"{pool}{number}", pool))
        for pool, seconds in times.items():
            for what, measured in zip(("first part", "end"), zip(*seconds, strict=True), strict=True):
                median = statistics.median(measured)
                print(f"{pool}: {what} after {median:.1f} s ({min(measured):.1f} to {max(measured):.1f})")


if __name__ == "__main__":
    main()
