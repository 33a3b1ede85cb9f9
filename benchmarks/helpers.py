"""What a decode helper adds: one core decodes for a model that costs nothing, then a second one helps.

    python benchmarks/helpers.py [--rounds 3] [--seconds 40]

Twice the cores could at most decode twice the images; 1.6 is wanted, four fifths of it. The rate is taken while as
many helpers are at work as there should be, so their start is left out and printed beside it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batchrec.engine.devices import Placement, available_cores
from batchrec.engine.sites import OpenPool, OwnRay
from batchrec.engine.worker import Worker
from batchrec.job import run_job
from batchrec.learning.drawing import draw_archive
from batchrec.models import Preprocess
from batchrec.models.backends import Backend, Scores
from batchrec.models.bundle import ModelSpec
from batchrec.records import WorkerFacts
from batchrec.spec import JobSpec
from batchrec.stats import RunProgress

MODEL = ModelSpec("nothing", "nothing", "/nowhere", "00" * 32, 2, ("a", "b"), Preprocess(resize=256, crop=224))
WANTED = 1.6


class Nothing:
    """A model that costs nothing, on a device that is no CPU."""

    name, device, precision, batch_size, concurrency = "nothing", "nowhere", "fp32", 64, 1

    def __init__(self) -> None:
        rows = self.batch_size
        self._scores = Scores(np.ones((rows, 1), np.float32), np.zeros((rows, 1), np.int32), np.zeros(rows, np.float32))

    def new_slab(self) -> np.ndarray:
        """See :class:`batchrec.models.backends.Backend`."""
        return np.zeros((self.batch_size, 224, 224, 3), np.uint8)

    def predict(self, images: np.ndarray) -> Scores:
        """See :class:`batchrec.models.backends.Backend`."""
        return self._scores


class Decoding(Worker):
    """A worker with that model."""

    def _open_model(self) -> tuple[Backend, str]:
        return Nothing(), "a model that costs nothing"


class OneCore(OwnRay):
    """One worker with one core, on a Ray with all of them."""

    def place(self, spec: JobSpec) -> Placement:
        """See :class:`batchrec.engine.sites.Site`."""
        return Placement("cpu", 1, 1)

    @contextmanager
    def starting(self, placement: Placement) -> Iterator[OpenPool]:
        """See :class:`batchrec.engine.sites.Site`."""
        with super().starting(placement) as open_pool:
            yield lambda make_worker: open_pool(partial(Decoding, *make_worker.args))


class Watch:
    """Notes how far the run is, and with how many helpers."""

    def __init__(self, num_helpers: int) -> None:
        self._num_helpers = num_helpers
        self._seen: list[tuple[float, int]] = []
        self._began: float | None = None
        self.helped_after_s: float | None = None

    def worker_ready(self, facts: WorkerFacts) -> None:
        """See :class:`batchrec.engine.coordinator.Observer`."""
        self._began = time.monotonic()

    def say(self, message: str) -> None:
        """See :class:`batchrec.engine.coordinator.Observer`."""
        print(f"  {message}", flush=True)

    def tick(self, progress: RunProgress) -> None:
        """See :class:`batchrec.engine.coordinator.Observer`."""
        if progress.num_ok and progress.workers["helpers"] == self._num_helpers and self._began:
            now = time.monotonic()
            if self.helped_after_s is None:
                self.helped_after_s = now - self._began
            if not self._seen or progress.num_ok != self._seen[-1][1]:
                self._seen.append((now, progress.num_ok))

    def rate(self) -> float:
        """Images a second, the first two looks left out: a queue may have been full before."""
        steady = self._seen[2:]
        if len(steady) < 2:
            raise SystemExit(f"{self._num_helpers} helpers were at work for too short a time: ask for more --seconds")
        return (steady[-1][1] - steady[0][1]) / (steady[-1][0] - steady[0][0])


def repeated(folder: Path, archive: Path, num_rows: int) -> Path:
    """A manifest that names the images of an archive again and again."""
    uris = pq.read_table(archive / "manifest.parquet", columns=["uri"])["uri"]
    whole = pa.chunked_array([chunk for _ in range(num_rows // len(uris) + 1) for chunk in uris.chunks])
    manifest = folder / f"{num_rows}.parquet"
    pq.write_table(pa.table({"uri": whole.slice(0, num_rows)}), manifest)
    return manifest


def run(manifest: Path, archive: Path, out: Path, num_helpers: int) -> Watch:
    """Run one job and return what was seen of it."""
    watch = Watch(num_helpers)
    spec = JobSpec(
        source=(str(manifest),),
        output=str(out),
        manifest_root=str(archive),
        workers=1,
        top_k=1,
        precision="fp32",
        decode_helpers=num_helpers,
    )
    summary = run_job(spec, watch, site=OneCore(), model=MODEL)
    assert summary.num_ok == pq.read_metadata(manifest).num_rows, summary
    return watch


def ratios(archive: Path, scratch: Path, rounds: int, num_rows: int) -> Iterator[float]:
    """Both sides in turn."""
    manifests = [repeated(scratch, archive, factor * num_rows) for factor in (1, 2)]
    for number in range(rounds):
        alone, helped = (
            run(manifest, archive, scratch / f"out{number}-{helpers}", helpers)
            for helpers, manifest in enumerate(manifests)
        )
        ratio = helped.rate() / alone.rate()
        print(
            f"round {number}: alone {alone.rate():.0f} images/s, with a helper {helped.rate():.0f}, ratio {ratio:.2f}; "
            f"it was at work {helped.helped_after_s:.1f} s after the worker was ready",
            flush=True,
        )
        yield ratio


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=40, help="of each run, about")
    parser.add_argument("--images", type=int, default=2000, help="drawn, and named again and again")
    asked = parser.parse_args()
    if available_cores() < 2:
        raise SystemExit("two cores are needed")
    with tempfile.TemporaryDirectory() as scratch:
        archive = Path(scratch) / "archive"
        draw_archive(archive, num_images=asked.images, size=(500, 375))
        found = list(ratios(archive, Path(scratch), asked.rounds, 600 * asked.seconds))
    median = statistics.median(found)
    print(f"ratio {median:.2f} (median of {len(found)}), linear is 2.00, wanted {WANTED}")


if __name__ == "__main__":
    main()
