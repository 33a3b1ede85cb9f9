"""A finished job, places nobody can write to, and the one form every refusal has."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import batchrec
from tests.storage.conftest import mount_disk

__all__ = ["mount_disk"]

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def finished(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a job on the first 60 images of the archive."""
    out = tmp_path_factory.mktemp("finished") / "out"
    batchrec.submit(
        str(archive / "manifest.parquet"),
        output=str(out),
        pool="inline",
        limit=60,
        max_failure_rate=1,
        backend="torch-eager",
    )
    return out


@pytest.fixture
def complaint(run_cli: Cli) -> Callable[..., str]:
    """Run a command line that must fail, with and without ``--json``; returns its one line."""

    def command(code: int, *arguments: object) -> str:
        found, out, err = run_cli(*arguments)
        assert (found, out) == (code, ""), err
        lines = err.splitlines()
        assert len(lines) == 1, err
        assert lines[0].startswith("batchrec: ")
        again, out, err = run_cli(*arguments, "--json")
        said = json.loads(out)
        assert (again, said["exit_code"]) == (code, code), err
        assert said["error"].keys() == {"kind", "cause", "found", "advice"}
        assert lines[0].startswith(f"batchrec: {said['error']['cause']}")
        return lines[0]

    return command


@pytest.fixture
def unwritable(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A folder this user cannot write to, root included."""
    if os.geteuid() == 0:
        return request.getfixturevalue("mount_disk")("size=1m,ro")
    folder = tmp_path / "unwritable"
    folder.mkdir(mode=0o500)
    return folder


def names_below(folder: Path) -> set[str]:
    """Every file and folder below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}
