"""Real Ray jobs, disturbed while they run: the same command, typed again, ends with the same rows."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchrec
from batchrec.manifest.planning import Plan
from batchrec.output.verifying import Verification, verify
from tests.interrupting import hear_interrupts

pytestmark = [pytest.mark.ray, pytest.mark.cluster]

# The backend is named: each start's own trial may choose another, whose scores differ in the last digits.
SETTINGS = {"rows_per_shard": 32, "max_failure_rate": 1, "backend": "openvino"}


def verified(out: Path) -> Verification:
    opened = batchrec.open(str(out))
    return verify(opened.store, opened.layout, list(Plan.from_parquet(opened.store.read(opened.layout.plan_key))))


@pytest.fixture(scope="module")
def long_manifest(archive: Path) -> Path:
    """Every image ten times: some seconds of work, in fifty shards."""
    table = pq.read_table(archive / "manifest.parquet")
    path = archive / "ten-times.parquet"
    pq.write_table(pa.concat_tables([table] * 10), path)
    return path


@pytest.fixture(scope="module")
def undisturbed(long_manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Verification:
    """What the job ends with when nothing happens."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    batchrec.submit(str(long_manifest), output=str(out), pool="inline", **SETTINGS)
    return verified(out)


@pytest.fixture
def submit(long_manifest: Path, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Type the command that runs the job on a Ray of its own; each is the leader of a group of processes."""
    command = [sys.executable, "-m", "batchrec", "submit", long_manifest, "-o", tmp_path / "out"]
    flags = [f"--set={name}={value}" for name, value in SETTINGS.items()]
    started = []

    def start(*more: str) -> subprocess.Popen[str]:
        words = [*map(str, command), *flags, *more]
        process = subprocess.Popen(
            words,
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=hear_interrupts,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def num_parts(out: Path) -> int:
    return len(list(out.glob("predictions/*/part-*.parquet")))


def wait_for_parts(out: Path, count: int, process: subprocess.Popen[str], within_s: float = 180) -> int:
    give_up_at = time.monotonic() + within_s
    while (found := num_parts(out)) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < give_up_at, "no parts appear"
        time.sleep(0.01)
    return found


def children_of(process: subprocess.Popen[str], name: str) -> list[psutil.Process]:
    found = [child for child in psutil.Process(process.pid).children(recursive=True) if name in child.name()]
    assert found, name
    return found


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return children_of(process, "_WorkerActor")


def assert_unfinished(out: Path) -> None:
    """Sound as far as it is, and never called complete."""
    found = verified(out)
    assert (found.faults, found.complete, (out / "_SUCCESS").exists()) == ((), False, False)


def test_a_worker_killed_in_mid_run_costs_no_row(
    submit: Callable[[], subprocess.Popen[str]], undisturbed: Verification, tmp_path: Path
) -> None:
    process = submit()
    wait_for_parts(tmp_path / "out", 3, process)
    for worker in workers_of(process):
        worker.kill()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "was lost and is replaced" in errors
    assert verified(tmp_path / "out") == undisturbed


def test_a_worker_that_stands_still_for_a_while_costs_no_row_and_is_not_replaced(
    submit: Callable[[], subprocess.Popen[str]], undisturbed: Verification, tmp_path: Path
) -> None:
    process = submit()
    wait_for_parts(tmp_path / "out", 3, process)
    workers = workers_of(process)
    for worker in workers:
        worker.suspend()
    time.sleep(3)
    for worker in workers:
        worker.resume()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "was lost" not in errors
    assert verified(tmp_path / "out") == undisturbed


def test_a_worker_that_stands_still_for_longer_than_the_stall_limit_is_replaced(
    submit: Callable[..., subprocess.Popen[str]], undisturbed: Verification, tmp_path: Path
) -> None:
    process = submit("--stall", "15s", "--decode-within", "5s")
    wait_for_parts(tmp_path / "out", 3, process)
    workers = workers_of(process)
    for worker in workers:
        worker.suspend()
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 0, errors
    assert re.search(r"was lost and is replaced: (no row of shard \d+.* finished for|it hangs in)", errors), errors
    assert not any(worker.is_running() and worker.status() == psutil.STATUS_STOPPED for worker in workers)
    assert verified(tmp_path / "out") == undisturbed


def test_a_run_whose_ray_dies_or_that_has_three_seconds_to_live_ends_resumable_and_the_same_command_ends_it(
    submit: Callable[[], subprocess.Popen[str]], undisturbed: Verification, tmp_path: Path
) -> None:
    for name in ("raylet", "gcs_server"):
        standing = num_parts(tmp_path / "out")  # more may have come before the last one died
        process = submit()
        wait_for_parts(tmp_path / "out", standing + 3, process)
        (vital,) = children_of(process, name)
        vital.kill()
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 5, errors
        verdict = f"batchrec: the Ray of this run died (found: {name}); the same command resumes"
        assert errors.splitlines()[-1] == verdict
        assert_unfinished(tmp_path / "out")
    for whole_group in (False, True):  # as Ray stops a job, which is no Ray itself; as systemd stops a unit
        standing = num_parts(tmp_path / "out")
        process = submit()
        wait_for_parts(tmp_path / "out", standing + 3, process)
        below = psutil.Process(process.pid).children(recursive=True)
        for each in below if whole_group else ():
            each.terminate()
        process.terminate()
        process.wait(timeout=3)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 143, errors
        assert errors.splitlines()[-1] == "terminated: the same command resumes"
        assert psutil.wait_procs(below, timeout=5)[1] == []
        assert_unfinished(tmp_path / "out")
    last = submit()
    _, errors = last.communicate(timeout=120)
    assert last.returncode == 0, errors
    assert verified(tmp_path / "out") == undisturbed


def test_a_coordinator_stopped_while_its_workers_live_on_finds_its_job_taken_over(
    submit: Callable[..., subprocess.Popen[str]], undisturbed: Verification, tmp_path: Path
) -> None:
    first = submit()
    wait_for_parts(tmp_path / "out", 3, first)
    os.kill(first.pid, signal.SIGSTOP)
    second = submit("--takeover")
    _, errors = second.communicate(timeout=120)
    assert second.returncode == 0, errors
    os.kill(first.pid, signal.SIGCONT)
    _, errors = first.communicate(timeout=60)
    assert first.returncode == 6, errors
    assert errors.splitlines()[-1] == "batchrec: coordinator 2 took this job over; leave it to that one"
    assert verified(tmp_path / "out") == undisturbed


def test_a_coordinator_killed_in_mid_run_is_resumed_at_once_by_the_same_command(
    submit: Callable[[], subprocess.Popen[str]], undisturbed: Verification, tmp_path: Path
) -> None:
    process = submit()
    standing = wait_for_parts(tmp_path / "out", 3, process)
    process.kill()
    again = submit()
    _, errors = again.communicate(timeout=120)
    process.communicate()
    assert again.returncode == 0, errors
    assert "sign of life" not in errors
    assert batchrec.open(str(tmp_path / "out")).report()["shards_done_before"] >= standing
    assert verified(tmp_path / "out") == undisturbed


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_a_job_asked_to_stop_ends_resumable_and_leaves_no_half_part(
    number: int, code: int, submit: Callable[[], subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = submit()
    wait_for_parts(tmp_path / "out", 2, process)
    os.kill(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, "the same command resumes" in errors) == (code, True), errors
    assert "images are published" in errors
    found = verified(tmp_path / "out")
    assert (found.faults, found.complete) == ((), False)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_job_asked_to_stop_while_its_ray_starts_ends_resumable_and_leaves_no_process(
    number: int, code: int, submit: Callable[[], subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = submit()
    give_up_at = time.monotonic() + 60
    while not (below := psutil.Process(process.pid).children(recursive=True)):
        assert time.monotonic() < give_up_at, "no Ray is started"
        time.sleep(0.01)
    os.kill(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, "the same command resumes" in errors) == (code, True), errors
    assert num_parts(tmp_path / "out") == 0
    gone, alive = psutil.wait_procs(below, timeout=20)
    assert (bool(gone), alive) == (True, [])


def test_a_second_coordinator_is_refused_while_the_first_runs(
    submit: Callable[[], subprocess.Popen[str]], undisturbed: Verification, tmp_path: Path
) -> None:
    first = submit()
    wait_for_parts(tmp_path / "out", 1, first)
    os.kill(first.pid, signal.SIGSTOP)  # or it might be through before the second has started
    second = submit()
    _, errors = second.communicate(timeout=120)
    assert (second.returncode, "is being run already" in errors) == (3, True), errors
    os.kill(first.pid, signal.SIGCONT)
    first.communicate(timeout=180)
    assert first.returncode == 0
    assert verified(tmp_path / "out") == undisturbed
