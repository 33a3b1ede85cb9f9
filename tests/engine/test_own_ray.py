"""A Ray of the run's own: no question, no warning, and nothing left in the home."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.cluster]


def submit(manifest: Path, out: Path, home: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "batchrec", "submit", manifest, "-o", out, "--set=max_failure_rate=1"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"HOME": home, "PYTHONWARNINGS": "always"}
    return subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=300, env=environment)


def test_a_run_leaves_nothing_in_the_home_and_warns_of_nothing(archive: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    done = submit(archive / "manifest.parquet", tmp_path / "out", str(home))
    assert done.returncode == 0, done.stderr
    assert list(home.rglob("*")) == []
    assert "token" not in done.stderr.lower()
    assert [line for line in done.stderr.splitlines() if "WARN" in line] == []


def test_a_run_needs_no_home_that_can_be_written(archive: Path, tmp_path: Path) -> None:
    done = submit(archive / "manifest.parquet", tmp_path / "out", "/proc/self/nohome")  # not even for root
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "_SUCCESS").exists()
