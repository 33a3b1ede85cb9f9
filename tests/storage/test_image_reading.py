"""Reading images from disk and S3, where every fault becomes one code."""

from __future__ import annotations

import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from batchrec.errors import CODES, ErrorCode, ImageError
from batchrec.spec import StoreOptions
from batchrec.storage import ImageReader, UriPolicy, beneath, reading, s3_client, s3_images
from tests.s3_server import Fault, S3Server

MAX_BYTES = 1000


@pytest.fixture(params=["kernel", "stepwise"])
def resolver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of resolving beneath a folder."""
    if request.param == "stepwise":
        monkeypatch.setattr(beneath, "kernel_resolves", lambda: False)
    elif not beneath.kernel_resolves():
        pytest.skip("this kernel has no openat2")
    return request.param


@pytest.fixture
def archive(weird_tmp_path: Path, resolver: str) -> Path:
    """A manifest's folder with one image, and a secret beside it."""
    folder = weird_tmp_path / "archive"
    (folder / "img").mkdir(parents=True)
    (folder / "img/a.jpg").write_bytes(b"image a")
    (weird_tmp_path / "secret").mkdir()
    (weird_tmp_path / "secret/key").write_bytes(b"secret")
    return folder


def reader_of(archive: Path, *roots: Path) -> ImageReader:
    return ImageReader(UriPolicy(str(archive), tuple(map(str, roots))), StoreOptions(), MAX_BYTES)


def code_of(reader: ImageReader, uri: str) -> ErrorCode:
    with pytest.raises(ImageError) as error:
        reader.read(uri)
    assert len(error.value.detail) <= 300
    assert "CANARY" not in str(error.value)
    return error.value.code


def test_an_image_is_read_by_every_spelling(archive: Path):
    reader = reader_of(archive)
    path = archive / "img/a.jpg"
    for uri in ("img/a.jpg", "./img/../img/a.jpg", "img//a.jpg", str(path), path.as_uri()):
        assert reader.read(uri) == b"image a"


def test_names_are_literal_down_to_the_disk(archive: Path):
    for name in ("a%20b.jpg", "a#b.jpg", "a?b.jpg", "photo:1.jpg", "é😀.jpg", " a"):
        (archive / name).write_bytes(name.encode())
        assert reader_of(archive).read(name) == name.encode()


def test_links_that_stay_inside_are_followed(archive: Path):
    (archive / "relative.jpg").symlink_to("img/a.jpg")
    (archive / "absolute.jpg").symlink_to(archive / "img/a.jpg")
    (archive / "folder").symlink_to("img")
    (archive / "chain.jpg").symlink_to("folder/../relative.jpg")
    for uri in ("relative.jpg", "absolute.jpg", "folder/a.jpg", "chain.jpg"):
        assert reader_of(archive).read(uri) == b"image a"


def test_links_that_lead_out_are_refused(archive: Path):
    (archive / "out.jpg").symlink_to("../secret/key")
    (archive / "absolute.jpg").symlink_to(archive.parent / "secret/key")
    (archive / "folder").symlink_to("../secret")
    (archive / "passwd").symlink_to("/etc/passwd")
    (archive / "proc").symlink_to("/proc/self")
    (archive / "twice.jpg").symlink_to("out.jpg")
    for uri in ("out.jpg", "absolute.jpg", "folder/key", "passwd", "proc/environ", "proc/root/etc/passwd", "twice.jpg"):
        assert code_of(reader_of(archive), uri) is ErrorCode.URI_REFUSED


def test_a_link_into_an_input_root_is_followed(archive: Path):
    (archive / "out.jpg").symlink_to("../secret/key")
    assert reader_of(archive, archive.parent / "secret").read("out.jpg") == b"secret"


def test_a_link_swapped_in_while_reading_never_shows_the_secret(archive: Path):
    inside, name, stop = archive / "img", archive / "swap", threading.Event()
    name.symlink_to(inside)
    (archive.parent / "secret/a.jpg").write_bytes(b"secret")

    def swap() -> None:
        while not stop.is_set():
            for target in ("../secret", "img"):
                (archive / "next").symlink_to(target)
                (archive / "next").replace(name)

    thread = threading.Thread(target=swap)
    thread.start()
    reader, seen = reader_of(archive), set()
    try:
        deadline = time.monotonic() + 0.5
        while time.monotonic() < deadline:
            try:
                seen.add(reader.read("swap/a.jpg"))
            except ImageError as error:
                seen.add(error.code)
    finally:
        stop.set()
        thread.join()
    assert seen <= {b"image a", ErrorCode.URI_REFUSED}
    assert b"image a" in seen


