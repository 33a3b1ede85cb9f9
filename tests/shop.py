"""An archive some of whose images come later, for retries."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import batchrec

SETTINGS = {"pool": "inline", "backend": "torch-eager", "passthrough": "sku", "max_failure_rate": 1.0}


class Shop:
    """An archive in two manifest files of which some images are not there yet, and the output of a job on it."""

    def __init__(self, archive: Path, root: Path) -> None:
        self.root, self.out = root, root / "out"
        drawn = pq.read_table(archive / "manifest.parquet")
        whole = drawn.filter(pc.field("broken").is_null()).column("uri").to_pylist()[:40]
        (root / "m").mkdir(parents=True)
        for name in whole:
            (root / "m" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(archive / name, root / "m" / name)
        self.uris = whole
        for number, rows in enumerate((whole[:15], whole[15:])):
            first = 15 * number
            table = pa.table({"uri": rows, "sku": [f"S{first + i}" for i in range(len(rows))], "unused": rows})
            pq.write_table(table, root / "m" / f"{number}.parquet", row_group_size=8)

    def hide(self, *positions: int) -> None:
        for position in positions:
            path = self.root / "m" / self.uris[position]
            path.rename(f"{path}.hidden")

    def show(self, *positions: int) -> None:
        for position in positions:
            path = self.root / "m" / self.uris[position]
            Path(f"{path}.hidden").rename(path)

    def submit(self, **settings: object) -> None:
        batchrec.submit(str(self.root / "m"), output=str(self.out), **{**SETTINGS, "rows_per_shard": 16, **settings})
