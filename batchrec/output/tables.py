"""Reading our own Parquet objects whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq


def read_table(source: BinaryIO, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a part or another small Parquet object; KeyError where it has not the columns that are named.

    On this thread, and not with ``pq.read_table``, which is a scan of a dataset and starts a pool: a process that ends
    soon after may be aborted ("terminate called without an active exception", seen with pyarrow 26).
    """
    file = pq.ParquetFile(pa.PythonFile(source, mode="r"), pre_buffer=False)
    if columns is None:
        return file.read(use_threads=False)
    return file.read(list(columns), use_threads=False).select(list(columns))
