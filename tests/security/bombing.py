"""Runs in a child of its own: read a file as a job would, in little memory, and say how it ended."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

from batchrec.errors import BatchrecError


def read_manifest(path: str) -> str:
    from batchrec.manifest.planning import plan_shards
    from batchrec.manifest.reading import RowReader, open_manifest
    from batchrec.spec import JobSpec, StoreOptions

    manifest = open_manifest(JobSpec(source=(path,), output="out"))
    sizes = [file.num_rows for file in manifest.files]
    with RowReader(manifest, StoreOptions()) as reader:
        return f"{sum(len(reader.read(shard).uris) for shard in plan_shards(sizes, 16_384, None))} rows"


def read_job_file(path: str) -> str:
    from batchrec.settings import resolve_settings

    return f"{len(resolve_settings(['m.parquet'], {}, job_file=path).values)} settings"


def read_weights(path: str) -> str:
    from batchrec.models.weights import read_state_dict, require_weights_file

    return f"{len(read_state_dict(require_weights_file(path)))} tensors"


def main() -> None:
    kind, limit, *paths = sys.argv[1:]
    # What is loaded by then counts, so the limit is of what comes on top.
    read = {"manifest": read_manifest, "job": read_job_file, "weights": read_weights}[kind]
    import pyarrow.compute  # noqa: F401

    if kind == "weights":
        import safetensors.torch  # noqa: F401
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + int(limit),) * 2)
    for path in paths:
        try:
            print("read:", read(path))
        except BatchrecError as error:
            print(f"{type(error).__name__}: {' '.join(str(error).split())}")


main()
