"""Reading our own Parquet objects whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq


def read_table(source: BinaryIO, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a part or another small Parquet object.

    On one thread, nothing read ahead: a process that ends soon after Arrow began to start a pool of threads is
    aborted ("terminate called without an active exception", seen with pyarrow 26 in 12 of 25 runs).
    """
    return pq.read_table(pa.PythonFile(source, mode="r"), columns=columns, use_threads=False, pre_buffer=False)
