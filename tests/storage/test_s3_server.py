"""The server the other tests lean on: two independent clients agree with it."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import obstore
import pytest
import s3fs
from obstore.exceptions import AlreadyExistsError
from obstore.store import S3Store

from tests.s3_server import Fault, S3Server

CLIENT = {"allow_http": True}


@pytest.fixture
def bucket(s3_server: S3Server) -> S3Store:
    """The bucket ``photos`` through obstore."""
    return S3Store("photos", client_options=CLIENT)


@pytest.fixture
def filesystem(s3_server: S3Server) -> s3fs.S3FileSystem:
    """The server through s3fs."""
    return s3fs.S3FileSystem(
        key="key", secret="secret", endpoint_url=s3_server.url, skip_instance_cache=True, use_listings_cache=False
    )


def test_obstore_puts_gets_lists_and_deletes(s3_server: S3Server, bucket: S3Store):
    for number in range(2500):
        s3_server.put("photos", f"n/{number:04d}", b"")
    obstore.put(bucket, "a b#c?d%20é", b"0123456789")
    assert bytes(obstore.get(bucket, "a b#c?d%20é").bytes()) == b"0123456789"
    assert bytes(obstore.get_range(bucket, "a b#c?d%20é", start=2, end=5)) == b"234"
    assert obstore.head(bucket, "a b#c?d%20é")["size"] == 10
    assert sum(len(page) for page in obstore.list(bucket, "n")) == 2500
    level = obstore.list_with_delimiter(bucket)
    assert (list(level["common_prefixes"]), [meta["path"] for meta in level["objects"]]) == (["n"], ["a b#c?d%20é"])
    obstore.delete(bucket, ["a b#c?d%20é", "n/0000"])
    assert len(s3_server.keys("photos")) == 2499


def test_obstore_uploads_in_parts(s3_server: S3Server, bucket: S3Store):
    data = bytes(range(256)) * 2**16
    obstore.put(bucket, "large", data, use_multipart=True, chunk_size=5 * 2**20)
    assert s3_server.get("photos", "large") == data


def test_s3fs_writes_reads_lists_and_removes(s3_server: S3Server, filesystem: s3fs.S3FileSystem):
    filesystem.pipe_file("photos/a b#c?d%20é/x", b"0123456789")
    assert s3_server.get("photos", "a b#c?d%20é/x") == b"0123456789"
    assert filesystem.cat_file("photos/a b#c?d%20é/x", start=2, end=5) == b"234"
    with filesystem.open("photos/large", "wb", block_size=5 * 2**20) as file:
        for _ in range(3):
            file.write(bytes(4 * 2**20))
    assert filesystem.info("photos/large")["size"] == 12 * 2**20
    assert sorted(filesystem.ls("photos", detail=False)) == ["photos/a b#c?d%20é", "photos/large"]
    assert filesystem.find("photos/a b#c?d%20é") == ["photos/a b#c?d%20é/x"]
    filesystem.rm("photos/large")
    assert not filesystem.exists("photos/large")
    filesystem.mkdir("another")
    assert "another" in filesystem.ls("")


def test_of_eight_conditional_puts_one_wins_every_time(s3_server: S3Server, bucket: S3Store):
    start = threading.Barrier(8)

    def compete(rival: int) -> int:
        won = 0
        for number in range(25):
            start.wait()
            try:
                obstore.put(bucket, f"race/{number}", b"%d" % rival, mode="create")
            except AlreadyExistsError:
                continue
            won += 1
        return won

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(compete, range(8))) == 25


def test_faults_are_applied_and_logged(s3_server: S3Server, bucket: S3Store):
    s3_server.fault = lambda request: Fault(status=404, code="NoSuchKey") if request.method == "GET" else None
    obstore.put(bucket, "a", b"1")
    with pytest.raises(FileNotFoundError):
        obstore.get(bucket, "a")
    assert [(line.method, line.key, line.status) for line in s3_server.log] == [("PUT", "a", 200), ("GET", "a", 404)]


def test_a_folder_is_served_as_buckets(tmp_path: Path, s3_server: S3Server):
    (tmp_path / "photos/x").mkdir(parents=True)
    (tmp_path / "photos/x/a.jpg").write_bytes(b"image")
    with S3Server(folder=tmp_path) as server:
        bucket = S3Store("photos", aws_endpoint_url_s3=server.url, client_options=CLIENT)
        assert bytes(obstore.get(bucket, "x/a.jpg").bytes()) == b"image"
        obstore.put(bucket, "y/b.jpg", b"new", mode="create")
        with pytest.raises(AlreadyExistsError):
            obstore.put(bucket, "y/b.jpg", b"newer", mode="create")
        assert [meta["path"] for page in obstore.list(bucket) for meta in page] == ["x/a.jpg", "y/b.jpg"]
    assert (tmp_path / "photos/y/b.jpg").read_bytes() == b"new"


def test_it_runs_as_a_process_of_its_own(s3_server: S3Server):
    command = [sys.executable, "-m", "tests.s3_server", "--port", "0", "--bucket", "mine"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            bucket = S3Store("mine", aws_endpoint_url_s3=url, client_options=CLIENT)
            obstore.put(bucket, "a", b"1")
            assert bytes(obstore.get(bucket, "a").bytes()) == b"1"
        finally:
            process.terminate()
