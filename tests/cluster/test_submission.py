"""The record of a submission: written once, read back whole, named by what was asked."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from batchrec.cluster.submission import (
    Submission,
    is_submission_id,
    keep_submission,
    latest_attempt,
    name_of,
    read_submission,
    submissions_of,
)
from batchrec.errors import OutputError, UsageError
from batchrec.models.zoo import resolve_model
from batchrec.spec import JobSpec, StoreOptions
from batchrec.storage import open_store

SPEC = JobSpec(source=("s3://b/m.parquet",), output="OUT", passthrough=("a", "b"), deadline_s=60.0)


def submission(output: Path, attempt: int = 1, **changes: object) -> Submission:
    made = Submission(
        spec=SPEC.replace(output=str(output)),
        model=resolve_model("apparel"),
        address="http://head:8265",
        submission_id=f"batchrec-0123456789ab-{attempt}",
        attempt=attempt,
        version="0.1.0",
        submitted_at=1000.5,
    )
    return dataclasses.replace(made, **changes)


def test_a_record_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    written = submission(tmp_path)
    assert keep_submission(open_store(str(tmp_path), StoreOptions()), written) == written
    assert read_submission(written.url, StoreOptions()) == written


def test_of_two_that_ask_the_same_at_once_both_get_the_first_record(tmp_path: Path) -> None:
    store = open_store(str(tmp_path), StoreOptions())
    first = keep_submission(store, submission(tmp_path))
    assert keep_submission(store, submission(tmp_path, submitted_at=2000.0)) == first


def test_another_job_under_the_same_name_is_refused(tmp_path: Path) -> None:
    store = open_store(str(tmp_path), StoreOptions())
    keep_submission(store, submission(tmp_path))
    other = submission(tmp_path, spec=SPEC.replace(output=str(tmp_path), top_k=1))
    with pytest.raises(OutputError):
        keep_submission(store, other)


def test_attempts_are_listed_in_order_and_the_last_is_the_highest(tmp_path: Path) -> None:
    store = open_store(str(tmp_path), StoreOptions())
    assert latest_attempt(store, "batchrec-0123456789ab") is None
    for attempt in (1, 2, 10):
        keep_submission(store, submission(tmp_path, attempt, submitted_at=float(attempt)))
    assert [each.attempt for each in submissions_of(store)] == [1, 2, 10]
    last = latest_attempt(store, "batchrec-0123456789ab")
    assert last is not None
    assert last.attempt == 10
    assert latest_attempt(store, "batchrec-0123456789ac") is None


def test_the_name_is_the_same_for_the_same_words_and_another_for_others() -> None:
    model = resolve_model("apparel")
    names = [
        name_of(SPEC, None),
        name_of(SPEC, model),
        name_of(SPEC, dataclasses.replace(model, labels=("other",) * model.num_outputs)),
        name_of(SPEC.replace(output="OUT2"), None),
        name_of(SPEC.replace(top_k=1), None),
    ]
    assert len(set(names)) == len(names)
    assert name_of(JobSpec.from_json(SPEC.to_json()), None) == names[0]
    assert all(is_submission_id(f"{name}-1") for name in names)
    assert not is_submission_id("out")


@pytest.mark.parametrize(
    ("data", "kind"),
    [(b"no json", OutputError), (b"[1]", OutputError), (b"{}", UsageError), (b'{"model": 1}', UsageError)],
)
def test_a_record_nobody_can_read_is_named(data: bytes, kind: type[Exception], tmp_path: Path) -> None:
    written = submission(tmp_path)
    open_store(str(tmp_path), StoreOptions()).create(written.key, data)
    with pytest.raises(kind):
        read_submission(written.url, StoreOptions())


def test_a_record_that_is_not_there_says_that_both_sides_must_reach_the_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="shared filesystem"):
        read_submission(submission(tmp_path).url, StoreOptions())
    with pytest.raises(UsageError):
        read_submission(str(tmp_path / "some.json"), StoreOptions())
