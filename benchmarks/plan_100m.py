"""Time and memory of planning a manifest of 100 million rows.

Usage: python benchmarks/plan_100m.py FOLDER [--rows 100000000] [--files 1] [--row-group-rows 1000000]

Writes the manifest below FOLDER (about 150 MB; a few thousand distinct URIs, repeated) unless it is
there, then opens and plans it in a fresh process and prints that process's wall time and peak memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

DISTINCT_URIS = 4_096


def write_manifest(folder: Path, rows: int, files: int, row_group_rows: int) -> None:
    """Write ``rows`` rows as Parquet files, dictionary-encoded so that it is quick and small."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    uris = pa.array([f"s3://archive/photos/{i:04x}/{i * 2654435761 % 2**32:08x}.jpg" for i in range(DISTINCT_URIS)])
    indices = np.arange(row_group_rows, dtype=np.int32) % DISTINCT_URIS
    table = pa.table({"uri": pa.DictionaryArray.from_arrays(indices, uris)})
    folder.mkdir(parents=True)
    share = -(-rows // files)
    for file in range(files):
        left = min(share, rows - file * share)
        with pq.ParquetWriter(folder / f"part-{file:05d}.parquet", table.schema, compression="zstd") as writer:
            while left > 0:
                writer.write_table(table.slice(0, min(left, row_group_rows)), row_group_size=row_group_rows)
                left -= row_group_rows


def plan(folder: str) -> None:
    """Open and plan a manifest in this process and print what it took as JSON."""
    started = time.perf_counter()
    from batchrec.manifest.planning import plan_shards, rows_per_shard
    from batchrec.manifest.reading import open_manifest
    from batchrec.spec import JobSpec

    imported = time.perf_counter()
    manifest = open_manifest(JobSpec(source=(folder,), output="unused"))
    opened = time.perf_counter()
    shards = plan_shards([file.num_rows for file in manifest.files], rows_per_shard(manifest.num_rows), None)
    plan_bytes = len(shards.to_parquet())
    planned = time.perf_counter()
    facts = {
        "rows": shards.num_rows,
        "files": len(manifest.files),
        "shards": len(shards),
        "import_s": round(imported - started, 3),
        "open_s": round(opened - imported, 3),
        "plan_s": round(planned - opened, 3),
        "plan_parquet_bytes": plan_bytes,
        "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }
    print(json.dumps(facts))


def run_step(step: str, manifest: Path, asked: argparse.Namespace) -> None:
    """Run one step in a process of its own: peak memory is inherited from a parent that was large."""
    numbers = ["--rows", asked.rows, "--files", asked.files, "--row-group-rows", asked.row_group_rows]
    subprocess.run([sys.executable, __file__, str(manifest), "--step", step, *map(str, numbers)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--files", type=int, default=1)
    parser.add_argument("--row-group-rows", type=int, default=1_000_000)
    parser.add_argument("--step", choices=("write", "plan"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.step == "plan":
        plan(str(asked.folder))
        return
    if asked.step == "write":
        write_manifest(asked.folder, asked.rows, asked.files, asked.row_group_rows)
        return
    manifest = asked.folder / f"manifest-{asked.rows}-{asked.files}-{asked.row_group_rows}"
    if not manifest.exists():
        started = time.perf_counter()
        run_step("write", manifest, asked)
        size = sum(path.stat().st_size for path in manifest.iterdir())
        print(f"wrote {size / 1e6:.1f} MB in {time.perf_counter() - started:.1f} s", file=sys.stderr)
    started = time.perf_counter()
    run_step("plan", manifest, asked)
    print(f"whole process: {time.perf_counter() - started:.2f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
