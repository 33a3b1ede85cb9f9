"""What each way a coordinator can end means for whoever waits."""

from __future__ import annotations

import pytest
from ray.dashboard.modules.job.common import JobErrorType
from ray.job_submission import JobStatus

from batchrec.cluster.dashboard import RemoteJob
from batchrec.cluster.following import ENDINGS, Ending
from batchrec.errors import ClusterLost, Refused, Resumable, Stopped


def ended(exit_code: int | None, complaint: str = "", status: str = "FAILED", error_type: str | None = None) -> Ending:
    return Ending(RemoteJob("batchrec-0-1", status, "Ray's words", error_type, exit_code), complaint)


@pytest.mark.parametrize("ending", [ended(0), ended(4), ended(None, status="SUCCEEDED")])
def test_a_verdict_is_no_error(ending: Ending) -> None:
    assert ending.is_verdict
    assert ending.exit_code == (ending.job.exit_code or 0)


@pytest.mark.parametrize(
    ("ending", "exit_code", "kind", "cause"),
    [
        (ended(3, "no manifest"), 3, Refused, "no manifest"),
        (ended(5, "disk full"), 5, Resumable, "disk full"),
        (ended(6, "deadline"), 6, Stopped, "deadline"),
        (ended(143, "terminated"), 143, Stopped, "terminated"),
        (ended(17, ""), 17, Exception, "the coordinator ended without a word"),
        (ended(-9), 5, ClusterLost, "the coordinator was killed"),
        (ended(137, "Killed"), 5, ClusterLost, "the coordinator was killed"),
        (ended(127, "sh: python: not found"), 3, Refused, "the cluster's image has no `python` on its PATH"),
        (ended(1, "/bin/python: No module named batchrec"), 3, Refused, "the cluster's image has no batchrec"),
        (
            ended(1, "ModuleNotFoundError: No module named 'batchrec'"),
            3,
            Refused,
            "the cluster's image has no batchrec",
        ),
        (ended(None, status="STOPPED"), 6, Stopped, "the job was stopped"),
        (ended(None), 5, ClusterLost, "the job ended without an exit code"),
        (ended(None, error_type="NEW_IN_RAY_9"), 5, ClusterLost, "the job ended without an exit code"),
        (
            ended(None, error_type="JOB_SUPERVISOR_ACTOR_DIED"),
            5,
            ClusterLost,
            "the cluster lost the coordinator with its node",
        ),
    ],
)
def test_any_other_end_is_one_line_with_its_exit_code(
    ending: Ending, exit_code: int, kind: type[Exception], cause: str
) -> None:
    error = ending.error()
    assert not ending.is_verdict
    assert isinstance(error, kind)
    assert (error.exit_code, ending.exit_code, error.cause) == (exit_code, exit_code, cause)
    assert error.advice


def test_every_error_type_of_ray_without_an_exit_code_has_its_line() -> None:
    assert set(ENDINGS) == {each.value for each in JobErrorType} - {"JOB_ENTRYPOINT_COMMAND_ERROR"}
    for name in ENDINGS:
        error = ended(None, error_type=name).error()
        assert error.exit_code in (3, 5)
        assert error.advice


def test_the_statuses_are_rays() -> None:
    ends = {status.value for status in JobStatus if status.is_terminal()}
    assert {status.value for status in JobStatus if RemoteJob("x", status.value).has_ended} == ends
