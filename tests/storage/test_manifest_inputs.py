"""Finding the files of a manifest on disk and in a bucket."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from batchrec.errors import AccessError, ManifestError, StorageLost, UsageError
from batchrec.spec import StoreOptions
from batchrec.storage import list_inputs, open_input
from tests.s3_server import Fault, S3Server

OPTIONS = StoreOptions()
FILES = {
    "m/b.parquet": b"bb",
    "m/a.parquet": b"a",
    "m/a b#c%20?.parquet": b"odd",
    "m/notes.txt": b"text",
    "m/_hidden.parquet": b"-",
    "m/.hidden.parquet": b"-",
    "m/_temporary/x.parquet": b"-",
    "m/day=1/c.parquet": b"ccc",
    "m/m.parquet.batchrec/predictions/job=1/part-00000000.parquet": b"-",
    "m/m.parquet.batchrec/errors/job=1/errors.parquet": b"-",
    "m/m.parquet.batchrec/_batchrec/1/plan.parquet": b"-",
    "m/predictions/mine.parquet": b"user's own",
    "mm.parquet": b"other",
}
IN_FOLDER = {"m/b.parquet", "m/a.parquet", "m/a b#c%20?.parquet", "m/day=1/c.parquet", "m/predictions/mine.parquet"}


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest) -> str:
    """Where FILES lie: a folder, or a bucket."""
    if request.param == "s3":
        server = request.getfixturevalue("s3_server")
        request.getfixturevalue("impatient")
        for key, data in FILES.items():
            server.put("photos", key, data)
        return "s3://photos"
    folder = request.getfixturevalue("weird_tmp_path")
    for key, data in FILES.items():
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return str(folder)


def names(root: str, source: str) -> list[str]:
    return [file.uri.removeprefix(f"{root}/") for file in list_inputs(source, OPTIONS)]


def test_one_file_is_itself_whatever_its_name(root: str):
    assert names(root, f"{root}/m/a.parquet") == ["m/a.parquet"]
    assert names(root, f"{root}/m/a b#c%20?.parquet") == ["m/a b#c%20?.parquet"]
    assert names(root, f"{root}/m/notes.txt") == ["m/notes.txt"]
    assert [file.size for file in list_inputs(f"{root}/m/b.parquet", OPTIONS)] == [2]


@pytest.mark.parametrize("end", ["", "/"])
def test_a_folder_is_its_parquet_files_without_hidden_ones_and_outputs(root: str, end: str):
    assert names(root, f"{root}/m{end}") == sorted(IN_FOLDER)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("m/[ab].parquet", ["m/a.parquet", "m/b.parquet"]),
        ("m/?.parquet", ["m/a.parquet", "m/b.parquet"]),
        ("m/[!b].parquet", ["m/a.parquet"]),
        ("m/*/c.parquet", ["m/day=1/c.parquet"]),
        ("m/**/c.parquet", ["m/day=1/c.parquet"]),
        ("*.parquet", ["mm.parquet"]),
    ],
)
def test_a_glob_stays_within_its_folders(root: str, pattern: str, found: list[str]):
    assert names(root, f"{root}/{pattern}") == found


def test_a_deep_glob_passes_outputs_over(root: str):
    found = set(names(root, f"{root}/m/**/*.parquet"))
    assert found >= IN_FOLDER
    assert not any("batchrec" in name for name in found)


@pytest.mark.parametrize("source", ["m/no.parquet", "no", "m/no-*.parquet", "no/"])
def test_nothing_found_says_what_was_looked_for(root: str, source: str):
    with pytest.raises(ManifestError, match="looked for"):
        list_inputs(f"{root}/{source}", OPTIONS)


def test_what_is_listed_opens(root: str):
    for file in list_inputs(f"{root}/m", OPTIONS):
        with open_input(file.uri, OPTIONS) as stream:
            data = stream.read()
            assert (len(data), stream.seek(0)) == (file.size, 0)
            assert data == FILES[file.uri.removeprefix(f"{root}/")]


def test_a_missing_input_is_a_manifest_error(root: str):
    with pytest.raises(ManifestError, match="no manifest"):
        open_input(f"{root}/m/no.parquet", OPTIONS)


def test_a_pipe_is_no_manifest_and_does_not_hang(tmp_path: Path):
    os.mkfifo(tmp_path / "m.parquet")
    for act in (list_inputs, open_input):
        with pytest.raises(ManifestError, match="regular"):
            act(str(tmp_path / "m.parquet"), OPTIONS)


def test_links_that_go_round_do_not_trap_a_folder(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/m.parquet").touch()
    (tmp_path / "a/loop").symlink_to(tmp_path)
    assert len(list_inputs(str(tmp_path), OPTIONS)) == 1


def test_a_file_url_is_decoded(tmp_path: Path):
    path = tmp_path / "a b.parquet"
    path.write_bytes(b"1")
    assert [file.uri for file in list_inputs(path.as_uri(), OPTIONS)] == [str(path)]


def test_a_key_with_an_empty_part_is_refused_rather_than_guessed(s3_server: S3Server):
    s3_server.put("photos", "a/m.parquet", b"1")
    with pytest.raises(ManifestError, match="empty"):
        list_inputs("s3://photos/a//m.parquet", OPTIONS)


def test_a_key_the_client_cannot_list_is_said_and_a_folder_marker_is_no_file(s3_server: S3Server, impatient: None):
    s3_server.put("photos", "m/", b"")
    s3_server.put("photos", "m/a.parquet", b"1")
    assert [file.uri for file in list_inputs("s3://photos/m", OPTIONS)] == ["s3://photos/m/a.parquet"]
    s3_server.put("photos", "m/x//b.parquet", b"1")
    with pytest.raises(AccessError, match="neither list nor read"):
        list_inputs("s3://photos/m", OPTIONS)
    assert list_inputs("s3://photos/m/a.parquet", OPTIONS)[0].size == 1


def test_credentials_in_the_source_are_refused_unrepeated():
    with pytest.raises(UsageError) as refused:
        list_inputs("s3://AKIA:CANARY@photos/m.parquet", OPTIONS)
    assert "CANARY" not in str(refused.value)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [(Fault(status=403, code="AccessDenied"), AccessError), (Fault(status=503), StorageLost)],
)
def test_a_store_that_refuses_or_fails_says_which(s3_server: S3Server, impatient: None, fault, kind):
    s3_server.fault = lambda request: fault
    for act in (list_inputs, open_input):
        with pytest.raises(kind):
            act("s3://photos/m.parquet", OPTIONS)


def test_a_missing_bucket_is_an_access_error(s3_server: S3Server, impatient: None):
    with pytest.raises(AccessError, match="bucket does not exist"):
        list_inputs("s3://nosuchbucket/m.parquet", OPTIONS)