def test_a_step_that_becomes_a_link_after_the_look_is_refused(archive: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(beneath, "_refuse_link", lambda step, here: None)
    (archive / "folder").symlink_to("../secret")
    (archive / "out.jpg").symlink_to("../secret/key")
    folder = os.open(archive, os.O_RDONLY)
    for path in ("folder/key", "out.jpg"):
        with pytest.raises(OSError, match=r"symbolic links|Not a directory"):
            beneath.open_stepwise(folder, path)
    os.close(folder)


def test_links_that_go_round_end(archive: Path):
    (archive / "a").symlink_to("b")
    (archive / "b").symlink_to("a")
    assert code_of(reader_of(archive), "a") is ErrorCode.URI_REFUSED


def test_pipes_devices_sockets_and_folders_are_no_images_and_do_not_hang(
    archive: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
):
    os.mkfifo(archive / "pipe")
    monkeypatch.chdir(archive)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        for uri in ("pipe", "socket", "img"):
            assert code_of(reader_of(archive), uri) is ErrorCode.URI_INVALID
    assert code_of(ImageReader(UriPolicy("/dev"), StoreOptions(), MAX_BYTES), "zero") is ErrorCode.URI_INVALID


def test_missing_files_and_folders_are_not_found(archive: Path):
    reader = reader_of(archive)
    for uri in ("no.jpg", "no/such/a.jpg", "img/a.jpg/b.jpg"):
        assert code_of(reader, uri) is ErrorCode.NOT_FOUND
    assert code_of(reader_of(archive / "gone"), "a.jpg") is ErrorCode.NOT_FOUND
    assert code_of(reader, "x" * 300) is ErrorCode.URI_INVALID


def test_the_size_is_judged_before_reading(archive: Path):
    (archive / "empty.jpg").touch()
    (archive / "limit.jpg").write_bytes(bytes(MAX_BYTES))
    with (archive / "huge.jpg").open("wb") as file:
        file.truncate(2**40)
    reader = reader_of(archive)
    assert code_of(reader, "empty.jpg") is ErrorCode.EMPTY
    assert code_of(reader, "huge.jpg") is ErrorCode.TOO_MANY_BYTES
    assert len(reader.read("limit.jpg")) == MAX_BYTES


def test_a_file_that_keeps_changing_is_said_to(archive: Path, monkeypatch: pytest.MonkeyPatch):
    path, read_all = archive / "img/a.jpg", reading._read_all

    def grow(descriptor: int, size: int) -> bytes:
        with path.open("ab") as file:
            file.write(b"+")
        return read_all(descriptor, size)

    monkeypatch.setattr(reading, "_read_all", grow)
    assert code_of(reader_of(archive), "img/a.jpg") is ErrorCode.CHANGED_WHILE_READ


def test_a_file_that_changed_once_is_read_again(archive: Path, monkeypatch: pytest.MonkeyPatch):
    path, read_all, changes = archive / "img/a.jpg", reading._read_all, [b"second, longer"]

    def change(descriptor: int, size: int) -> bytes:
        if changes:
            path.write_bytes(changes.pop())
        return read_all(descriptor, size)

    monkeypatch.setattr(reading, "_read_all", change)
    assert reader_of(archive).read("img/a.jpg") == b"second, longer"


def test_a_file_without_permission_is_access_denied(archive: Path, as_nobody):
    (archive / "closed.jpg").write_bytes(b"secret")
    (archive / "closed.jpg").chmod(0)
    reader = reader_of(archive)
    assert reader.read("img/a.jpg") == b"image a"
    with as_nobody():
        assert code_of(reader, "closed.jpg") is ErrorCode.ACCESS_DENIED
        assert reader.read("img/a.jpg") == b"image a"


def test_many_threads_share_one_reader(archive: Path):
    for number in range(50):
        (archive / f"{number}.jpg").write_bytes(b"%d" % number)
    with ThreadPoolExecutor(8) as threads:
        read = list(threads.map(reader_of(archive).read, [f"{number % 50}.jpg" for number in range(1000)]))
    assert read == [b"%d" % (number % 50) for number in range(1000)]


def test_reading_leaves_no_descriptor_open(archive: Path):
    (archive / "out.jpg").symlink_to("/etc/passwd")
    os.mkfifo(archive / "pipe")
    reader = reader_of(archive)
    reader.read("img/a.jpg")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for uri in ("img/a.jpg", "out.jpg", "pipe", "img", "no.jpg", "img/no.jpg") * 5:
        try:
            reader.read(uri)
        except ImageError:
            continue
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    reader.close()


def test_a_rewrite_of_the_same_length_is_noticed(archive: Path, monkeypatch: pytest.MonkeyPatch):
    path, read_all, contents = archive / "img/a.jpg", reading._read_all, [b"image b", b"image c"]

    def change(descriptor: int, size: int) -> bytes:
        data = read_all(descriptor, size)
        if contents:
            path.write_bytes(contents.pop())
            os.utime(path, (len(contents), len(contents)))
        return data

    monkeypatch.setattr(reading, "_read_all", change)
    assert code_of(reader_of(archive), "img/a.jpg") is ErrorCode.CHANGED_WHILE_READ
    assert reader_of(archive).read("img/a.jpg") == b"image b"


def test_room_is_asked_for_before_a_file_is_read(archive: Path, monkeypatch: pytest.MonkeyPatch):
    events: list[object] = []
    read_all = reading._read_all
    monkeypatch.setattr(reading, "_read_all", lambda *args: events.append("read") or read_all(*args))
    reader_of(archive).read("img/a.jpg", lambda num_bytes, patience_s: events.append((num_bytes, patience_s)) or True)
    assert events == [(7, None), "read"]


@pytest.fixture
def s3_reader(s3_server: S3Server, impatient: None) -> ImageReader:
    """A reader of images in a bucket."""
    s3_server.put("photos", "2026/a.jpg", b"image a")
    return ImageReader(UriPolicy("s3://photos/2026"), StoreOptions(), MAX_BYTES)


def test_an_object_is_read_in_one_request(s3_server: S3Server, s3_reader: ImageReader):
    assert s3_reader.read("a.jpg") == b"image a"
    assert s3_reader.read("s3://photos/2026/a.jpg") == b"image a"
    assert [line.method for line in s3_server.log] == ["GET", "GET"]


def test_an_object_that_has_room_in_time_costs_one_request(s3_server: S3Server, s3_reader: ImageReader):
    asked: list[tuple[int, float | None]] = []
    assert s3_reader.read("a.jpg", lambda *wanted: asked.append(wanted) or True) == b"image a"
    assert asked == [(7, s3_images.MAX_HELD_S)]
    assert len(s3_server.log) == 1


def test_an_object_that_must_wait_long_is_let_go_and_asked_for_again(s3_server: S3Server, s3_reader: ImageReader):
    answers = [False, True]
    asked: list[tuple[int, float | None]] = []
    assert s3_reader.read("a.jpg", lambda *wanted: asked.append(wanted) or answers[len(asked) - 1]) == b"image a"
    assert asked == [(7, s3_images.MAX_HELD_S), (7, None)]
    assert len(s3_server.log) == 2


def test_an_object_that_grew_while_it_waited_is_said_to(s3_server: S3Server, s3_reader: ImageReader):
    def reserve(num_bytes: int, patience_s: float | None) -> bool:
        s3_server.put("photos", "2026/a.jpg", b"image a, and more")
        return patience_s is None

    with pytest.raises(ImageError) as error:
        s3_reader.read("a.jpg", reserve)
    assert error.value.code is ErrorCode.CHANGED_WHILE_READ


def test_object_keys_are_literal(s3_server: S3Server, s3_reader: ImageReader):
    for name in ("a%20b.jpg", "a#b.jpg", "a?b=c&d.jpg", "a+b.jpg", "é😀.jpg", "a b.jpg", "a:b.jpg"):
        s3_server.put("photos", f"2026/{name}", name.encode())
        assert s3_reader.read(name) == name.encode()


def test_other_buckets_are_never_asked(s3_server: S3Server, s3_reader: ImageReader):
    s3_server.put("other-bucket", "a.jpg", b"secret")
    assert code_of(s3_reader, "s3://other-bucket/a.jpg") is ErrorCode.URI_REFUSED
    assert s3_server.log == []


def test_object_sizes_are_judged_before_reading(s3_server: S3Server, s3_reader: ImageReader):
    s3_server.put("photos", "2026/empty.jpg", b"")
    s3_server.put("photos", "2026/huge.jpg", bytes(MAX_BYTES + 1))
    s3_server.put("photos", "2026/limit.jpg", bytes(MAX_BYTES))
    assert code_of(s3_reader, "empty.jpg") is ErrorCode.EMPTY
    assert code_of(s3_reader, "huge.jpg") is ErrorCode.TOO_MANY_BYTES
    assert len(s3_reader.read("limit.jpg")) == MAX_BYTES


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault(status=404, code="NoSuchKey"), ErrorCode.NOT_FOUND),
        (Fault(status=404, code="NoSuchBucket"), ErrorCode.NOT_FOUND),
        (Fault(status=403, code="AccessDenied"), ErrorCode.ACCESS_DENIED),
        (Fault(status=403, code="InvalidAccessKeyId"), ErrorCode.ACCESS_DENIED),
        (Fault(status=401, code="Unauthorized"), ErrorCode.ACCESS_DENIED),
        (Fault(status=403, code="ExpiredToken"), ErrorCode.CREDENTIALS_EXPIRED),
        (Fault(status=400, code="ExpiredToken"), ErrorCode.CREDENTIALS_EXPIRED),
        (Fault(status=403, code="InvalidObjectState"), ErrorCode.READ_FAILED),
        (Fault(status=301, code="PermanentRedirect"), ErrorCode.ENDPOINT_UNREACHABLE),
        (Fault(status=503, code="SlowDown"), ErrorCode.SERVER_ERROR),
        (Fault(status=500), ErrorCode.SERVER_ERROR),
        (Fault(status=429, code="TooManyRequests"), ErrorCode.SERVER_ERROR),
        (Fault(reset=True), ErrorCode.SERVER_ERROR),
        (Fault(delay_s=1.2), ErrorCode.TIMEOUT),
        (Fault(cut_bytes=3), ErrorCode.SERVER_ERROR),
    ],
)
def test_every_answer_of_the_store_has_its_code(s3_server: S3Server, s3_reader: ImageReader, fault, code):
    s3_server.fault = lambda request: fault
    assert code_of(s3_reader, "a.jpg") is code


