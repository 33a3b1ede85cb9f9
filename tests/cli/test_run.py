"""`batchrec run`: what a cluster's entrypoint calls, again and again where a RayJob backs off."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Cli = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.ray


@pytest.fixture
def job_file(archive: Path, tmp_path: Path) -> Path:
    """A job of which a twentieth fails, and a hundredth may."""
    path = tmp_path / "job.yaml"
    path.write_text(
        f"source: {archive / 'manifest.parquet'}\noutput: {tmp_path / 'out'}\n"
        "max_failure_rate: 0.01\nbackend: openvino\n"
    )
    return path


def test_a_later_attempt_of_a_finished_job_starts_no_worker_and_ends_with_the_same_code(
    run_cli: Cli, local_ray: None, job_file: Path, tmp_path: Path
) -> None:
    code, printed, said = run_cli("run", job_file)
    assert (code, "over the failure limit" in printed) == (4, True), said
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    code, printed, said = run_cli("run", job_file, "--json")
    assert (code, json.loads(printed)["exit_code"]) == (4, 4), said
    assert "ready in" not in said, "no worker started"
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


def test_a_later_attempt_of_a_refused_job_is_refused_again(run_cli: Cli, local_ray: None, job_file: Path) -> None:
    for _ in range(2):
        code, _, said = run_cli("run", job_file, "--set", "uri_column=nowhere")
        assert (code, "nowhere" in said) == (3, True)


def test_without_a_cluster_run_says_what_to_do(run_cli: Cli, job_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    code, _, said = run_cli("run", job_file)
    assert code == 3
    assert "no Ray cluster is running here" in said
