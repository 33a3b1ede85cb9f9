"""Manifests on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchrec.manifest.definition import Manifest
from batchrec.manifest.reading import open_manifest
from batchrec.spec import JobSpec


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write columns as a Parquet file below the test's folder."""

    def write(columns: dict[str, Any] | pa.Table, name: str = "m.parquet", **options: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), path, **options)
        return path

    return write


@pytest.fixture
def opened() -> Callable[..., Manifest]:
    """Open one or more sources as the manifest of a job."""

    def opened(*sources: Path | str, **asked: Any) -> Manifest:
        return open_manifest(JobSpec(source=tuple(str(each) for each in sources), output="out", **asked))

    return opened
