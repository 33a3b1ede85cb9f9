"""A real cluster of four raylets with token authentication, disturbed while it works: the rows are exact each time."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
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
def alone(long_manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of the job in one process, when nothing happens."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    batchrec.submit(str(long_manifest), output=str(out), pool="inline", **SETTINGS)
    return out


@pytest.fixture(scope="module")
def undisturbed(alone: Path) -> Verification:
    """What the job ends with then."""
    return verified(alone)


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


@pytest.fixture(scope="module")
def longer_manifest(long_manifest: Path) -> Path:
    """Twice as long: nodes have time to leave and to join."""
    table = pq.read_table(long_manifest)
    path = long_manifest.with_name("longer.parquet")
    pq.write_table(pa.concat_tables([table, table]), path)
    return path


@pytest.fixture
def longer_submission(submission: list[object], longer_manifest: Path, long_manifest: Path) -> list[object]:
    """The words that submit the longer job, in as many shards."""
    words = [longer_manifest if word == long_manifest else word for word in submission]
    return [*words, f"--set=rows_per_shard={2 * SETTINGS['rows_per_shard']}"]


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


def report_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "report.json").read_text())


def rows_of(out: Path) -> pa.Table:
    """All rows in the manifest's order, with all they say but for their numbers and attempts."""
    table = batchrec.open(str(out)).predictions().to_table().sort_by("row")
    assert table["row"].to_pylist() == list(range(table.num_rows))
    return table.drop_columns(["row", "attempt"])


def assert_all_rows_twice(out: Path, alone: Path) -> None:
    """The longer job is sound and complete, and both of its halves are the job in one process, scores and codes too."""
    found, once = verified(out), rows_of(alone)
    assert (found.faults, found.complete, found.num_rows) == ((), True, 2 * once.num_rows)
    rows = rows_of(out)
    assert {"label", "score", "top_k", "error_code"} <= set(rows.column_names)
    assert rows.slice(0, once.num_rows).equals(once)
    assert rows.slice(once.num_rows).equals(once)


def replace_a_node(cluster: Raylets, victim: int, out: Path, process: subprocess.Popen[str]) -> None:
    """Take a node away and add one; whoever works elsewhere stands still until the new one has published."""
    cluster.remove(victim)
    others = [worker for node in cluster.standing for worker in cluster.workers(node)]
    for worker in others:
        worker.suspend()
    cluster.add_node(num_cpus=1)
    wait_for_parts(out, parts(out) + 1, process)
    for worker in others:
        worker.resume()


def assert_one_node_went_and_one_came(report: dict[str, Any]) -> None:
    assert 1 <= report["workers_lost"] <= 2, "one that worked there, and perhaps one that was about to start there"
    assert report["attempts_failed"] == 0
    assert report["attempts_lost"] <= 2, "a worker holds two shards at most"
    assert len({worker["pid"] for worker in report["workers"]}) == 3, "two at first, and one on the node that came late"


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
    victims = [worker for node in cluster.standing for worker in cluster.workers(node)][:1]
    assert victims
    victims[0].kill()
    code, _, said = ended(process)
    assert code == 0, said
    assert verified(tmp_path / "out") == undisturbed
    assert report_of(tmp_path / "out")["workers_lost"] == 1


def test_a_node_lost_and_another_added_cost_its_shards_in_flight_at_most(
    type_command: Command, longer_submission: list[object], cluster: Raylets, alone: Path, tmp_path: Path
) -> None:
    process = type_command(*longer_submission)
    wait_for_parts(tmp_path / "out", NUM_SHARDS // 2, process)
    replace_a_node(cluster, next(node for node in cluster.standing if cluster.workers(node)), tmp_path / "out", process)
    code, _, said = ended(process)
    assert code == 0, said
    assert_all_rows_twice(tmp_path / "out", alone)
    assert_one_node_went_and_one_came(report_of(tmp_path / "out"))


def test_a_spot_node_that_is_drained_and_taken_costs_its_shards_in_flight_at_most(
    type_command: Command, longer_submission: list[object], cluster: Raylets, alone: Path, tmp_path: Path
) -> None:
    process = type_command(*longer_submission)
    wait_for_parts(tmp_path / "out", 2, process)
    victim = next(node for node in cluster.standing if cluster.workers(node))
    cluster.drain(victim, notice_s=3)
    time.sleep(3)
    replace_a_node(cluster, victim, tmp_path / "out", process)
    code, _, said = ended(process)
    assert code == 0, said
    assert "was lost with its node" in said
    assert_all_rows_twice(tmp_path / "out", alone)
    assert_one_node_went_and_one_came(report_of(tmp_path / "out"))


def test_a_job_stopped_is_resumed_by_another_driver(
    type_command: Command, submission: list[object], undisturbed: Verification, tmp_path: Path
) -> None:
    slowly = (*submission, "--workers", "1")  # so that it is not through before it is stopped
    process = type_command(*slowly)
    wait_for_parts(tmp_path / "out", 1, process)
    code, printed, said = ended(type_command("stop", tmp_path / "out"))
    assert (code, "is stopped" in printed) == (0, True), (printed, said)
    code, _, said = ended(process)
    assert code in (5, 6), said
    assert "terminated: the same command resumes" in ended(type_command("logs", tmp_path / "out"))[1]
    assert parts(tmp_path / "out") < NUM_SHARDS
    code, _, said = ended(type_command(*slowly))
    assert code == 0, said
    assert verified(tmp_path / "out") == undisturbed
    listed = json.loads(ended(type_command("list", tmp_path / "out", "--json"))[1])
    assert len(listed) == 2


def test_of_two_drivers_at_once_the_second_is_refused(
    type_command: Command, longer_submission: list[object], cluster: Raylets, tmp_path: Path
) -> None:
    # One worker leaves a core for another coordinator; it stands still, or it might be through before that has begun.
    first = type_command(*longer_submission, "--workers", "1")
    wait_for_parts(tmp_path / "out", 1, first)
    [worker] = [worker for node in cluster.standing for worker in cluster.workers(node)]
    worker.suspend()
    # Another command for the same rows: the submission has another name, the job is the same.
    code, _, said = ended(type_command(*longer_submission, "--workers", "1", "--deadline", "1h"))
    assert code == 3, said
    assert "this job is being run already" in said
    assert first.poll() is None
    worker.resume()
    assert ended(type_command("stop", tmp_path / "out"))[0] == 0
    assert ended(first)[0] in (5, 6)
    assert verified(tmp_path / "out").faults == ()


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
