"""What was expected of a run, and what came of it."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from batchrec.errors import OutputError
from batchrec.report.expectation import Expectation
from batchrec.report.summary import RunSummary, comparison
from batchrec.report.terminal import render
from batchrec.stats import ShardStats

EXPECTED = Expectation(
    limit_images_per_s=200,
    binds="CPU-bound: model 88 %, decode 12 %",
    images_per_s=180,
    outside_s=6.0,
    measured_at="2026-11-26T23:45+00:00",
)
RUN = {"stats": ShardStats(num_ok=3_600), "steady_s": 20.0, "wall_s": 25.0, "expectation": EXPECTED}


def flat(text: str) -> str:
    return " ".join(text.split())


def test_a_job_takes_its_images_and_what_is_outside_of_them():
    assert EXPECTED.wall_s(3_600) == 26.0
    assert EXPECTED.cost(3_600, price_per_hour=36.0) == pytest.approx(0.26)


def test_a_run_is_held_against_the_limit_and_the_prediction(make_summary):
    found = comparison(make_summary(**RUN))
    assert found.achieved_over_limit == pytest.approx(0.9)
    assert found.predicted_over_measured_rate == pytest.approx(1)
    assert found.predicted_over_measured_s == pytest.approx(26 / 25)


def test_failed_images_are_no_work_but_take_their_turn(make_summary):
    half = ShardStats(num_ok=1_800, num_errors=Counter(not_found=1_800))
    found = comparison(make_summary(**(RUN | {"stats": half})))
    assert found.achieved_over_limit == pytest.approx(0.45)
    assert found.predicted_over_measured_rate == pytest.approx(1)


def test_the_report_tells_both_and_the_date_of_what_was_measured(make_summary):
    text = flat(render(make_summary(**RUN), width=200))
    assert "reached 0.90 of the 200.0 images/s this machine allows, measured 2026-11-26T23:45+00:00" in text
    assert "expected 26.0 s, predicted / measured 1.04; 180.0 images/s, 1.00" in text


@pytest.mark.parametrize("change", [{"expectation": None}, {"steady_s": 0.4}, {"stats": ShardStats()}])
def test_nothing_is_claimed_where_nothing_was_measured_or_the_run_was_too_short(make_summary, change):
    summary = make_summary(**(RUN | change))
    assert comparison(summary) is None
    assert "this machine allows" not in render(summary)
    assert summary.to_json()["comparison"] is None


def test_the_expectation_survives_report_json(make_summary):
    content = json.loads(json.dumps(make_summary(**RUN).to_json()))
    assert content["comparison"]["achieved_over_limit"] == pytest.approx(0.9)
    content["expectation"]["new"] = 1
    assert RunSummary.from_json(content) == make_summary(**RUN)
    with pytest.raises(OutputError, match=r"report\.json"):
        RunSummary.from_json(content | {"expectation": {"images_per_s": 5}})


def test_a_report_of_an_earlier_version_has_no_expectation(make_summary):
    content = make_summary().to_json()
    del content["expectation"]
    assert RunSummary.from_json(content).expectation is None
