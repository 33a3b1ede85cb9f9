"""From tar archives to manifests whose URIs lead into them."""

from __future__ import annotations

import gzip
import io
import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrec.errors import ManifestError, OutputError
from batchrec.manifest import indexing
from batchrec.manifest.indexing import index_archives
from batchrec.spec import StoreOptions
from batchrec.storage import ImageReader, UriPolicy
from tests.s3_server import S3Server
from tests.storage.test_members import tar_of

Cli = Callable[..., tuple[int, str, str]]
OPTIONS = StoreOptions()
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def rows_of(manifest: Path) -> list[tuple[str, str]]:
    table = pq.read_table(manifest)
    return list(zip(table["uri"].to_pylist(), table["image_id"].to_pylist(), strict=True))


def plain_rows_of(manifest: Path) -> list[tuple[str, str]]:
    """Return the rows with URIs without the checksums of headers."""
    return [(re.sub("~[0-9a-f]{8}/", "/", uri), name) for uri, name in rows_of(manifest)]


def read_back(manifest: Path) -> list[tuple[str, bytes | None]]:
    """Read every image a manifest lists, as a worker does."""
    rows = rows_of(manifest)
    reader = ImageReader(UriPolicy(str(manifest.parent)), OPTIONS, 2**20)
    members = reader.members([uri for uri, _ in rows])
    assert members is not None
    return [(name, members.read(row, lambda *_: True)) for row, (_, name) in enumerate(rows)]


