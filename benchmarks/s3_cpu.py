"""Client CPU of reading images over HTTP from an S3 server on this machine: objects, s3fs beside it, and a tar.

    python benchmarks/s3_cpu.py [--objects 2000] [--kib 110]

The server runs in a process of its own; only this process's CPU counts. The archive holds the same images.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import s3fs

from batchrec.manifest.indexing import index_archives
from batchrec.spec import StoreOptions
from batchrec.storage import ImageReader, UriPolicy

PORT = 19_731
ROWS_PER_SHARD = 256
ENDPOINT = f"http://127.0.0.1:{PORT}"


def cpu_ms_each(read_all: Callable[[], int], num_objects: int) -> float:
    """CPU milliseconds of this process for each object."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    if read_all() != num_objects:
        raise SystemExit("not every object was read")
    after = resource.getrusage(resource.RUSAGE_SELF)
    return 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / num_objects


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--objects", type=int, default=2000)
    parser.add_argument("--kib", type=int, default=110)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    os.environ.update(AWS_ACCESS_KEY_ID="key", AWS_SECRET_ACCESS_KEY="secret", AWS_REGION="us-east-1")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "photos").mkdir()
        names = [f"{number:06d}.jpg" for number in range(arguments.objects)]
        for name in names:
            (Path(folder) / "photos" / name).write_bytes(os.urandom(arguments.kib * 1024))
        with tarfile.open(Path(folder) / "photos/all.tar", "w") as archive:
            for name in names:
                archive.add(Path(folder) / "photos" / name, name)
        index_archives([f"{folder}/photos/all.tar"], f"{folder}/photos/members.parquet", StoreOptions())
        members = pq.read_table(f"{folder}/photos/members.parquet")["uri"].to_pylist()
        server = subprocess.Popen([sys.executable, "-m", "tests.s3_server", "--port", str(PORT), "--folder", folder])
        try:
            measure(names, members, arguments.rounds)
        finally:
            server.terminate()
            server.wait()


def measure(names: list[str], members: list[str | None], rounds: int) -> None:
    reader = ImageReader(UriPolicy("s3://photos", (), ()), StoreOptions(endpoint=ENDPOINT), 2**30)
    system = s3fs.S3FileSystem(endpoint_url=ENDPOINT)

    def ours() -> int:
        with ThreadPoolExecutor(reader.concurrency()) as threads:
            return sum(1 for data in threads.map(reader.read, names) if data)

    def theirs() -> int:
        return len(system.cat([f"photos/{name}" for name in names]))

    def from_tar() -> int:
        count = 0
        with ThreadPoolExecutor(reader.concurrency()) as threads:
            for first in range(0, len(members), ROWS_PER_SHARD):
                shard = reader.members(members[first : first + ROWS_PER_SHARD])
                assert shard is not None
                rows = range(len(members[first : first + ROWS_PER_SHARD]))
                count += sum(1 for data in threads.map(partial(shard.read, reserve=lambda *_: True), rows) if data)
        return count

    ways = {"batchrec": ours, "batchrec, from a tar": from_tar, "s3fs": theirs}
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, read_all in ways.items():
            found[name].append(cpu_ms_each(read_all, len(names)))
    for name, values in found.items():
        print(f"{name}: {statistics.median(values):.2f} ms of CPU an image ({min(values):.2f} to {max(values):.2f})")


if __name__ == "__main__":
    main()
