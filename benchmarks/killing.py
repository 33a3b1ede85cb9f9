"""A job on real photographs, undisturbed and with its worker and then its coordinator killed in mid-run.

    python benchmarks/killing.py --photographs DIR [--model apparel]

Kills with SIGKILL, types the same command again within two seconds, and compares every row.
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

import batchrec
from batchrec.manifest.planning import Plan
from batchrec.output.verifying import Verification, verify


def start(manifest: Path, out: Path, photographs: Path, model: str) -> subprocess.Popen[bytes]:
    """Type the command."""
    command = [sys.executable, "-m", "batchrec", "submit", str(manifest), "-o", str(out), "-m", model]
    roots = ["--input-root", str(photographs)]
    return subprocess.Popen([*command, *roots], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for_parts(out: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until so many parts stand."""
    while len(list(out.glob("predictions/*/part-*.parquet"))) < count:
        if process.poll() is not None:
            raise SystemExit(f"the job ended with {process.returncode} before it could be disturbed")
        time.sleep(0.01)


def verified(out: Path) -> Verification:
    """Check the output, reading every row."""
    opened = batchrec.open(str(out))
    return verify(opened.store, opened.layout, list(Plan.from_parquet(opened.store.read(opened.layout.plan_key))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photographs", type=Path, required=True)
    parser.add_argument("--model", default="apparel")
    arguments = parser.parse_args()
    photographs = arguments.photographs.resolve()
    files = sorted(path for path in photographs.rglob("*") if path.is_file())
    with tempfile.TemporaryDirectory() as scratch:
        manifest, calm, torn = Path(scratch) / "m.parquet", Path(scratch) / "calm", Path(scratch) / "torn"
        pq.write_table(pa.table({"uri": [str(path) for path in files]}), manifest)
        start(manifest, calm, photographs, arguments.model).wait()
        expected = verified(calm)
        print(f"undisturbed: {expected.num_rows} rows, faults {expected.faults}, sha256 {expected.rows_sha256[:16]}")
        process = start(manifest, torn, photographs, arguments.model)
        wait_for_parts(torn, 2, process)
        for child in psutil.Process(process.pid).children(recursive=True):
            if "_WorkerActor" in " ".join(child.cmdline()):
                child.kill()
                print(f"killed worker {child.pid}")
        wait_for_parts(torn, 6, process)
        process.kill()
        killed_at = time.monotonic()
        print(f"killed coordinator {process.pid}")
        again = start(manifest, torn, photographs, arguments.model)
        print(f"typed again after {time.monotonic() - killed_at:.2f} s")
        again.wait()
        process.wait()
        found = verified(torn)
        print(f"disturbed: {found.num_rows} rows, faults {found.faults}, sha256 {found.rows_sha256[:16]}")
        print(
            f"same rows: {found == expected}, exit {again.returncode}, {time.monotonic() - killed_at:.1f} s to the end"
        )


if __name__ == "__main__":
    main()
