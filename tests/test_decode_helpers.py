"""Whole jobs on a real Ray whose worker is helped: the same rows, whatever becomes of the helper."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchrec
from batchrec.engine.telling import Quiet
from batchrec.job import run_job
from batchrec.spec import JobSpec
from batchrec.stats import RunProgress
from tests import poison
from tests.engine.helped_worker import HashingWorker, OneCore, PoisonedWorker, StarvingWorker

pytestmark = pytest.mark.ray

COLUMNS = ["row", "status", "error_code", "error_detail", "label", "entropy", "width", "height", "bytes"]


class Watch(Quiet):
    """Acts once helpers have been at work for a moment, and notes the most there were and what was said."""

    def __init__(self, act: Callable[[], object] = lambda: None) -> None:
        self.most_helpers = self._num_looks = 0
        self.said: list[str] = []
        self._act = act

    def say(self, message: str) -> None:
        self.said.append(message)

    def tick(self, progress: RunProgress) -> None:
        if num_helpers := progress.workers["helpers"]:
            self._num_looks += 1
            if self._num_looks == 2:
                self._act()
        self.most_helpers = max(self.most_helpers, num_helpers)


def rows(out: Path) -> list[dict[str, object]]:
    return batchrec.open(str(out)).predictions().to_table(columns=COLUMNS).sort_by("row").to_pylist()


def run(manifest: Path, out: Path, site: OneCore, watch: Watch) -> list[dict[str, object]]:
    spec = JobSpec(
        source=(str(manifest),),
        output=str(out),
        rows_per_shard=500,
        max_failure_rate=1.0,
        precision="fp32",
        workers=1,
    )
    run_job(spec, watch, site=site)
    return rows(out)


def kill_helper() -> None:
    [helper] = [each for each in psutil.Process().children(recursive=True) if "_HelperActor" in each.name()]
    helper.kill()


def test_a_helper_killed_in_mid_job_costs_no_attempt_and_the_rows_are_those_of_a_job_without(
    local_ray: None, long_manifest: Path, tmp_path: Path
) -> None:
    expected = run(long_manifest, tmp_path / "alone", OneCore(HashingWorker, on_ray=False), Watch())
    watch = Watch(kill_helper)
    found = run(long_manifest, tmp_path / "helped", OneCore(StarvingWorker, on_ray=True), watch)
    assert (watch.most_helpers, watch.said) == (1, [])
    assert found == expected


def test_an_image_that_crashes_a_helper_is_one_row_and_its_worker_lives(
    local_ray: None, archive: Path, tmp_path: Path
) -> None:
    drawn = pq.read_table(archive / "manifest.parquet").to_pylist()
    good = (archive / next(row["uri"] for row in drawn if row["broken"] is None)).read_bytes()
    (tmp_path / "good.jpg").write_bytes(good)
    (tmp_path / "bad.jpg").write_bytes(poison.poisoned(good, "abort"))
    uris = ["good.jpg"] * 1500
    uris[1250] = "bad.jpg"
    pq.write_table(pa.table({"uri": uris}), tmp_path / "manifest.parquet")
    watch = Watch()
    found = run(tmp_path / "manifest.parquet", tmp_path / "out", OneCore(PoisonedWorker, on_ray=True), watch)
    assert {row["row"]: row["error_code"] for row in found if row["status"] != "ok"} == {1250: "decoder_crash"}
    assert len({row["entropy"] for row in found}) == 2
    assert (watch.most_helpers, watch.said) == (1, [])
