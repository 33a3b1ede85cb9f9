"""Runs to report on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from batchrec.records import WorkerFacts
from batchrec.report.summary import ErrorExample, RunSummary, Threads, rate, state_verdict
from batchrec.stats import ShardStats


@pytest.fixture
def make_summary() -> Callable[..., RunSummary]:
    """Build the summary of a finished run, with some fields changed."""

    def make(**changes: Any) -> RunSummary:
        errors = {"not_found": ErrorExample(7, "s3://photos/gone.jpg", ""), "truncated": ErrorExample(2, "a", "at 5")}
        num_errors = Counter({code: error.count for code, error in errors.items()})
        stats = ShardStats(3_640, num_errors, 10**8, 10**5, 120, fetch_s=3, decode_s=3.1, predict_s=12.5, write_s=0.2)
        fields: dict[str, Any] = {
            "job_id": "5e" * 32,
            "output": "out",
            "model": "apparel",
            "num_rows": 3_649,
            "num_ok": 3_640,
            "errors": errors,
            "num_shards": 15,
            "shards_done_before": 0,
            "wall_s": 20.0,
            "start_s": 4.0,
            "steady_s": 14.0,
            "images_per_s": rate(3_640, 20.0),
            "steady_images_per_s": rate(3_640, 14.0),
            "stats": stats,
            "workers": (WorkerFacts("host", 7, "cpu", "openvino", "bf16", 32, "trial", 2.0),),
            "attempts_failed": 0,
            "workers_lost": 0,
            "exit_code": 0,
            "verdict": state_verdict(0, num_rows=3_649, num_ok=3_640, num_failed=9, limit=0.05),
            "threads": Threads(fetch=4, decode=2, predict=1, cores=2),
        }
        return RunSummary(**(fields | changes))

    return make
