"""From what the user named to a Manifest."""

from __future__ import annotations

import hashlib
import pickle
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.parquet import encryption

from batchrec.errors import AccessError, ManifestError


def test_a_manifest_knows_its_files_rows_and_root(write, opened):
    path = write({"uri": ["a.jpg", None, "c.jpg"]})
    manifest = opened(path)
    (file,) = manifest.files
    raw = path.read_bytes()
    footer = raw[-8 - int.from_bytes(raw[-8:-4], "little") :]
    assert (file.name, file.size, file.num_rows) == ("m.parquet", len(raw), 3)
    assert file.footer_sha256 == hashlib.sha256(footer).hexdigest()
    assert (manifest.root, manifest.num_rows) == (str(path.parent), 3)
    assert manifest.columns.uri == ("uri",)


def test_a_manifest_is_small_when_pickled_and_the_same_afterwards(write, opened):
    manifest = opened(write({"uri": ["a.jpg"] * 10_000, "sku": list(range(10_000))}), passthrough=("sku",))
    data = pickle.dumps(manifest)
    assert len(data) < 2_000
    assert pickle.loads(data) == manifest


def test_files_of_a_folder_come_in_order_with_names_inside_it(write, opened, tmp_path):
    for name in ("lists/b.parquet", "lists/a.parquet"):
        write({"uri": [f"{name}.jpg"]}, name)
    for source in (tmp_path / "lists", f"{tmp_path}/lists/*.parquet", f"{tmp_path}/lists/"):
        manifest = opened(source)
        assert [file.name for file in manifest.files] == ["a.parquet", "b.parquet"]
        assert manifest.root == str(tmp_path / "lists")


def test_moving_a_manifest_changes_neither_names_nor_digests(write, opened, tmp_path):
    write({"uri": ["a"]}, "here/a.parquet")
    write({"uri": ["b"]}, "here/b.parquet")
    before = opened(tmp_path / "here")
    shutil.move(tmp_path / "here", tmp_path / "there")
    after = opened(tmp_path / "there")
    assert [(f.name, f.size, f.footer_sha256) for f in before.files] == [
        (f.name, f.size, f.footer_sha256) for f in after.files
    ]


def test_several_files_of_one_folder_keep_the_order_given(write, opened, tmp_path):
    one, two = write({"uri": ["1"]}, "1.parquet"), write({"uri": ["2"]}, "2.parquet")
    assert [file.name for file in opened(two, one).files] == ["2.parquet", "1.parquet"]


def test_files_of_several_folders_are_refused_because_relative_uris_would_be_ambiguous(write, opened):
    with pytest.raises(ManifestError, match=r"different folders.*quoted glob"):
        opened(write({"uri": ["1"]}, "x/1.parquet"), write({"uri": ["2"]}, "y/2.parquet"))


def test_a_file_named_twice_is_refused(write, opened):
    path = write({"uri": ["1"]})
    with pytest.raises(ManifestError, match="named twice"):
        opened(path, path)


def test_nothing_there_is_refused(tmp_path, opened):
    (tmp_path / "empty").mkdir()
    for source in ("absent.parquet", "empty", "*.parquet"):
        with pytest.raises(ManifestError):
            opened(tmp_path / source)


@pytest.mark.parametrize(
    ("content", "looks_like"),
    [
        (b"", "0 bytes"),
        (b"uri,label\na.jpg,1\n", "CSV, first line"),
        (b"\xef\xbb\xbfuri;label\na.jpg;1\n", "semicolons"),
        (b"uri\tlabel\n", "TSV"),
        (b'{"uri": "a.jpg"}\n{"uri": "b.jpg"}\n', "JSONL"),
        (b'[\n {"uri": "a.jpg"}\n]', "JSON"),
        (b"<!DOCTYPE html><html>", "HTML or XML"),
        (b"a.jpg\nb.jpg\n", "text, first line 'a.jpg'"),
        (b"   \n ", "blank text"),
        (b"\x1f\x8b\x08rest of it", "gzip"),
        (b"PK\x03\x04rest of it all", "ZIP"),
        (b"ORC and the rest", "ORC"),
        (b"ARROW1\0\0 and the rest", "Arrow IPC"),
        (b"\xff\xd8\xff\xe0 and the rest", "JPEG"),
        (b"\x00\x9f\x92\x96" * 9, "binary data"),
        ("Ü,ß\n".encode() + "é".encode() * 4096, "CSV"),
        (b"PAR1" + b"x" * 50 + b"PARE", "magic PARE"),
        (b"PAR1" + b"x" * 50, "end without a footer"),
        (b"PAR1" + b"\xff\xff\xff\x7fPAR1", "claims"),
        (b"PAR1" + b"x" * 50 + b"\x20\0\0\0PAR1", "footer"),
        (b"PAR1", "end without a footer"),
    ],
)
def test_what_is_not_parquet_is_named_for_what_it_is(content, looks_like, tmp_path, opened):
    path = tmp_path / "m.parquet"
    path.write_bytes(content)
    with pytest.raises(ManifestError) as refused:
        opened(path)
    assert looks_like in str(refused.value)
    assert str(path) in str(refused.value)
    assert refused.value.advice


