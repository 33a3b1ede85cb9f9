"""Stores of both kinds for parts and seals."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from batchrec.spec import StoreOptions
from batchrec.storage import Store, open_store, publishing, s3_client
from tests.output.making import publish_all, seal_it
from tests.s3_server import S3Server


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Clients that give up after one retry, or one second without an answer."""
    monkeypatch.setattr(s3_client, "MAX_RETRIES", 1)
    monkeypatch.setattr(s3_client, "TIMEOUT_S", 1)
    monkeypatch.setattr(publishing, "PAUSE_S", 0.001)
    s3_client._client.cache_clear()
    yield
    s3_client._client.cache_clear()


@pytest.fixture
def s3_store(s3_server: S3Server, impatient: None) -> Store:
    """A store in a bucket."""
    return open_store("s3://photos/out", StoreOptions())


@pytest.fixture
def local_store(tmp_path: Path, impatient: None) -> Store:
    """A store on the disk."""
    return open_store(str(tmp_path / "out"), StoreOptions())


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest) -> Store:
    """A store of each kind."""
    found: Store = request.getfixturevalue(f"{request.param}_store")
    return found


@pytest.fixture
def complete(local_store: Store) -> Store:
    """A sealed output on the disk."""
    publish_all(local_store)
    seal_it(local_store)
    return local_store
