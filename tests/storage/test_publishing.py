"""What every store promises, tried on a disk and over S3."""

from __future__ import annotations

import io
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchrec.errors import OutputError, UsageError
from batchrec.spec import StoreOptions
from batchrec.storage import KeyExists, KeyMissing, Store, create_or_compare, open_store, probe
from tests.s3_server import S3Server

NUM_RIVALS = 8


def never(data: bytes) -> bool:
    return False


def test_an_object_reads_back_whole(store: Store):
    data = bytes(range(256)) * 1000
    store.create("predictions/job=1/part-00000000.parquet", data)
    assert store.read("predictions/job=1/part-00000000.parquet") == data


def test_a_second_create_is_refused_and_changes_nothing(store: Store):
    store.create("a/b", b"first")
    with pytest.raises(KeyExists):
        store.create("a/b", b"second")
    assert store.read("a/b") == b"first"


def test_an_empty_object_is_still_created_once_only(store: Store):
    store.create("_SUCCESS", b"")
    with pytest.raises(KeyExists):
        store.create("_SUCCESS", b"")
    assert store.read("_SUCCESS") == b""
    with store.open("_SUCCESS") as file:
        assert file.read() == b""


def test_overwrite_replaces_whatever_stands(store: Store):
    store.overwrite("beat", b"1")
    store.overwrite("beat", b"2")
    assert store.read("beat") == b"2"


@pytest.mark.parametrize("act", ["read", "info", "open"])
def test_a_missing_key_says_so(store: Store, act: str):
    with pytest.raises(KeyMissing):
        getattr(store, act)("no/such/key")


def test_a_folder_is_no_object(store: Store):
    store.create("a/b", b"1")
    for act in (store.read, store.info, store.open):
        with pytest.raises((KeyMissing, OutputError)):
            act("a")


def test_info_tells_size_and_a_recent_time(store: Store):
    store.create("a", b"12345")
    info = store.info("a")
    assert (info.key, info.size) == ("a", 5)
    assert abs(info.modified - datetime.now(UTC)) < timedelta(seconds=5)


def test_the_etag_changes_with_the_content(store: Store):
    store.overwrite("a", b"1")
    before = store.info("a").etag
    store.overwrite("a", b"22")
    assert before is not None
    assert store.info("a").etag != before


def test_listing_is_recursive_sorted_and_by_string_prefix(store: Store):
    keys = ["p/part-1", "p/part-10", "p/part-2", "p/x/y", "p.txt", "q", "p/part-2é"]
    for key in keys:
        store.create(key, key.encode())
    assert [info.key for info in store.list("")] == sorted(keys)
    assert [info.key for info in store.list("p/part-")] == ["p/part-1", "p/part-10", "p/part-2", "p/part-2é"]
    assert [info.key for info in store.list("p")] == sorted(key for key in keys if key.startswith("p"))
    assert [info.size for info in store.list("q")] == [1]


def test_listing_what_is_not_there_gives_nothing(store: Store):
    assert list(store.list("")) == []
    assert list(store.list("no/such/")) == []


def test_the_top_shows_folders_once_and_files(store: Store):
    assert store.top() == ()
    for key in ("a/b/c", "a/b/d", "b", "a b/e", ".hidden"):
        store.create(key, b"")
    assert [name for name in store.top() if name != "_batchrec/"] == [".hidden", "a b/", "a/", "b"]


def test_the_mark_of_a_folder_in_a_bucket_is_not_in_it(s3_server: S3Server, s3_store: Store):
    s3_server.put("photos", "some/out/", b"")
    s3_server.put("photos", "some/other", b"")
    assert s3_store.top() == ()


def test_the_top_of_a_bucket_costs_one_request(s3_server: S3Server):
    patient = open_store("s3://photos/some/out", StoreOptions())  # one that tries again would count twice
    for number in range(1100):
        s3_server.put("photos", f"some/out/a/{number}", b"")
    assert patient.top() == ("a/",)
    assert len(s3_server.log) == 1


def test_delete_removes_and_may_be_repeated(store: Store):
    store.create("a", b"1")
    store.delete("a")
    store.delete("a")
    with pytest.raises(KeyMissing):
        store.read("a")


