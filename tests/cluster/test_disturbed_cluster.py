"""A real cluster of four raylets with token authentication, disturbed while it works: the rows are exact each time."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import batchrec
from batchrec.manifest.planning import Plan
from batchrec.output.verifying import Verification, verify
from tests.cluster.raylets import Raylets, raylets

pytestmark = [pytest.mark.ray, pytest.mark.cluster]

NUM_SHARDS = 20
# The backend is named: each start's own trial may choose another, whose scores differ in the last digits.
SETTINGS = {"rows_per_shard": 200, "max_failure_rate": 1, "backend": "openvino"}
FLAGS = [f"--set={name}={value}" for name, value in SETTINGS.items()]
Command = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Raylets]:
    """A head that offers no cores, and three nodes of one core: one for the coordinator, two for workers."""
    with raylets() as started:
        started.start_head(num_cpus=0)
        for _ in range(3):
            started.add_node(num_cpus=1)
        yield started


@pytest.fixture(scope="module")
def undisturbed(long_manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Verification:
    """What the job ends with in one process, when nothing happens."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    batchrec.submit(str(long_manifest), output=str(out), pool="inline", **SETTINGS)
    return verified(out)


@pytest.fixture
def type_command(cluster: Raylets, tmp_path: Path) -> Iterator[Command]:
    """Type a command as somebody who knows the cluster's token."""
    typed: list[subprocess.Popen[str]] = []

    def start(*words: object, on: Raylets = cluster) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "batchrec", *map(str, words)]
        process = subprocess.Popen(
            command, env=on.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        typed.append(process)
        return process

    yield start
    for process in typed:
        process.kill()
        process.communicate()


@pytest.fixture
def submission(cluster: Raylets, long_manifest: Path, tmp_path: Path) -> list[object]:
    """The words that submit the job by HTTP."""
    words = ["submit", long_manifest, "-o", tmp_path / "out", "--address", cluster.url]
    return [*words, *FLAGS]


def verified(out: Path) -> Verification:
    opened = batchrec.open(str(out))
    return verify(opened.store, opened.layout, list(Plan.from_parquet(opened.store.read(opened.layout.plan_key))))


def parts(out: Path) -> int:
    return len(list(out.glob("predictions/*/part-*.parquet")))


def wait_for_parts(out: Path, count: int, process: subprocess.Popen[str], within_s: float = 120) -> None:
    give_up_at = time.monotonic() + within_s
    while parts(out) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < give_up_at, f"{parts(out)} parts"
        time.sleep(0.02)


def ended(process: subprocess.Popen[str], within_s: float = 180) -> tuple[int, str, str]:
    out, errors = process.communicate(timeout=within_s)
    return process.returncode, out, errors


def report_of(out: Path) -> dict[str, int]:
    return json.loads((out / "report.json").read_text())


def test_a_job_submitted_by_http_ends_with_the_rows_of_one_process(
    type_command: Command, submission: list[object], undisturbed: Verification, tmp_path: Path
) -> None:
    code, printed, said = ended(type_command(*submission))
    assert code == 0, said
    assert "Complete" in printed
    assert verified(tmp_path / "out") == undisturbed
    workers = {worker["pid"] for worker in report_of(tmp_path / "out")["workers"]}
    assert len(workers) == 2, "one of the three cores is the coordinator's, which keeps off the head"
    code, printed, said = ended(type_command(*submission))
    assert (code, "Complete" in printed) == (0, True), said


def test_a_worker_killed_in_mid_run_costs_no_row(
    type_command: Command, submission: list[object], cluster: Raylets, undisturbed: Verification, tmp_path: Path
) -> None:
    process = type_command(*submission)
    wait_for_parts(tmp_path / "out", 2, process)
    victims = [worker for node in (1, 2, 3) for worker in cluster.workers(node)][:1]
    assert victims
    victims[0].kill()
    code, _, said = ended(process)
    assert code == 0, said
    assert verified(tmp_path / "out") == undisturbed
    assert report_of(tmp_path / "out")["workers_lost"] == 1


def test_a_node_lost_and_another_added_cost_its_shards_in_flight_at_most(
    type_command: Command, submission: list[object], cluster: Raylets, undisturbed: Verification, tmp_path: Path
) -> None:
    process = type_command(*submission)
    wait_for_parts(tmp_path / "out", NUM_SHARDS // 2, process)
    victim = next(node for node in (1, 2, 3) if cluster.workers(node))
    cluster.remove(victim)
    late = cluster.add_node(num_cpus=1)
    code, _, said = ended(process)
    assert code == 0, said
    assert verified(tmp_path / "out") == undisturbed
    report = report_of(tmp_path / "out")
    assert report["workers_lost"] == 1
    assert report["attempts_failed"] == 0
    assert report["attempts_lost"] <= 2, "a worker holds two shards at most"
    assert cluster.nodes[late].poll() is None


def test_a_job_stopped_is_resumed_by_another_driver(
    type_command: Command, submission: list[object], undisturbed: Verification, tmp_path: Path
) -> None:
    process = type_command(*submission)
    wait_for_parts(tmp_path / "out", 3, process)
    code, printed, said = ended(type_command("stop", tmp_path / "out"))
    assert (code, "is stopped" in printed) == (0, True), (printed, said)
    code, _, said = ended(process)
    assert code in (5, 6), said
    assert parts(tmp_path / "out") < NUM_SHARDS
    code, _, said = ended(type_command(*submission))
    assert code == 0, said
    assert verified(tmp_path / "out") == undisturbed
    listed = json.loads(ended(type_command("list", tmp_path / "out", "--json"))[1])
    assert len(listed) == 2


def test_of_two_drivers_at_once_the_second_is_refused(
    type_command: Command, submission: list[object], undisturbed: Verification, tmp_path: Path
) -> None:
    first = type_command(*submission, "--workers", "1")  # which leaves a core for another coordinator
    wait_for_parts(tmp_path / "out", 1, first)
    # Another command for the same rows: the submission has another name, the job is the same.
    code, _, said = ended(type_command(*submission, "--workers", "1", "--deadline", "1h"))
    assert code == 3, said
    assert "this job is being run already" in said
    code, _, said = ended(first)
    assert code == 0, said
    assert verified(tmp_path / "out") == undisturbed


def test_a_cluster_without_room_says_what_it_needs_and_ends(
    type_command: Command, submission: list[object], tmp_path: Path
) -> None:
    process = type_command(*submission, "--workers", "8", "--cores-per-worker", "16", "--workers-within", "3s")
    code, _, said = ended(process)
    assert code == 5, said
    assert "need 8 x 16 CPUs, cluster has " in said, said
    assert "on 4 nodes" in said, said


def test_a_lost_head_is_survived_by_a_new_cluster_on_the_same_output(
    type_command: Command, submission: list[object], cluster: Raylets, undisturbed: Verification, tmp_path: Path
) -> None:
    process = type_command(*submission)
    wait_for_parts(tmp_path / "out", 3, process)
    cluster.close()
    code, _, said = ended(process)
    assert code == 5, said
    code, printed, said = ended(type_command("status", tmp_path / "out"))
    assert (code, "not complete" in printed) == (0, True), said
    assert ended(type_command("logs", tmp_path / "out"))[0] == 0
    with raylets() as another:
        another.start_head(num_cpus=1)
        there = [another.url if word == cluster.url else word for word in submission]
        code, _, said = ended(type_command(*there, on=another))
        assert code == 0, said
    assert verified(tmp_path / "out") == undisturbed
