"""What this machine remembers of jobs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from batchrec.engine.devices import Placement
from batchrec.engine.expecting import keep_expectation, keep_outside, recall_expectation, recall_outside
from batchrec.engine.identity import Identity
from batchrec.models.zoo import resolve_model
from batchrec.report.expectation import Expectation
from batchrec.report.summary import RunSummary
from batchrec.spec import JobSpec
from tests.report.conftest import make_summary

__all__ = ["make_summary"]

Make = Callable[..., RunSummary]
SPEC = JobSpec(source=("m.parquet",), output="out")
HERE = Placement("cpu", 1, 2)
EXPECTATION = Expectation(
    limit_images_per_s=200, binds="", images_per_s=180, outside_s=6, measured_at="2026-11-26T23:45+00:00"
)


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BATCHREC_CACHE", str(tmp_path))


def test_an_expectation_is_of_one_job_in_one_placement() -> None:
    job, other = Identity({"model": "a"}), Identity({"model": "b"})
    keep_expectation(SPEC, job, HERE, EXPECTATION)
    assert recall_expectation(SPEC, job, HERE) == EXPECTATION
    assert recall_expectation(SPEC.replace(output="elsewhere"), job, HERE) == EXPECTATION
    assert recall_expectation(SPEC, other, HERE) is None
    assert recall_expectation(SPEC, job, Placement("cpu", 2, 1)) is None
    for another in ({"backend": "torch-eager"}, {"pool": "inline"}, {"max_requests": 8}):
        assert recall_expectation(SPEC.replace(**another), job, HERE) is None


def test_the_least_of_the_last_starts_is_remembered_by_model_and_pool(make_summary: Make) -> None:
    model = resolve_model("apparel")
    assert recall_outside(SPEC, model, HERE) is None
    for wall_s in (28.0, 20.5, 21.0):
        keep_outside(SPEC, model, HERE, make_summary(wall_s=wall_s, steady_s=14.0))
    assert recall_outside(SPEC, model, HERE) == 6.5
    for _ in range(3):
        keep_outside(SPEC, model, HERE, make_summary(wall_s=22.0, steady_s=14.0))
    assert recall_outside(SPEC, model, HERE) == 8.0
    assert recall_outside(SPEC.replace(pool="inline"), model, HERE) is None
    assert recall_outside(SPEC, replace(model, weights_sha256="other"), HERE) is None


@pytest.mark.parametrize("trouble", [{"workers_lost": 1}, {"attempts_failed": 1}, {"shards_done_before": 3}])
def test_a_disturbed_run_says_nothing_of_starts(make_summary: Make, trouble: dict[str, int]) -> None:
    keep_outside(SPEC, resolve_model("apparel"), HERE, make_summary(**trouble))
    assert recall_outside(SPEC, resolve_model("apparel"), HERE) is None