def test_keys_with_odd_characters_are_taken_literally(store: Store):
    key = "odd/ a%20b#c?d&e=f+é😀.bin"
    store.create(key, b"1")
    assert [info.key for info in store.list("odd/")] == [key]
    assert store.read(key) == b"1"


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../b", "./a", "a\0b", "a\nb"])
def test_a_key_cannot_leave_the_root(store: Store, key: str):
    for act in (lambda: store.create(key, b""), lambda: store.read(key), lambda: store.delete(key)):
        with pytest.raises(ValueError, match="not a key"):
            act()


def test_parquet_is_read_in_place(store: Store):
    table = pa.table({"row": list(range(60_000)), "text": [f"value {row}" for row in range(60_000)]})
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=10_000, compression="none")
    store.create("part.parquet", sink.getvalue())
    with store.open("part.parquet") as stream, pq.ParquetFile(stream) as file:
        assert file.metadata.num_rows == 60_000
        assert file.read_row_group(3, ["row"])["row"].to_pylist() == list(range(30_000, 40_000))
        assert file.read().equals(table)


def test_the_reader_seeks_like_a_file(store: Store):
    data = bytes(range(256)) * 2000
    store.create("a", data)
    with store.open("a") as file:
        assert file.seek(0, 2) == len(data)
        assert file.read(10) == b""
        for start, length in ((0, 7), (511_000, 1000), (len(data) - 3, 9), (100_000, 300_000)):
            assert file.seek(start) == start
            assert file.read(length) == data[start : start + length]
            assert file.tell() == min(start + length, len(data))


def test_of_eight_threads_exactly_one_creates_each_key(store: Store):
    start = threading.Barrier(NUM_RIVALS)

    def compete(rival: int) -> list[int]:
        won = []
        for number in range(20):
            start.wait()
            try:
                store.create(f"race/{number}", b"%d" % rival * 10_000)
            except KeyExists:
                continue
            won.append(number)
        return won

    with ThreadPoolExecutor(NUM_RIVALS) as threads:
        won = list(threads.map(compete, range(NUM_RIVALS)))
    assert sorted(itertools.chain(*won)) == list(range(20))
    for rival, numbers in enumerate(won):
        for number in numbers:
            assert store.read(f"race/{number}") == b"%d" % rival * 10_000


def test_probing_a_good_store_passes_and_leaves_no_key(store: Store):
    probe(store)
    assert list(store.list("")) == []


def test_create_or_compare_creates_then_recognises_the_same_value(store: Store):
    assert create_or_compare(store, "spec.json", b'{"a": 1}', same=never)
    assert not create_or_compare(store, "spec.json", b'{"a": 1}', same=never)
    assert not create_or_compare(store, "spec.json", b'{"a":1}', same=lambda data: data == b'{"a": 1}')


def test_create_or_compare_refuses_another_value(store: Store):
    store.create("spec.json", b"theirs")
    with pytest.raises(OutputError, match=r"another spec\.json"):
        create_or_compare(store, "spec.json", b"mine", same=never)
    assert store.read("spec.json") == b"theirs"


def test_a_store_opened_by_its_url_is_the_same_store(store: Store):
    store.create("a", b"1")
    again = open_store(store.url, StoreOptions())
    assert again.url == store.url
    assert again.read("a") == b"1"


@pytest.mark.parametrize("url", ["gs://b/x", "http://h/x", "hdfs://n/x", "memory://x"])
def test_other_kinds_of_store_are_refused_with_what_is_supported(url: str):
    with pytest.raises(OutputError, match=r"s3://BUCKET/PREFIX"):
        open_store(url, StoreOptions())


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIACANARY:hunter2@bucket/x",
        "file://hunter2@host/x",
        "s3://",
        "s3://a",
        "s3:/hunter2/x",
        "S3:/",
        "",
        "a\0b",
    ],
)
def test_urls_that_name_nothing_are_refused_without_repeating_them(url: str):
    with pytest.raises(UsageError) as refused:
        open_store(url, StoreOptions())
    assert "hunter2" not in str(refused.value)
    assert "CANARY" not in str(refused.value)
