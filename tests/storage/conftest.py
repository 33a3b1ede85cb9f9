"""Stores of both kinds, and disks that are full or read-only."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from batchrec.spec import StoreOptions
from batchrec.storage import Store, open_store, s3_client
from tests.s3_server import S3Server
from tests.s3fs_store import S3fsStore

WEIRD = "ö ut#1?x%20y & 'z'"


@pytest.fixture
def weird_tmp_path(tmp_path: Path) -> Path:
    """A folder whose name holds everything that breaks URLs."""
    folder = tmp_path / WEIRD
    folder.mkdir()
    return folder


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """S3 clients that give up after one retry, or one second without an answer."""
    monkeypatch.setattr(s3_client, "MAX_RETRIES", 1)
    monkeypatch.setattr(s3_client, "TIMEOUT_S", 1)
    s3_client._client.cache_clear()
    yield
    s3_client._client.cache_clear()


@pytest.fixture
def s3_store(s3_server: S3Server, impatient: None) -> Store:
    """A store in a bucket."""
    return open_store("s3://photos/some/out", StoreOptions())


@pytest.fixture(params=["local", "s3", "s3fs"])
def store(request: pytest.FixtureRequest) -> Store:
    """A store of each kind, and the tests' own through another client."""
    if request.param == "s3":
        return request.getfixturevalue("s3_store")
    if request.param == "s3fs":
        request.getfixturevalue("s3_server")
        return S3fsStore("s3://photos/some/out", StoreOptions())
    return open_store(str(request.getfixturevalue("weird_tmp_path") / "out"), StoreOptions())


@contextlib.contextmanager
def _as_nobody() -> Iterator[None]:
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def as_nobody() -> Callable[[], contextlib.AbstractContextManager[None]]:
    """Makes a block run without root's leave to read and write anything."""
    return _as_nobody


@pytest.fixture
def mount_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts small disks of their own; skips where that is not allowed."""
    mounted: list[Path] = []

    def mount(options: str) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        if os.geteuid() != 0 or shutil.which("mount") is None:
            pytest.skip("mounting a small disk needs root")
        command = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
        if subprocess.run(command, check=False, capture_output=True).returncode:
            pytest.skip("mounting is not allowed here")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)
