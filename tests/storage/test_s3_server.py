"""The server the other tests lean on: two independent clients agree with it."""

from __future__ import annotations

import contextlib
import http.client
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import obstore
import pytest
import s3fs
from botocore import session
from botocore.client import BaseClient
from botocore.exceptions import ClientError
from obstore.exceptions import AlreadyExistsError
from obstore.store import S3Store

from tests.s3_server import BAD_DAY, Access, Fault, Request, S3Server, SeededFaults

CLIENT = {"allow_http": True}


@pytest.fixture
def bucket(s3_server: S3Server) -> S3Store:
    """The bucket ``photos`` through obstore."""
    return S3Store("photos", client_options=CLIENT)


def boto(server: S3Server) -> BaseClient:
    """The server through botocore, which says every word of the protocol."""
    return session.get_session().create_client(
        "s3", region_name="us-east-1", endpoint_url=server.url, aws_access_key_id="key", aws_secret_access_key="secret"
    )


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


def test_of_two_uploads_in_parts_to_one_new_key_the_second_is_refused_when_it_is_completed(s3_server: S3Server):
    client = boto(s3_server)
    uploads = []
    for number in (b"1", b"2"):
        upload = client.create_multipart_upload(Bucket="photos", Key="large")["UploadId"]
        parts = []
        for part in (2, 1):
            sent = client.upload_part(
                Bucket="photos", Key="large", UploadId=upload, PartNumber=part, Body=number * part
            )
            parts.insert(0, {"PartNumber": part, "ETag": sent["ETag"]})
        uploads.append({"UploadId": upload, "MultipartUpload": {"Parts": parts}})
    assert s3_server.keys("photos") == [], "nothing stands before it is completed"
    client.complete_multipart_upload(Bucket="photos", Key="large", IfNoneMatch="*", **uploads[0])
    with pytest.raises(ClientError, match="PreconditionFailed"):
        client.complete_multipart_upload(Bucket="photos", Key="large", IfNoneMatch="*", **uploads[1])
    assert s3_server.get("photos", "large") == b"111"
    client.abort_multipart_upload(Bucket="photos", Key="large", UploadId=uploads[1]["UploadId"])
    with pytest.raises(ClientError, match="NoSuchUpload"):
        client.upload_part(Bucket="photos", Key="large", UploadId=uploads[0]["UploadId"], PartNumber=1, Body=b"")


def test_ranges_are_those_of_http(s3_server: S3Server):
    client = boto(s3_server)
    s3_server.put("photos", "a", b"0123456789")
    for wanted, answer in {
        "0-0": b"0",
        "2-4": b"234",
        "7-": b"789",
        "-3": b"789",
        "8-99": b"89",
        "-99": b"0123456789",
    }.items():
        got = client.get_object(Bucket="photos", Key="a", Range=f"bytes={wanted}")
        assert (got["ResponseMetadata"]["HTTPStatusCode"], got["Body"].read()) == (206, answer), wanted
        assert got["ContentRange"].endswith("/10")
    with pytest.raises(ClientError, match="InvalidRange"):
        client.get_object(Bucket="photos", Key="a", Range="bytes=10-")


def test_listings_have_pages_prefixes_and_folders(s3_server: S3Server):
    client = boto(s3_server)
    for key in ("a/1", "a/2", "a/b/3", "c", "d/4"):
        s3_server.put("photos", key, b"12")
    level = client.list_objects_v2(Bucket="photos", Delimiter="/")
    assert [each["Key"] for each in level["Contents"]] == ["c"]
    assert [each["Prefix"] for each in level["CommonPrefixes"]] == ["a/", "d/"]
    pages = list(
        client.get_paginator("list_objects_v2").paginate(Bucket="photos", Prefix="a/", PaginationConfig={"PageSize": 2})
    )
    assert [[each["Key"] for each in page["Contents"]] for page in pages] == [["a/1", "a/2"], ["a/b/3"]]
    after = client.list_objects_v2(Bucket="photos", StartAfter="a/b/3")
    assert [each["Key"] for each in after["Contents"]] == ["c", "d/4"]


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


def plain(method: str, url: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
    """One request as it is, by a client that tries nothing twice."""
    with contextlib.closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)) as connection:
        connection.request(
            method, "/photos/a", body, {name.replace("_", "-"): value for name, value in headers.items()}
        )
        answer = connection.getresponse()
        return answer.status, answer.read()


@pytest.mark.parametrize(
    ("fault", "stands"),
    [
        (Fault(status=503, code="SlowDown"), False),
        (Fault(status=409, code="ConditionalRequestConflict"), False),
        (Fault(status=500, applied=True), True),
    ],
    ids=["503", "409", "500-applied"],
)
def test_an_answer_that_fails_says_so_whether_applied_or_not(s3_server: S3Server, fault: Fault, stands: bool):
    s3_server.fault = lambda request: fault
    status, body = plain("PUT", s3_server.url, b"1", if_none_match="*")
    assert (status, fault.code.encode() in body) == (fault.status, True)
    assert (s3_server.get("photos", "a") == b"1") is stands
    assert s3_server.log == [Access("PUT", "photos", "a", status, len(body), "", conditional=True)]


@pytest.mark.parametrize("applied", [False, True])
def test_a_connection_can_be_reset_before_or_after(s3_server: S3Server, applied: bool):
    s3_server.fault = lambda request: Fault(reset=True, applied=applied)
    with pytest.raises(ConnectionError):
        plain("PUT", s3_server.url, b"1")
    assert (s3_server.get("photos", "a") == b"1") is applied
    assert s3_server.log[0].status == 0


def test_a_body_can_be_cut_under_its_full_length(s3_server: S3Server):
    s3_server.put("photos", "a", bytes(1000))
    s3_server.fault = lambda request: Fault(cut_bytes=300)
    with pytest.raises(http.client.IncompleteRead, match="300 bytes read, 700 more expected"):
        plain("GET", s3_server.url)


def test_a_slow_request_keeps_nobody_else_waiting(s3_server: S3Server):
    s3_server.fault = lambda request: Fault(delay_s=0.5) if request.method == "PUT" else None
    with ThreadPoolExecutor(1) as threads:
        began = time.monotonic()
        slow = threads.submit(plain, "PUT", s3_server.url, b"1")
        while "PUT" not in [line.method for line in s3_server.log]:
            assert plain("GET", s3_server.url)[0] in (404, 200)
            assert time.monotonic() - began < 5
        assert slow.result()[0] == 200
    assert len(s3_server.requests("GET")) > 5
    assert time.monotonic() - began >= 0.5


def test_a_seed_draws_the_same_faults_whatever_the_order():
    requests = [
        Request(0, method, "photos", f"k{key}", {}, {}, b"") for method in ("GET", "PUT") for key in range(2000)
    ]
    one, same, other = SeededFaults(1, BAD_DAY), SeededFaults(1, BAD_DAY), SeededFaults(2, BAD_DAY)
    drawn = {(request.method, request.key): one(request) for request in requests}
    assert {(request.method, request.key): same(request) for request in reversed(requests)} == drawn
    assert {(request.method, request.key): other(request) for request in requests} != drawn
    assert one.made.keys() == set(range(len(BAD_DAY))), "each kind is drawn"
    assert 0.04 < one.made[0] / len(requests) < 0.06
    assert 0.01 < one.made[1] / (len(requests) / 2) < 0.03


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
