"""Manifests come from strangers: what their URIs may name, and what they may not."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrec.errors import ErrorCode, ImageError
from batchrec.spec import StoreOptions
from batchrec.storage import ImageReader, LocalFile, S3Object, UriPolicy

MISSING, INVALID, REFUSED = ErrorCode.URI_MISSING, ErrorCode.URI_INVALID, ErrorCode.URI_REFUSED
LOCAL = UriPolicy("/data/shop", ("/mnt/more",), ("partner-photos",))
REMOTE = UriPolicy("s3://shop-archive/2026/06", ("/mnt/more",), ("partner-photos",))
SECRET = "hunter2CANARY"

HOSTILE: list[tuple[object, ErrorCode]] = [
    (None, MISSING),
    ("", MISSING),
    ("   ", MISSING),
    ("\n", MISSING),
    (b"bytes.jpg", INVALID),
    (7, INVALID),
    ("a\0.jpg", INVALID),
    ("/etc/passwd\0.jpg", INVALID),
    ("a\n.jpg", INVALID),
    ("a\r\nHost: evil", INVALID),
    ("a\x1b[2J.jpg", INVALID),
    ("a\x7f.jpg", INVALID),
    ("a\u2028.jpg", INVALID),
    ("\ud800.jpg", INVALID),
    ("x" * 8192, INVALID),
    ("/" + "x/" * 4000, INVALID),
    ("é" * 2048, INVALID),
    ("/etc/passwd", REFUSED),
    ("//etc/passwd", REFUSED),
    ("///etc/passwd", REFUSED),
    ("/data/shop/../../etc/passwd", REFUSED),
    ("/data/shopping/a.jpg", REFUSED),
    ("/data/shop", REFUSED),
    ("/data/./shop/..//secret/a.jpg", REFUSED),
    ("/proc/self/environ", REFUSED),
    ("/dev/zero", REFUSED),
    ("/", REFUSED),
    ("file:///etc/passwd", REFUSED),
    ("FILE:///etc/passwd", REFUSED),
    ("file:/etc/passwd", REFUSED),
    ("file://localhost/etc/passwd", REFUSED),
    ("file:///data/shop/%2e%2e/%2E%2E/etc/passwd", REFUSED),
    ("file:///data/shop/..%2f..%2fetc/passwd", REFUSED),
    ("file://evil.example/share/a.jpg", REFUSED),
    (f"file://user:{SECRET}@host/a.jpg", REFUSED),
    ("file:///data/shop/a%00.jpg", INVALID),
    ("file:///data/shop/a%0a.jpg", INVALID),
    ("file:///data/shop/%ff.jpg", INVALID),
    ("file://", INVALID),
    ("http://169.254.169.254/latest/meta-data/", REFUSED),
    ("https://images.example/a.jpg", REFUSED),
    ("HTTPS://images.example/a.jpg", REFUSED),
    (f"https://user:{SECRET}@images.example/a.jpg?X-Amz-Signature={SECRET}", REFUSED),
    ("http:169.254.169.254/", REFUSED),
    ("ftp://h/a.jpg", REFUSED),
    ("sftp://h/a.jpg", REFUSED),
    ("gs://b/a.jpg", REFUSED),
    ("az://b/a.jpg", REFUSED),
    ("hdfs://n/a.jpg", REFUSED),
    ("github://o:r@/a.jpg", REFUSED),
    ("smb://h/s/a.jpg", REFUSED),
    ("memory://a", REFUSED),
    ("data:image/png;base64,iVBORw0KGgo=", REFUSED),
    ("javascript:alert(1)", REFUSED),
    ("arn:aws:s3:eu-west-1:1:accesspoint/x/object/a.jpg", REFUSED),
    ("simplecache::s3://partner-photos/a.jpg", REFUSED),
    ("filecache::/etc/passwd", REFUSED),
    ("zip://a.jpg::file:///etc/archive.zip", REFUSED),
    ("s3://partner-photos/a::file:///etc/passwd", REFUSED),
    ("a.jpg::file:///etc/passwd", REFUSED),
    ("s3:partner-photos/a.jpg", REFUSED),
    ("s3://other-bucket/a.jpg", REFUSED),
    ("s3a://other-bucket/a.jpg", REFUSED),
    ("S3://OTHER-bucket/a.jpg", REFUSED),
    ("s3://partner-photos.evil/a.jpg", REFUSED),
    (f"s3://AKIA:{SECRET}@partner-photos/a.jpg", INVALID),
    ("s3://partner-photos:9000/a.jpg", INVALID),
    ("s3:///a.jpg", INVALID),
    ("s3://", INVALID),
    ("s3://ab/a.jpg", INVALID),
    ("s3://par tner/a.jpg", INVALID),
    ("s3://partner-photos", INVALID),
    ("s3://partner-photos/", INVALID),
    ("s3://partner-photos//a.jpg", INVALID),
    ("s3://partner-photos/a/", INVALID),
    ("s3://partner-photos/a/../b.jpg", INVALID),
    ("s3://partner-photos/" + "k" * 1025, INVALID),
    ("s3://partner-photos/" + "é" * 513, INVALID),
    ("C:\\photos\\a.jpg", INVALID),
    ("C:/photos/a.jpg", INVALID),
    ("\\\\server\\share\\a.jpg", INVALID),
]

RELATIVE_ESCAPES = ["..", "../a.jpg", "a/../../b.jpg", "./../a.jpg", "a/./../../../etc/passwd"]


@pytest.mark.parametrize("policy", [LOCAL, REMOTE], ids=["local", "s3"])
@pytest.mark.parametrize(("uri", "code"), HOSTILE, ids=[repr(uri)[:40] for uri, _ in HOSTILE])
def test_a_hostile_uri_gets_its_code_and_is_not_repeated(policy: UriPolicy, uri, code: ErrorCode):
    with pytest.raises(ImageError) as refused:
        policy.resolve(uri)
    assert refused.value.code is code
    assert len(refused.value.detail) <= 300
    assert SECRET not in str(refused.value)
    assert code is MISSING or refused.value.detail


@pytest.mark.parametrize("policy", [LOCAL, REMOTE], ids=["local", "s3"])
@pytest.mark.parametrize("uri", RELATIVE_ESCAPES)
def test_a_relative_uri_cannot_leave_the_manifests_folder(policy: UriPolicy, uri: str):
    with pytest.raises(ImageError, match="leads out") as refused:
        policy.resolve(uri)
    assert refused.value.code is REFUSED


def test_a_relative_key_with_an_empty_part_is_not_guessed():
    for uri in ("a//b.jpg", "..//a.jpg", "a/"):
        with pytest.raises(ImageError) as refused:
            REMOTE.resolve(uri)
        assert refused.value.code is INVALID


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("a.jpg", "a.jpg"),
        ("./a.jpg", "a.jpg"),
        ("a/../b.jpg", "b.jpg"),
        ("a b.jpg", "a b.jpg"),
        ("a%20b.jpg", "a%20b.jpg"),
        ("a%2e%2e/b.jpg", "a%2e%2e/b.jpg"),
        ("a#b?c=d&e.jpg", "a#b?c=d&e.jpg"),
        ("photo:1.jpg", "photo:1.jpg"),
        ("2026-01-01T10:22.jpg", "2026-01-01T10:22.jpg"),
        ("a/b::c.jpg", "a/b::c.jpg"),
        ("~/a.jpg", "~/a.jpg"),
        ("$HOME/a.jpg", "$HOME/a.jpg"),
        ("😀/é.jpg", "😀/é.jpg"),
        ("..jpg", "..jpg"),
        ("...", "..."),
        ("a\\b.jpg", "a\\b.jpg"),
        ("-rf", "-rf"),
        ("/data/shop/a.jpg", "a.jpg"),
        ("/data/shop/x/../a%20b.jpg", "a%20b.jpg"),
        ("file:///data/shop/a%20b%23c.jpg", "a b#c.jpg"),
        ("file:/data/shop/a.jpg", "a.jpg"),
        ("file://localhost/data/shop/a.jpg", "a.jpg"),
    ],
)
def test_names_inside_the_manifests_folder_are_taken_literally(uri: str, path: str):
    assert LOCAL.resolve(uri) == LocalFile("/data/shop", path)


@pytest.mark.parametrize(
    ("uri", "bucket", "key"),
    [
        ("img/a.jpg", "shop-archive", "2026/06/img/a.jpg"),
        ("./img/../a%20b#c?d.jpg", "shop-archive", "2026/06/a%20b#c?d.jpg"),
        ("s3://shop-archive/elsewhere/a.jpg", "shop-archive", "elsewhere/a.jpg"),
        ("S3A://partner-photos/a%20b+c?versionId=1#x", "partner-photos", "a%20b+c?versionId=1#x"),
        ("s3://partner-photos/" + "k" * 1024, "partner-photos", "k" * 1024),
        ("s3://partner-photos/a::b.jpg", "partner-photos", "a::b.jpg"),
    ],
)
def test_objects_of_allowed_buckets_are_named_literally(uri: str, bucket: str, key: str):
    assert REMOTE.resolve(uri) == S3Object(bucket, key)


def test_an_input_root_admits_its_files_from_either_manifest():
    for policy in (LOCAL, REMOTE):
        assert policy.resolve("/mnt/more/x/a.jpg") == LocalFile("/mnt/more", "x/a.jpg")
    assert UriPolicy("/data", ("/",)).resolve("/etc/hostname") == LocalFile("/", "etc/hostname")


def test_the_refusal_names_the_flag_and_its_value():
    with pytest.raises(ImageError, match="--allow-bucket other-bucket"):
        LOCAL.resolve("s3://other-bucket/a.jpg")
    with pytest.raises(ImageError, match="--input-root /somewhere/else"):
        LOCAL.resolve("/somewhere/else/a.jpg")


def test_a_root_named_through_a_link_admits_its_true_path(tmp_path: Path):
    (tmp_path / "true").mkdir()
    (tmp_path / "link").symlink_to("true")
    policy = UriPolicy(str(tmp_path / "link"))
    assert policy.resolve(str(tmp_path / "true/a.jpg")) == LocalFile(str(tmp_path / "link"), "a.jpg")


def test_a_policy_survives_pickling():
    for policy in (LOCAL, REMOTE):
        assert pickle.loads(pickle.dumps(policy)) == policy
        assert pickle.loads(pickle.dumps(policy)).resolve("a.jpg") == policy.resolve("a.jpg")


@given(st.text() | st.text(alphabet="./:%2eEfF a~\\s3"))
def test_whatever_the_text_it_stays_beneath_or_is_refused(uri: str):
    for policy in (LOCAL, REMOTE):
        try:
            place = policy.resolve(uri)
        except ImageError as refused:
            assert refused.code in (MISSING, INVALID, REFUSED)
            continue
        if isinstance(place, LocalFile):
            inside = os.path.normpath(f"{place.root}/{place.path}")
            assert inside.startswith(place.root + "/")
        else:
            assert place.bucket in ("shop-archive", "partner-photos")
            assert not {"", ".", ".."} & set(place.key.split("/"))


@given(st.text(alphabet="./:%2eEfF a~\\s3"))
def test_the_reader_raises_nothing_but_image_errors(uri: str):
    reader = ImageReader(UriPolicy("/nonexistent-folder"), StoreOptions(), 10)
    with pytest.raises(ImageError):
        reader.read(uri)
