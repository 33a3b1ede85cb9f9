"""Real Ray jobs, disturbed while they run: the same command, typed again, ends with the same rows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

import batchrec
from batchrec.manifest.planning import Plan
from batchrec.output.verifying import Verification, verify

pytestmark = pytest.mark.ray

# The backend is named: each start's own trial may choose another, whose scores differ in the last digits.
SETTINGS = {"rows_per_shard": 64, "max_failure_rate": 1, "backend": "openvino"}


def verified(out: Path) -> Verification:
    opened = batchrec.open(str(out))
    return verify(opened.store, opened.layout, list(Plan.from_parquet(opened.store.read(opened.layout.plan_key))))


@pytest.fixture(scope="module")
def undisturbed(long_manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Verification:
    """What the job ends with when nothing happens."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    batchrec.submit(str(long_manifest), output=str(out), pool="inline", **SETTINGS)
    return verified(out)


@pytest.fixture
def submit(long_manifest: Path, tmp_path: Path) -> Callable[[], subprocess.Popen[str]]:
    """Type the command that runs the job on a Ray of its own."""
    command = [sys.executable, "-m", "batchrec", "submit", long_manifest, "-o", tmp_path / "out"]
    flags = [f"--set={name}={value}" for name, value in SETTINGS.items()]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen([*map(str, command), *flags], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    return start


def wait_for_parts(out: Path, count: int, process: subprocess.Popen[str], within_s: float = 60) -> int:
    give_up_at = time.monotonic() + within_s
    while (found := len(list(out.glob("predictions/*/part-*.parquet")))) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < give_up_at, "no parts appear"
        time.sleep(0.01)
    return found


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return [child for child in psutil.Process(process.pid).children(recursive=True) if "_WorkerActor" in child.name()]


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
    found = verified(tmp_path / "out")
    assert (found.faults, found.complete) == ((), False)


def test_a_second_coordinator_is_refused_while_the_first_runs(
    submit: Callable[[], subprocess.Popen[str]], undisturbed: Verification, tmp_path: Path
) -> None:
    first = submit()
    wait_for_parts(tmp_path / "out", 1, first)
    second = submit()
    _, errors = second.communicate(timeout=60)
    assert (second.returncode, "is being run already" in errors) == (3, True), errors
    first.communicate(timeout=120)
    assert first.returncode == 0
    assert verified(tmp_path / "out") == undisturbed
