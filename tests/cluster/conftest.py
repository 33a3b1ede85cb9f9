"""A head that every test of this folder may share, and tables of images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchrec.cluster.addresses import RAY_VARIABLES
from batchrec.cluster.dashboard import Dashboard
from batchrec.storage import s3_client
from tests.cluster.head import RayHead
from tests.s3_server import S3Server


@pytest.fixture(autouse=True)
def nobody_named_a_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No cluster, token or home of the user who runs the tests."""
    for name in (*RAY_VARIABLES, "BATCHREC_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "RAY_TMPDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))


@pytest.fixture(scope="session")
def head() -> Iterator[RayHead]:
    """A Ray head with token authentication, in processes of its own."""
    with RayHead(variables={"AWS_ACCESS_KEY_ID": "AKIATESTTESTTESTTEST", "AWS_SECRET_ACCESS_KEY": "s" * 40}) as started:
        yield started


@pytest.fixture
def token_at_hand(head: RayHead, monkeypatch: pytest.MonkeyPatch) -> None:
    """The head's token, where Ray keeps such."""
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(head.token_path))


@pytest.fixture
def dashboard(head: RayHead) -> Dashboard:
    """The head, spoken to with its token."""
    return head.dashboard()


@pytest.fixture
def bucket(s3_server: S3Server) -> S3Server:
    """An empty bucket ``photos``, without clients of earlier servers."""
    s3_client._client.cache_clear()
    return s3_server


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """A manifest on this disk whose images lie in a bucket."""
    return write_manifest(tmp_path / "input" / "manifest.parquet", 3)


def write_manifest(path: Path, num_rows: int, uri: str = "s3://photos/archive/{}.jpg") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"uri": [uri.format(row) for row in range(num_rows)]}), path)
    return path