def test_every_image_of_every_archive_is_listed_once_in_order(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.tar").write_bytes(tar_of({"1.jpg": b"one", "deep/2.PNG": b"two"}))
    (tmp_path / "sub/b.tar").write_bytes(tar_of({"3.webp": b"three"}))
    found = index_archives([str(tmp_path)], str(tmp_path / "m.parquet"), OPTIONS)
    assert plain_rows_of(tmp_path / "m.parquet") == [
        ("a.tar#512+3/1.jpg", "1.jpg"),
        ("a.tar#1536+3/deep/2.PNG", "deep/2.PNG"),
        ("sub/b.tar#512+5/3.webp", "3.webp"),
    ]
    assert (found.num_archives, found.num_images, found.num_left_out) == (2, 3, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "m.parquet", "sub"]


names = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0/"), min_size=1, max_size=150)


@given(st.dictionaries(names.map("{}.jpg".format), st.binary(min_size=1, max_size=2000), min_size=1, max_size=6),
       st.sampled_from(["gnu", "pax"]))  # fmt: skip
def test_whatever_the_members_are_called_and_however_long_they_are_their_uris_lead_to_them(
    tmp_path_factory: pytest.TempPathFactory, images: dict[str, bytes], kind: str
) -> None:
    folder = tmp_path_factory.mktemp("archives")
    (folder / "a.tar").write_bytes(tar_of(images, kind=FORMATS[kind]))
    index_archives([str(folder / "a.tar")], str(folder / "m.parquet"), OPTIONS)
    assert [data for _, data in read_back(folder / "m.parquet")] == list(images.values())


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_no_image_is_left_out_and_a_hard_link_is_another_name(tmp_path: Path, kind: str) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=FORMATS[kind]) as archive:
        for name, data in (("labels.json", b"{}"), ("d/1.jpg", b"one"), ("d/._1.jpg", b"of a Mac")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for name, type_ in (("d", tarfile.DIRTYPE), ("2.jpg", tarfile.SYMTYPE), ("3.jpg", tarfile.LNKTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = type_, "d/1.jpg"
            archive.addfile(member)
    found = index_archives([str(tmp_path / "a.tar")], str(tmp_path / "m.parquet"), OPTIONS)
    assert (found.num_images, found.num_left_out) == (2, 3)
    reader = ImageReader(UriPolicy(str(tmp_path)), OPTIONS, 2**20)
    read = [(name, reader.read(uri)) for uri, name in rows_of(tmp_path / "m.parquet")]
    assert read == [("d/1.jpg", b"one"), ("3.jpg", b"one")]


def test_a_sparse_member_at_the_end_is_left_out(tmp_path: Path) -> None:
    if shutil.which("tar") is None:
        pytest.skip("no tar here")
    (tmp_path / "1.jpg").write_bytes(b"one")
    with (tmp_path / "2.jpg").open("wb") as file:
        file.truncate(3 * 2**20)
    subprocess.run(["tar", "--sparse", "-cf", "a.tar", "1.jpg", "2.jpg"], cwd=tmp_path, check=True)
    found = index_archives([str(tmp_path / "a.tar")], str(tmp_path / "m.parquet"), OPTIONS)
    assert (found.num_images, found.num_left_out) == (1, 1)


def test_archives_elsewhere_are_named_by_their_whole_paths(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.tar").write_bytes(tar_of({"1.jpg": b"one"}))
    index_archives([str(tmp_path / "in/*.tar")], str(tmp_path / "out/m.parquet"), OPTIONS)
    assert plain_rows_of(tmp_path / "out/m.parquet") == [(f"{tmp_path}/in/a.tar#512+3/1.jpg", "1.jpg")]


def test_archives_in_a_bucket_are_listed_into_the_bucket(s3_server: S3Server) -> None:
    s3_server.put("photos", "in/a.tar", tar_of({f"{number}.jpg": bytes(100_000) for number in range(9)}))
    s3_server.put("photos", "in/b.tar", tar_of({"1.jpg": b"one"}))
    found = index_archives(["s3://photos/in/"], "s3://photos/in/m.parquet", OPTIONS)
    assert (found.num_archives, found.num_images) == (2, 10)
    assert "in/m.parquet" in s3_server.keys("photos")
    reader = ImageReader(UriPolicy("s3://photos/in"), OPTIONS, 2**20)
    rows = pq.read_table(pa.BufferReader(s3_server.get("photos", "in/m.parquet")), use_threads=False)
    assert reader.read(rows["uri"].to_pylist()[-1]) == b"one"


WHOLE = tar_of({"1.jpg": bytes(5000), "2.jpg": b"two"})
SECOND = 512 + 5120  # where its header begins


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (gzip.compress(WHOLE), r"is a compressed archive.*unpack it"),
        (b"\xff\xd8\xff" * 300, r"is not a whole tar archive.*900 bytes"),
        (b"", r"is not a whole tar archive.*0 bytes"),
        (WHOLE[:3000], r"it ends inside 1\.jpg"),
        (WHOLE[: SECOND + 100], r"it ends at byte 5,632 without an end mark"),
        (WHOLE[:SECOND], r"it ends at byte 5,632 without an end mark"),
        (WHOLE[:SECOND] + b"?" * 512 + WHOLE[SECOND + 512 :], r"no header of a member at byte 5,632"),
        (WHOLE + WHOLE, r"it goes on behind its end mark at byte 6,656"),
        (tar_of({"1.txt": b"text"}), r"hold no images.*1 files in 1 archives"),
    ],
    ids=["gzip", "a jpeg", "nothing", "in a member", "in a header", "between two", "damaged", "appended", "no image"],
)
def test_archives_that_cannot_be_listed_are_refused_and_nothing_is_written(
    tmp_path: Path, data: bytes, match: str
) -> None:
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(ManifestError, match=match):
        index_archives([str(tmp_path / "a.tar")], str(tmp_path / "m.parquet"), OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


def test_sources_and_targets_that_cannot_be_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_of({"1.jpg": b"one"}))
    (tmp_path / "b.tar.part").write_bytes(tar_of({"1.jpg": b"one"}))
    archive, target = str(tmp_path / "a.tar"), str(tmp_path / "m.parquet")
    with pytest.raises(ManifestError, match=r"no archive at .*\*\.tar below it"):
        index_archives([str(tmp_path / "c.tar")], target, OPTIONS)
    with pytest.raises(ManifestError, match="not named"):
        index_archives([str(tmp_path / "b.tar.part")], target, OPTIONS)
    with pytest.raises(ManifestError, match="named twice"):
        index_archives([archive, str(tmp_path)], target, OPTIONS)
    with pytest.raises(OutputError, match=r"ends in \.parquet"):
        index_archives([archive], str(tmp_path / "m.csv"), OPTIONS)
    (tmp_path / "a::b").mkdir()
    (tmp_path / "a::b/c.tar").write_bytes(tar_of({"1.jpg": b"one"}))
    with pytest.raises(ManifestError, match="a name that no URI can have"):
        index_archives([str(tmp_path / "a::b/c.tar")], target, OPTIONS)
    with pytest.raises(OutputError, match="names no bucket"):
        index_archives([archive], "s3://m.parquet", OPTIONS)
    index_archives([archive], target, OPTIONS)
    with pytest.raises(OutputError, match="is there already"):
        index_archives([archive], target, OPTIONS)


def test_a_list_too_long_for_one_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexing, "MAX_BYTES", 10)
    (tmp_path / "a.tar").write_bytes(tar_of({"1.jpg": b"one"}))
    with pytest.raises(OutputError, match=r"does not fit into one manifest.*more than 1 images"):
        index_archives([str(tmp_path)], str(tmp_path / "m.parquet"), OPTIONS)


def test_the_command_says_what_it_listed(tmp_path: Path, run_cli: Cli) -> None:
    (tmp_path / "a.tar").write_bytes(tar_of({"1.jpg": b"one", "notes.txt": b""}))
    code, out, err = run_cli("index", tmp_path / "a.tar", "-o", tmp_path / "m.parquet")
    assert (code, out) == (0, f"1 images in 1 archives; 1 other files left out, manifest {tmp_path}/m.parquet\n"), err
    code, out, _ = run_cli("index", tmp_path / "a.tar", "-o", tmp_path / "n.parquet", "--json")
    assert (code, json.loads(out)["num_images"]) == (0, 1)
    code, out, err = run_cli("index", tmp_path / "none.tar", "-o", tmp_path / "o.parquet")
    assert (code, out) == (3, "")
    assert err.startswith("batchrec: no archive at ")
