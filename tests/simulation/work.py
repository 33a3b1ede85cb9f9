"""The job of the simulation: eight images in two files, predictions made by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pyarrow as pa

from batchrec.engine.identity import identify
from batchrec.errors import ErrorCode, ImageError, StorageLost
from batchrec.manifest.definition import Columns, Manifest, ManifestFile
from batchrec.manifest.rows import Rows
from batchrec.models.bundle import ModelSpec
from batchrec.models.preprocessing import Preprocess
from batchrec.pipeline.collecting import ShardPredictions
from batchrec.records import Shard
from batchrec.spec import JobSpec
from batchrec.stats import ShardStats
from tests.output import making
from tests.simulation.storing import URL

ROWS_BY_FILE = (5, 3)
NUM_ROWS = sum(ROWS_BY_FILE)
#: Sizes of a shard that one version or another makes its default.
ROWS_PER_SHARD = (2, 3)
JOBS = ("wanted", "rival")
MODEL = ModelSpec("null", "null", "/null", "00" * 32, 4, making.LABELS, Preprocess(crop=8, resize=8))
_COLUMNS = Columns(("uri",), "image_id", (), pa.schema([pa.field("image_id", pa.string())]))


@dataclass(frozen=True)
class _Backend:
    name: str = "null"
    device: str = "cpu"
    precision: str = "fp32"
    batch_size: int = 1
    concurrency: int = 1


BACKEND = _Backend()


@cache
def manifest(job: str) -> Manifest:
    """Return the manifest of one of the jobs; they differ in the digest of a footer alone."""
    files = [
        ManifestFile(f"/{name}", name, 1000, rows, f"{JOBS.index(job):02x}" * 32)
        for name, rows in zip(making.FILES, ROWS_BY_FILE, strict=True)
    ]
    return Manifest(tuple(files), "/images", _COLUMNS)


def spec(job: str, *, rows_per_shard: int, takeover: bool, workers: int | None = None) -> JobSpec:
    """Return what a user asks for."""
    return JobSpec(
        source=(job,),
        output=URL,
        precision="fp32",
        top_k=2,
        rows_per_shard=rows_per_shard,
        takeover=takeover,
        workers=workers,
        device="cpu",
        max_failure_rate=0.5,
    )


@cache
def _rows(first: int, count: int) -> Rows:
    positions = range(first, first + count)
    ids = pa.array([f"id-{p}" for p in positions])
    return Rows([f"images/{p}.jpg" for p in positions], ids, making.passthrough(first, count).select([]))


@cache
def _predictions(first: int, count: int) -> ShardPredictions:
    return making.predictions(Shard(0, 0, 0, count, first))


@cache
def _expired(first: int, count: int) -> ShardPredictions:
    found = _predictions(first, count)
    errors = {row: ImageError(ErrorCode.CREDENTIALS_EXPIRED, "expired") for row in range(count)}
    stats = ShardStats(num_errors=Counter({ErrorCode.CREDENTIALS_EXPIRED.value: count}))
    return ShardPredictions(
        found.top_labels,
        found.top_scores,
        found.entropy,
        found.width,
        found.height,
        found.num_bytes,
        errors,
        stats,
        1.0,
        2.0,
    )


class SimulatedRows:
    """The rows of the manifest; see :class:`batchrec.manifest.rows.RowReader`."""

    def read(self, shard: Shard) -> Rows:
        return _rows(shard.first_position, shard.num_rows)

    def close(self) -> None:
        """Nothing is open."""


class SimulatedStream:
    """Predicts by hand, in simulated time; see :class:`batchrec.pipeline.stream.Stream`."""

    def __init__(self, world: Any) -> None:
        self._world = world

    def submit(self, uris: Sequence[str], **_: object) -> _Result:
        return _Result(self._world, int(uris[0].split("/")[1].split(".")[0]), len(uris))

    def counts(self) -> tuple[int, Counter[str]]:
        return 0, Counter()

    def count(self, stats: ShardStats) -> None:
        """Nothing is counted."""

    def uncount(self, stats: ShardStats) -> None:
        """Nothing is counted."""

    def fill(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        """Nothing runs."""


@dataclass(frozen=True)
class _Result:
    world: Any
    first: int
    count: int

    def result(self) -> ShardPredictions:
        """Wait until the shard is predicted.

        Raises:
            ValueError: Its images are poison.
            StorageLost: They cannot be had for now.
        """
        fate = self.world.predicting(self.first)
        if fate == "raise":
            raise ValueError("poison")
        if fate == "gone":
            raise StorageLost("the images of this shard are gone for now", advice="run again")
        return _expired(self.first, self.count) if fate == "expired" else _predictions(self.first, self.count)


@cache
def job_id(spec: JobSpec) -> str:
    """Return the id of a job."""
    return identify(spec, manifest(spec.source[0]), MODEL, "fp32").job_id
