"""A real S3 server for every test that asks for one."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.s3_server import S3Server


@pytest.fixture
def s3_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """An empty S3 server with the bucket ``photos``; the AWS variables lead to it."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)
    with S3Server() as server:
        server.create_bucket("photos")
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server