class Plain(encryption.KmsClient):
    """Keeps keys as they are."""

    def __init__(self, _: object) -> None:
        super().__init__()

    def wrap_key(self, key, master):
        return key

    def unwrap_key(self, key, master):
        return key


@pytest.mark.parametrize("plain_footer", [False, True])
def test_an_encrypted_manifest_is_refused_also_where_only_its_columns_are(plain_footer, tmp_path, opened):
    keys = encryption.EncryptionConfiguration(
        footer_key="f" * 16, column_keys={"c" * 16: ["uri"]}, plaintext_footer=plain_footer
    )
    properties = encryption.CryptoFactory(Plain).file_encryption_properties(encryption.KmsConnectionConfig(), keys)
    table = pa.table({"uri": ["a.jpg"]})
    path = tmp_path / "m.parquet"
    with pq.ParquetWriter(path, table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)
    with pytest.raises(ManifestError, match="is encrypted Parquet"):
        opened(path)


def test_a_truncated_manifest_is_refused(write, opened):
    path = write({"uri": ["a.jpg"] * 100})
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ManifestError, match="cut off"):
        opened(path)


def test_no_rows_at_all_is_refused_but_an_empty_file_among_others_is_not(write, opened, tmp_path):
    empty = write({"uri": pa.array([], pa.string())}, "lists/a.parquet")
    with pytest.raises(ManifestError, match="no rows"):
        opened(empty)
    write({"uri": ["1"]}, "lists/b.parquet")
    assert [file.num_rows for file in opened(tmp_path / "lists").files] == [0, 1]


def test_files_whose_columns_differ_are_refused_naming_the_first(write, opened, tmp_path):
    write({"uri": ["1"], "sku": [1]}, "lists/a.parquet")
    write({"uri": ["1"], "sku": [2]}, "lists/b.parquet")
    write({"uri": ["1"], "sku": ["x"]}, "lists/c.parquet")
    write({"uri": ["1"]}, "lists/d.parquet")
    with pytest.raises(ManifestError, match=r"'sku' is int64 in a.parquet but is string in c.parquet"):
        opened(tmp_path / "lists", passthrough=("sku",))
    assert opened(tmp_path / "lists").num_rows == 4


def test_a_column_missing_from_a_later_file_is_refused(write, opened, tmp_path):
    write({"uri": ["1"], "sku": [1]}, "lists/a.parquet")
    write({"uri": ["1"]}, "lists/b.parquet")
    with pytest.raises(ManifestError, match=r"'sku' is int64 in a.parquet but is missing in b.parquet"):
        opened(tmp_path / "lists", passthrough=("sku",))


def test_files_may_store_text_in_different_ways(write, opened, tmp_path):
    write({"uri": ["1"], "id": pa.array([7], pa.int32())}, "lists/a.parquet")
    write({"uri": pa.array(["2"]).dictionary_encode(), "id": pa.array([8], pa.int64())}, "lists/b.parquet")
    write({"uri": pa.array(["3"], pa.large_string()), "id": [9]}, "lists/c.parquet")
    assert opened(tmp_path / "lists").num_rows == 3


def test_a_manifest_without_permission_is_refused(write, opened, monkeypatch):
    from batchrec.manifest import footers

    def denied(uri, options):
        raise AccessError(f"no permission to read {uri}")

    monkeypatch.setattr(footers, "open_input", denied)
    with pytest.raises(AccessError, match="no permission"):
        opened(write({"uri": ["1"]}))
