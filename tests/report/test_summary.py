"""A run as report.json."""

from __future__ import annotations

import json
import pickle

import pytest

from batchrec.errors import OutputError
from batchrec.report.summary import ErrorExample, RunSummary, percent, rate, state_verdict


def test_a_summary_survives_json_and_pickle(make_summary):
    summary = make_summary(shards_done_before=3)
    assert RunSummary.from_json(json.loads(json.dumps(summary.to_json()))) == summary
    assert pickle.loads(pickle.dumps(summary)) == summary


def test_report_json_holds_what_is_derived_too(make_summary):
    content = make_summary().to_json()
    assert content["schema_version"] == 1
    assert content["num_failed"] == 9
    assert content["binding"]["kind"] == "cpu"
    assert sum(content["binding"]["core_shares"].values()) == pytest.approx(1, abs=0.01)
    assert content["stats"]["num_errors"] == {"not_found": 7, "truncated": 2}


def test_fields_a_later_version_adds_are_passed_over(make_summary):
    content = make_summary().to_json() | {"new": 1}
    content["stats"]["new_s"] = 1
    content["workers"][0]["new"] = 1
    assert RunSummary.from_json(content) == make_summary()


@pytest.mark.parametrize(
    "change",
    [
        *({"schema_version": 2}, {"stats": None}, {"errors": []}, {"workers": [{}]}, {"threads": 5}),
        *({"wall_s": "long"}, {"num_rows": None}, {"model": 5}, {"max_failure_rate": "most"}, {"num_ok": True}),
    ],
)
def test_a_report_of_another_kind_is_refused(make_summary, change):
    with pytest.raises(OutputError, match=r"report\.json"):
        RunSummary.from_json(make_summary().to_json() | change)
    with pytest.raises(OutputError, match=r"report\.json"):
        RunSummary.from_json({"schema_version": 1})


def test_no_credential_reaches_report_json(make_summary):
    leaky = ErrorExample(1, "https://u:canary@h/a.jpg?X-Amz-Signature=canary", "403 for https://canary@h/a\x1b[2J")
    summary = make_summary(
        errors={"access_denied": leaky}, output="s3://k:canary@b/out", verdict="AWS_SESSION_TOKEN=canary"
    )
    assert "canary" not in json.dumps(summary.to_json())
    assert "\x1b" not in leaky.detail


@pytest.mark.parametrize(
    ("exit_code", "failed", "sentence"),
    [
        (0, 0, "complete: all 1,000 images recognised"),
        (0, 2, "complete: 998 of 1,000 images recognised, 2 failed (0.2 %; limit 5 %)"),
        (4, 80, "complete, but over the failure limit: 80 of 1,000 failed (8 %; limit 5 %)"),
        (5, 2, "interrupted: the store is full; 1,000 of 1,000 images are done, the same command resumes"),
        (6, 0, "stopped: the store is full; 1,000 of 1,000 images are done, the same command resumes"),
        (130, 0, "interrupted from the keyboard: the store is full; 1,000 of 1,000 images are done, "),
        (143, 0, "terminated: the store is full; 1,000 of 1,000 images are done, the same command resumes"),
        (3, 0, "failed: the store is full (exit 3)"),
    ],
)
def test_the_verdict_says_how_it_ended_and_what_next(exit_code, failed, sentence):
    found = state_verdict(
        exit_code, num_rows=1_000, num_ok=1_000 - failed, num_failed=failed, limit=0.05, reason="the store is full"
    )
    assert found.startswith(sentence)


def test_a_rate_over_no_time_is_zero():
    assert rate(10, 4) == 2.5
    assert rate(10, 0) == 0


def test_small_shares_keep_meaningful_digits():
    assert [percent(share) for share in (0, 0.0000031, 0.0025, 0.05, 0.0512, 0.512, 1)] == [
        "0 %", "0.00031 %", "0.25 %", "5 %", "5.1 %", "51.2 %", "100 %",
    ]  # fmt: skip
