"""Images inside tar archives, read alone and with their neighbours, from disk and S3."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from batchrec.errors import ErrorCode, ImageError
from batchrec.spec import StoreOptions
from batchrec.storage import ImageReader, UriPolicy
from batchrec.storage.members import GAP_BYTES, SPAN_BYTES
from batchrec.storage.places import HEADER_BYTES, member_uri
from tests.s3_server import Fault, S3Server

MAX_BYTES = 4 * 2**20
SIZES = [100, 511, 512, 513, 70_000, 1, 150_000, 40_000] * 5
IMAGES = {f"{number:03d}.jpg": bytes([number]) * size for number, size in enumerate(SIZES)}


def tar_of(images: dict[str, bytes], *, kind: int = tarfile.GNU_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=kind) as archive:
        for name, data in images.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def uris_of(tar: bytes, archive: str = "a.tar") -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        members = [(member.offset_data, member.size, member.name) for member in opened if member.isreg()]
    return [member_uri(archive, at, size, tar[at - HEADER_BYTES : at], name) for at, size, name in members]


@dataclass
class Place:
    """Where archives lie, and what reads them."""

    reader: ImageReader
    put: Callable[[str, bytes], None]
    server: S3Server | None = None


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest) -> Place:
    """A folder or a bucket."""
    if request.param == "s3":
        server = request.getfixturevalue("s3_server")
        request.getfixturevalue("impatient")
        reader = ImageReader(UriPolicy("s3://photos/in"), StoreOptions(), MAX_BYTES)
        return Place(reader, lambda name, data: server.put("photos", f"in/{name}", data), server)
    folder = request.getfixturevalue("weird_tmp_path")
    reader = ImageReader(UriPolicy(str(folder)), StoreOptions(), MAX_BYTES)
    return Place(reader, lambda name, data: (folder / name).write_bytes(data) and None)


def code_of(read: Callable[[], object]) -> ErrorCode:
    with pytest.raises(ImageError) as error:
        read()
    return error.value.code


def room(num_bytes: int, patience_s: float | None) -> bool:
    return True


def together(reader: ImageReader, uris: list[str], num_threads: int = 16) -> list[bytes]:
    """Read every image as a worker does."""
    members = reader.members(uris)
    assert members is not None

    def read(row: int) -> bytes:
        data = members.read(row, room)
        return reader.read(uris[row]) if data is None else data

    with ThreadPoolExecutor(num_threads) as threads:
        return list(threads.map(read, range(len(uris))))


def test_a_member_is_read_alone_by_the_place_that_its_uri_names(place: Place) -> None:
    tar = tar_of(IMAGES)
    place.put("a.tar", tar)
    assert [place.reader.read(uri) for uri in uris_of(tar)] == list(IMAGES.values())


def test_the_members_of_a_shard_are_read_with_few_requests_and_are_the_same(place: Place) -> None:
    tar = tar_of(IMAGES)
    place.put("a.tar", tar)
    before = len(place.server.log) if place.server else 0
    assert together(place.reader, uris_of(tar)) == list(IMAGES.values())
    if place.server:
        num_requests = len(place.server.log) - before
        assert -(-len(tar) // SPAN_BYTES) <= num_requests <= 2 * len(tar) // SPAN_BYTES + 1 < len(IMAGES)


def test_what_lies_far_apart_in_other_order_or_in_another_archive_is_not_read_along(place: Place) -> None:
    tar = tar_of({"a.jpg": b"a" * 9, "between.bin": bytes(GAP_BYTES + 512), "b.jpg": b"b" * 9, "c.jpg": b"c" * 9})
    uris = [uri for uri in uris_of(tar) if ".jpg" in uri]
    for name in ("a.tar", "b.tar"):
        place.put(name, tar)
    wanted = [uris[2], uris[0], uris[1], uris[1], uris[2].replace("a.tar", "b.tar")]
    before = len(place.server.log) if place.server else 0
    assert together(place.reader, wanted) == [b"c" * 9, b"a" * 9, b"b" * 9, b"b" * 9, b"c" * 9]
    assert not place.server or len(place.server.log) - before == len(wanted)


def test_a_large_member_between_small_ones_comes_whole(place: Place) -> None:
    images = {"a.jpg": b"a" * 9, "b.jpg": os.urandom(2 * SPAN_BYTES), "c.jpg": b"c" * 9}
    tar = tar_of(images)
    place.put("a.tar", tar)
    assert together(place.reader, uris_of(tar)) == list(images.values())


def test_an_archive_written_anew_since_it_was_indexed_gives_errors_and_not_other_images(place: Place) -> None:
    before = {"a.jpg": b"a" * 5000, "b.jpg": b"b" * 5000, "c.jpg": b"c" * 5000, "d.jpg": b"d" * 700}
    uris = uris_of(tar_of(before))
    # One stays, two of one size change places, and nothing is where the last one was.
    place.put("a.tar", tar_of({"a.jpg": b"A" * 5000, "c.jpg": b"c" * 5000, "b.jpg": b"b" * 5000}))
    members = place.reader.members(uris)
    assert members is not None
    assert place.reader.read(uris[0]) == members.read(0, room) == b"A" * 5000
    for row in (1, 2, 3):
        assert code_of(partial(place.reader.read, uris[row])) is ErrorCode.NOT_FOUND
        assert code_of(partial(members.read, row, room)) is ErrorCode.NOT_FOUND


@pytest.mark.parametrize("length", [0, 400, 512, 2000])
def test_an_archive_that_was_cut_off_says_so(place: Place, length: int) -> None:
    tar = tar_of({"a.jpg": b"a" * 5000})
    place.put("a.tar", tar[:length])
    assert code_of(lambda: place.reader.read(uris_of(tar)[0])) is ErrorCode.NOT_FOUND
    assert code_of(lambda: together(place.reader, uris_of(tar))) is ErrorCode.NOT_FOUND


def test_members_meet_the_limits_of_images(place: Place) -> None:
    tar = tar_of({"none.jpg": b"", "large.jpg": bytes(MAX_BYTES + 1), "fits.jpg": b"f"})
    place.put("a.tar", tar)
    none, large, fits = uris_of(tar)
    assert code_of(partial(place.reader.read, none)) is ErrorCode.EMPTY
    assert code_of(partial(place.reader.read, large)) is ErrorCode.TOO_MANY_BYTES
    members = place.reader.members([none, large, fits])
    assert members is not None
    assert [members.read(row, room) for row in range(3)] == [None, None, b"f"]


def test_an_archive_that_is_missing_gives_each_of_its_images_the_code_of_a_missing_image(place: Place) -> None:
    uris = uris_of(tar_of(IMAGES))
    assert code_of(lambda: place.reader.read(uris[0])) is ErrorCode.NOT_FOUND
    assert code_of(lambda: together(place.reader, uris)) is ErrorCode.NOT_FOUND


def test_members_that_could_not_be_read_together_are_read_one_by_one(s3_server: S3Server, impatient: None) -> None:
    tar = tar_of({"a.jpg": b"a" * 900, "b.jpg": b"b" * 900})
    s3_server.put("photos", "in/a.tar", tar)
    reader = ImageReader(UriPolicy("s3://photos/in"), StoreOptions(), MAX_BYTES)
    seen: list[str] = []

    def refuse_the_first(request: object) -> Fault | None:
        seen.append("")
        return Fault(status=403, code="AccessDenied") if len(seen) == 1 else None

    s3_server.fault = refuse_the_first
    assert together(reader, uris_of(tar), num_threads=1) == [b"a" * 900, b"b" * 900]
    assert len(seen) == 3


def test_room_is_held_for_each_image_alone_however_it_is_read(place: Place) -> None:
    tar = tar_of({"a.jpg": b"a" * 900, "b.jpg": b"b" * 700})
    place.put("a.tar", tar)
    uris = uris_of(tar)
    members = place.reader.members(uris)
    assert members is not None
    asked: list[int] = []

    def reserve(num_bytes: int, patience_s: float | None) -> bool:
        asked.append(num_bytes)
        return True

    for row, uri in enumerate(uris):
        members.read(row, reserve)
        place.reader.read(uri, reserve)
    assert asked == [900, 900, 700, 700]


def test_a_read_that_waits_for_a_neighbours_counts_as_one_for_the_pace(
    s3_server: S3Server, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tar = tar_of({f"{number}.jpg": b"x" * 900 for number in range(16)})
    s3_server.put("photos", "in/a.tar", tar)
    s3_server.fault = lambda request: Fault(answer_delay_s=0.3) if request.key.endswith(".tar") else None
    reader = ImageReader(UriPolicy("s3://photos/in"), StoreOptions(), MAX_BYTES)
    noted: list[float] = []
    note = lambda ended_at, seconds, answer_s, *, rejected: noted.append(seconds)  # noqa: E731
    monkeypatch.setattr(reader._pacer, "note", note)
    together(reader, uris_of(tar), num_threads=16)
    assert len(noted) == 16
    assert sum(seconds > 0.1 for seconds in noted) >= 12  # a thread that came late had less to wait


def test_images_of_no_archive_have_no_members(place: Place) -> None:
    assert place.reader.members(["a.jpg", None, "b.tar"]) is None


HOSTILE = [
    ("../a.tar#512+10~00000000/x.jpg", ErrorCode.URI_REFUSED),
    ("/etc/a.tar#512+10~00000000/x.jpg", ErrorCode.URI_REFUSED),
    ("s3://others/a.tar#512+10~00000000/x.jpg", ErrorCode.URI_REFUSED),
    ("http://127.0.0.1/a.tar#512+10~00000000/x.jpg", ErrorCode.URI_REFUSED),
    ("simplecache::s3://photos/a.tar#512+10~00000000/x.jpg", ErrorCode.URI_REFUSED),
    ("a.tar#0+10~00000000/x.jpg", ErrorCode.URI_INVALID),
    ("a.tar#511+10~00000000/x.jpg", ErrorCode.URI_INVALID),
    ("a.tar#512+10~00000000/x\n.jpg", ErrorCode.URI_INVALID),
    ("a.tar#512+0~00000000/x.jpg", ErrorCode.EMPTY),
    ("a.tar#512+999999999999~00000000/x.jpg", ErrorCode.TOO_MANY_BYTES),
    ("a.tar#999999999999999999+10~00000000/x.jpg", ErrorCode.NOT_FOUND),
    ("a.tar#1024+10~00000000/x.jpg", ErrorCode.NOT_FOUND),
    ("a.tar#-512+10~00000000/x.jpg", ErrorCode.NOT_FOUND),
    ("a.tar#\N{ARABIC-INDIC DIGIT FIVE}12+10~00000000/x.jpg", ErrorCode.NOT_FOUND),
    ("a.tar#512+10/x.jpg", ErrorCode.NOT_FOUND),
    ("a.tar#512+10~00000000", ErrorCode.NOT_FOUND),
]


@pytest.mark.parametrize(("uri", "code"), HOSTILE)
def test_uris_of_members_that_lead_elsewhere_are_refused(place: Place, uri: str, code: ErrorCode) -> None:
    place.put("a.tar", tar_of({"a.jpg": b"a" * 5000}))
    assert code_of(lambda: place.reader.read(uri)) is code
    members = place.reader.members([uri])
    if members is not None:
        with pytest.raises(ImageError):
            assert members.read(0, room) is None
            place.reader.read(uri)


def test_a_file_whose_name_is_none_of_a_member_is_read_as_before(weird_tmp_path: Path) -> None:
    (weird_tmp_path / "odd.tar#7").mkdir()
    (weird_tmp_path / "odd.tar#7/a.jpg").write_bytes(b"image")
    reader = ImageReader(UriPolicy(str(weird_tmp_path)), StoreOptions(), MAX_BYTES)
    assert reader.read("odd.tar#7/a.jpg") == b"image"