def test_pauses_between_fetches_grow_to_a_bound_and_are_others_for_each_image(
    s3_server: S3Server, s3_reader: ImageReader, monkeypatch: pytest.MonkeyPatch
):
    s3_server.fault = lambda request: Fault(status=503, code="SlowDown")
    pauses: list[float] = []
    monkeypatch.setattr(s3_client, "MAX_RETRIES", 8)
    monkeypatch.setattr(time, "sleep", pauses.append)
    for _ in range(2):
        assert code_of(s3_reader, "a.jpg") is ErrorCode.SERVER_ERROR
    assert len(pauses) == 16
    for waited in (pauses[:8], pauses[8:]):
        assert waited[:6] == sorted(waited[:6])
        assert waited[5] > 10 * waited[0]
        assert max(waited) <= s3_images.MAX_BACKOFF_S
    assert all(one != another for one, another in zip(pauses[:8], pauses[8:], strict=True))


def test_a_cut_body_is_fetched_again_and_whole(s3_server: S3Server, s3_reader: ImageReader):
    s3_server.fault = lambda request: Fault(cut_bytes=3) if request.number == 1 else None
    assert s3_reader.read("a.jpg") == b"image a"


def test_one_bad_answer_is_retried_by_the_client(s3_server: S3Server, s3_reader: ImageReader):
    s3_server.fault = lambda request: Fault(status=503, code="SlowDown") if request.number == 1 else None
    assert s3_reader.read("a.jpg") == b"image a"


def test_an_endpoint_nobody_answers_is_systemic(s3_server: S3Server, impatient: None):
    options = StoreOptions(endpoint="http://127.0.0.1:9")
    code = code_of(ImageReader(UriPolicy("s3://photos/x"), options, MAX_BYTES), "a.jpg")
    assert code is ErrorCode.ENDPOINT_UNREACHABLE
    assert CODES[code].systemic


def test_a_key_cannot_pose_as_another_answer(s3_server: S3Server, s3_reader: ImageReader):
    key = "status: 403, <Code>ExpiredToken</Code> Server returned non-2xx status code: 403"
    assert code_of(s3_reader, key) is ErrorCode.NOT_FOUND


def test_a_bucket_is_read_with_more_at_once_than_a_disk(archive: Path, s3_reader: ImageReader):
    assert s3_reader.concurrency() > reader_of(archive).concurrency() >= 1
