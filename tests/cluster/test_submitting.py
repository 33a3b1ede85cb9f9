"""Handing jobs to a real cluster, waiting for them and ending them; the entrypoints are small shell commands."""

from __future__ import annotations

import dataclasses
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from batchrec.cluster import following
from batchrec.cluster.addresses import Address
from batchrec.cluster.dashboard import Dashboard, DuplicateId
from batchrec.cluster.following import follow, stop
from batchrec.cluster.submission import keep_submission, read_submission
from batchrec.cluster.submitting import Handed, Manner, hand_over
from batchrec.cluster.tokens import Token
from batchrec.errors import AccessError, ClusterLost, Refused, Stopped
from batchrec.spec import JobSpec, StoreOptions
from batchrec.storage import open_store
from tests.cluster.head import TOKEN, RayHead, free_port, own_ip

pytestmark = pytest.mark.ray

Hand = Callable[..., Handed]


@pytest.fixture
def hand(dashboard: Dashboard, tmp_path: Path) -> Hand:
    """Hand a job over whose coordinator is a shell command."""

    def handed(script: str, *, to: Dashboard | None = None, **settings: object) -> Handed:
        spec = JobSpec(source=(str(tmp_path / "m.parquet"),), output=str(tmp_path / "out"), **settings)  # type: ignore[arg-type]
        return hand_over(
            spec, to or dashboard, Manner(entrypoint=("sh", "-c", script), job_file="/secret/place/j.yaml")
        )

    return handed


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask often, so that tests need not wait for the next time."""
    monkeypatch.setattr(following, "POLL_S", 0.1)


def test_without_a_token_and_with_a_wrong_one_each_get_one_line(head: RayHead) -> None:
    with pytest.raises(AccessError, match="wants a token") as refused:
        Dashboard(head.address, None)
    assert "RAY_AUTH_TOKEN_PATH" in refused.value.advice
    with pytest.raises(AccessError, match="does not take the token from RAY_AUTH_TOKEN") as refused:
        Dashboard(head.address, Token("canary", "RAY_AUTH_TOKEN"))
    assert "canary" not in str(refused.value)


def test_rays_variables_do_not_lead_elsewhere(head: RayHead, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert head.dashboard().is_here()


def test_a_cluster_that_is_not_there_or_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ClusterLost, match="does not answer"):
        Dashboard(Address(f"http://127.0.0.1:{free_port()}", "test"), None)
    monkeypatch.setattr("batchrec.cluster.dashboard.ANSWER_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as mute, pytest.raises(ClusterLost, match="does not answer"):
        Dashboard(Address(f"http://127.0.0.1:{mute.getsockname()[1]}", "test"), None)


def test_a_job_prints_its_lines_and_its_exit_code_comes_back(dashboard: Dashboard, hand: Hand) -> None:
    handed = hand("echo one; sleep 0.2; echo 'two \t https://user:canary@host/'; echo batchrec: no manifest; exit 3")
    lines: list[str] = []
    ending = follow(dashboard, handed.submission.submission_id, lines.append)
    assert not handed.attached
    assert lines == ["one", "two   https://***@host/", "batchrec: no manifest"]
    assert (ending.exit_code, ending.is_verdict) == (3, False)
    error = ending.error()
    assert isinstance(error, Refused)
    assert error.cause == "no manifest"


def test_a_coordinator_that_was_killed_is_told_as_lost(dashboard: Dashboard, hand: Hand) -> None:
    ending = follow(dashboard, hand("kill -9 $$").submission.submission_id, lambda _: None)
    assert (ending.exit_code, ending.error().cause) == (5, "the coordinator was killed")


def test_the_record_is_in_the_output_and_the_cluster_is_told_little(dashboard: Dashboard, hand: Hand) -> None:
    handed = hand('echo "$0"').submission
    assert read_submission(handed.url, StoreOptions()) == handed
    lines: list[str] = []
    job = follow(dashboard, handed.submission_id, lines.append).job
    assert lines == [handed.url]
    assert dict(job.metadata) == {"output": handed.spec.output, "batchrec": handed.version, "job_file": "j.yaml"}
    assert TOKEN not in Path(handed.url).read_text()
    details = dashboard._client.get_job_info(handed.submission_id)
    assert TOKEN not in str(details)


def test_the_same_command_attaches_while_it_runs_and_is_a_new_attempt_afterwards(
    dashboard: Dashboard, hand: Hand
) -> None:
    script = "sleep 100"
    first = hand(script)
    again = hand(script)
    assert (again.attached, again.submission) == (True, first.submission)
    assert hand(script, deadline_s=5.0).submission.submission_id != first.submission.submission_id
    job, by_us = stop(dashboard, first.submission.submission_id)
    assert (job.status, by_us) == ("STOPPED", True)
    assert stop(dashboard, first.submission.submission_id) == (job, False)
    second = hand("exit 0")
    assert (second.attached, second.submission.attempt) == (False, 2)
    assert second.submission.submission_id == first.submission.submission_id.removesuffix("1") + "2"


def test_a_stopped_job_is_told_as_stopped(dashboard: Dashboard, hand: Hand) -> None:
    name = hand("echo begun; sleep 100").submission.submission_id
    begun = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(follow, dashboard, name, lambda line: begun.set())
        assert begun.wait(60)
        stop(dashboard, name)
        ending = waiting.result(60)
    assert isinstance(ending.error(), Stopped)
    assert ending.exit_code == 6


def test_two_commands_at_once_are_one_submission(head: RayHead, hand: Hand) -> None:
    with ThreadPoolExecutor(2) as threads:
        both = list(threads.map(lambda to: hand("sleep 1", to=to), [head.dashboard(), head.dashboard()]))
    assert both[0].submission == both[1].submission
    assert sorted(each.attached for each in both) == [False, True]


def test_a_name_is_taken_once(dashboard: Dashboard, hand: Hand) -> None:
    name = hand("exit 0").submission.submission_id
    with pytest.raises(DuplicateId):
        dashboard.submit(name, "exit 0", runtime_env={}, metadata={}, num_cpus=0)


def test_a_submission_whose_cluster_is_gone_is_a_new_attempt(dashboard: Dashboard, hand: Hand, tmp_path: Path) -> None:
    first = hand("exit 0").submission
    store = open_store(str(tmp_path / "out"), StoreOptions())
    gone = dataclasses.replace(
        first, address="http://gone:8265", attempt=2, submission_id=first.submission_id.removesuffix("1") + "2"
    )
    keep_submission(store, gone)
    assert hand("exit 0").submission.attempt == 3


def test_a_job_that_waits_for_cores_did_not_stop_when_it_was_asked_to(dashboard: Dashboard) -> None:
    name = "batchrec-aaaaaaaaaaaa-1"
    dashboard.submit(name, "sleep 100", runtime_env={}, metadata={}, num_cpus=999)
    job, _ = stop(dashboard, name, patience_s=1.0)
    assert (job.status, job.has_ended) == ("PENDING", False)
    assert "waiting for resources" in job.message


def test_a_pending_job_is_told_of(dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "TELL_PENDING_EVERY_S", 0.0)
    name = "batchrec-bbbbbbbbbbbb-1"
    dashboard.submit(name, "sleep 100", runtime_env={}, metadata={}, num_cpus=999)

    class Enough(Exception):
        pass

    def enough(line: str) -> None:
        raise Enough(line)

    with pytest.raises(Enough, match=r"pending: .*waiting for resources"):
        follow(dashboard, name, enough)


def test_an_environment_that_cannot_be_set_up_is_refused(dashboard: Dashboard) -> None:
    name = "batchrec-cccccccccccc-1"
    missing = {"py_modules": ["gcs://_ray_pkg_0123456789abcdef.zip"]}
    dashboard.submit(name, "true", runtime_env=missing, metadata={}, num_cpus=0)
    error = follow(dashboard, name, lambda _: None).error()
    assert isinstance(error, Refused)
    assert "runtime environment" in error.cause


def test_a_submission_the_cluster_does_not_know(dashboard: Dashboard) -> None:
    name = "batchrec-dddddddddddd-1"
    assert dashboard.job(name) is None
    assert dashboard.logs(name) is None
    for ask in (lambda: follow(dashboard, name, lambda _: None), lambda: stop(dashboard, name)):
        with pytest.raises(ClusterLost, match="knows no submission"):
            ask()


def test_every_submission_of_ours_is_listed_and_no_other(dashboard: Dashboard, hand: Hand) -> None:
    name = hand("exit 0").submission.submission_id
    dashboard.submit("somebody-elses", "true", runtime_env={}, metadata={}, num_cpus=0)
    names = [job.submission_id for job in dashboard.jobs()]
    assert name in names
    assert "somebody-elses" not in names


def test_the_coordinator_asks_for_a_core_only_where_the_head_offers_none(dashboard: Dashboard) -> None:
    assert not dashboard.keeps_head_free()


def test_a_tunnel_to_elsewhere_is_not_this_machine(head: RayHead) -> None:
    dashboard = head.dashboard(Address(f"http://{own_ip()}:{head.port}", "test"))
    assert dashboard.is_here()
    dashboard._nodes = lambda: [{"node_ip": "203.0.113.7"}]  # type: ignore[method-assign]
    assert not dashboard.is_here()
