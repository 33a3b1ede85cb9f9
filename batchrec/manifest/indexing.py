"""From tar archives to a manifest of the images inside them: headers are read once, here, and by no worker."""

from __future__ import annotations

import io
import os
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePosixPath
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from batchrec.errors import ImageError, ManifestError, OutputError
from batchrec.spec import StoreOptions
from batchrec.storage import Store, UriPolicy, list_inputs, local_path, open_input, open_store, stands
from batchrec.storage.places import HEADER_BYTES, member_uri
from batchrec.storage.policy import CONTROL
from batchrec.storage.publishing import is_s3
from batchrec.storage.sweeping import leaving_no_folder
from batchrec.storage.uploading import create_whole

#: Members with other names are left out.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff")
#: What is written is held in memory until it is whole.
MAX_BYTES = 256 * 2**20
_SCHEMA = pa.schema([pa.field("uri", pa.string(), nullable=False), pa.field("image_id", pa.string(), nullable=False)])
_ROWS_PER_GROUP = 65_536
# Most of the time goes by waiting for a header of an archive in a bucket.
_THREADS = 32
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")
_LOOKED_THROUGH_BYTES = 2**20
# Of a broken extended header, beside tarfile's own.
_FAULTS = (tarfile.TarError, ValueError, OverflowError, RecursionError)


@dataclass(frozen=True, slots=True)
class Indexed:
    """What was listed.

    Attributes:
        manifest: The file that was written.
        num_archives: Archives that were read.
        num_images: Rows of the manifest.
        num_left_out: Other files in the archives: no images by their names, symbolic links, or sparse.
    """

    manifest: str
    num_archives: int
    num_images: int
    num_left_out: int


@dataclass(slots=True)
class _Listed:
    """What one archive holds: URIs and names of its images."""

    uris: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    num_left_out: int = 0


def index_archives(
    sources: Sequence[str],
    target: str,
    options: StoreOptions,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Indexed:
    """List the images inside tar archives in a new manifest, whose URIs say where in them they lie.

    Args:
        sources: Archives, folders of ``*.tar``, or globs; local or ``s3://``.
        target: The manifest, which ends in ``.parquet``; archives in its folder are named relative to it.
        options: How to reach buckets.
        progress: Told how many archives of how many are read.

    Raises:
        ManifestError: An archive cannot be read, is compressed or damaged, or none holds an image.
        OutputError: The target stands already, or the list is too long for one file.
        AccessError: An archive may not be read, or the target not be written.
        StorageLost: The store went away or is full.
    """
    folder, name = _target(target)
    store = open_store(folder, options)
    _refuse_standing(store, name)
    root = folder if is_s3(folder) else os.path.abspath(folder)  # noqa: PTH100 - keeps links
    archives = _archives(sources, root, options)
    writing, num_left_out = _Writing(), 0
    with ThreadPoolExecutor(min(_THREADS, len(archives)), thread_name_prefix="index") as threads:
        for done, listed in enumerate(threads.map(partial(_list, root=root, options=options), archives), 1):
            writing.add(listed)
            num_left_out += listed.num_left_out
            progress(done, len(archives))
    if not writing.num_images:
        raise ManifestError(
            "the archives hold no images",
            found=f"{num_left_out:,} files in {len(archives):,} archives, none named {', '.join(IMAGE_SUFFIXES)}",
            advice="rename the members, or name other archives",
        )
    with leaving_no_folder(store):
        _refuse_standing(store, name)  # listing may have taken long
        create_whole(store, name, writing.close(), options)
    return Indexed(target, len(archives), writing.num_images, num_left_out)


def _target(target: str) -> tuple[str, str]:
    """Return folder and name of the manifest."""
    target = target if is_s3(target) else local_path(target)
    folder, _, name = target.rpartition("/")
    if not name.endswith(".parquet"):
        raise OutputError("a manifest's name ends in .parquet", found=target, advice="for example -o members.parquet")
    if is_s3(target) and not is_s3(folder):
        raise OutputError("the manifest's URL names no bucket", found=target, advice="write s3://BUCKET/NAME.parquet")
    return folder or ("/" if target.startswith("/") else "."), name


def _refuse_standing(store: Store, name: str) -> None:
    if stands(store, name):
        raise OutputError(f"{store.url}/{name} is there already", advice="name a new file, or remove that one")


def _archives(sources: Sequence[str], root: str, options: StoreOptions) -> list[str]:
    found = [file.uri for source in sources for file in list_inputs(source, options, ".tar")]
    if odd := next((uri for uri in found if not uri.endswith(".tar")), None):
        raise ManifestError("an archive is not named .tar", found=odd, advice="rename it: URIs of members need that")
    if len(set(found)) < len(found):
        twice = next(uri for uri, count in Counter(found).items() if count > 1)
        raise ManifestError("an archive is named twice", found=twice, advice="name each once")
    for uri in found:
        _check_name(uri, root)
    return found


def _check_name(archive: str, root: str) -> None:
    """Refuse an archive whose members no URI can name: every row would fail."""
    place = archive.rpartition("/")[0] or "/"
    bucket = archive.split("/")[2:3] if is_s3(archive) else []
    policy = UriPolicy(root, () if bucket else (place,), tuple(bucket))
    try:
        policy.resolve(member_uri(_named(archive, root), HEADER_BYTES, 1, b"", "x"))
    except ImageError as error:
        raise ManifestError(
            "an archive has a name that no URI can have",
            found=f"{archive.encode(errors='replace').decode()}: {error.detail}",
            advice="rename it or its folders",
        ) from error


def _named(archive: str, root: str) -> str:
    return archive.removeprefix(f"{root.rstrip('/')}/")


def _list(uri: str, *, root: str, options: StoreOptions) -> _Listed:
    """List one archive, to its very end."""
    listed, named = _Listed(), _named(uri, root)
    with open_input(uri, options) as stream:
        size = stream.seek(0, io.SEEK_END)
        stream.seek(0)
        try:
            with tarfile.open(fileobj=stream, mode="r:", encoding="utf-8", errors="surrogateescape") as archive:
                for member, place in _members(archive, size):
                    is_image = PurePosixPath(member.name).suffix.lower() in IMAGE_SUFFIXES
                    if place is None or not is_image or PurePosixPath(member.name).name.startswith("._"):
                        listed.num_left_out += 1
                        continue
                    offset, num_bytes = place
                    stream.seek(offset - HEADER_BYTES)
                    name = _plain(member.name)
                    listed.uris.append(member_uri(named, offset, num_bytes, stream.read(HEADER_BYTES), name))
                    listed.names.append(name)
                _check_end(stream, archive.offset)
        except _FAULTS as error:
            raise _unreadable(uri, size, stream, error) from error
    return listed


def _members(archive: tarfile.TarFile, size: int) -> Iterator[tuple[tarfile.TarInfo, tuple[int, int] | None]]:
    """Yield each file with the place of its bytes; None where there are none in one piece."""
    places: dict[str, tuple[int, int]] = {}
    while (member := archive.next()) is not None:
        archive.members = []  # type: ignore[attr-defined]  # it would keep them all
        if member.size < 0:
            raise tarfile.ReadError(f"{_plain(member.name)} has a negative size")
        if member.issparse() or member.issym():
            yield member, None
        elif member.islnk():
            yield member, places.get(member.linkname)  # another name of a file that came before
        elif member.isreg():
            if member.offset_data + member.size > size:
                raise tarfile.ReadError(f"it ends inside {_plain(member.name)}")
            places[member.name] = member.offset_data, member.size
            yield member, places[member.name]


def _check_end(stream: BinaryIO, offset: int) -> None:
    """Refuse an archive that does not end where its members do: tarfile would leave out what follows, silently."""
    stream.seek(offset)
    mark = stream.read(HEADER_BYTES)
    if len(mark) < HEADER_BYTES:
        raise tarfile.ReadError(f"it ends at byte {offset:,} without an end mark")
    if mark.strip(b"\0"):
        raise tarfile.ReadError(f"no header of a member at byte {offset:,}")
    while rest := stream.read(_LOOKED_THROUGH_BYTES):
        if rest.strip(b"\0"):
            raise tarfile.ReadError(f"it goes on behind its end mark at byte {offset:,}, as if others were appended")


def _unreadable(uri: str, size: int, stream: BinaryIO, error: Exception) -> ManifestError:
    stream.seek(0)
    if stream.read(8).startswith(_COMPRESSED):
        advice = "unpack it (gunzip, zstd -d, ...): members of a compressed archive cannot be read one by one"
        return ManifestError(f"{uri} is a compressed archive", found="its first bytes", advice=advice)
    return ManifestError(
        f"{uri} is not a whole tar archive", found=f"{size:,} bytes; {error}", advice="copy or write it again"
    )


class _Writing:
    """A manifest that is written in memory, in row groups of many archives."""

    def __init__(self) -> None:
        self._sink = io.BytesIO()
        self._writer = pq.ParquetWriter(self._sink, _SCHEMA, compression="zstd")
        self._uris: list[str] = []
        self._names: list[str] = []
        self.num_images = 0

    def add(self, listed: _Listed) -> None:
        """Add the images of one archive."""
        self._uris += listed.uris
        self._names += listed.names
        self.num_images += len(listed.uris)
        if len(self._uris) >= _ROWS_PER_GROUP:
            self._flush()

    def close(self) -> bytes:
        """Return the whole manifest."""
        self._flush()
        self._writer.close()
        return self._sink.getvalue()

    def _flush(self) -> None:
        rows = pa.table([pa.array(self._uris, pa.string()), pa.array(self._names, pa.string())], schema=_SCHEMA)
        self._writer.write_table(rows, row_group_size=_ROWS_PER_GROUP)
        self._uris, self._names = [], []
        if self._sink.tell() > MAX_BYTES:
            raise OutputError(
                f"the list does not fit into one manifest of {MAX_BYTES / 2**20:.0f} MiB",
                found=f"more than {self.num_images:,} images",
                advice="index fewer archives at a time: a folder of manifests is one manifest",
            )


def _plain(name: str) -> str:
    """Return a member's name as it can stand in a URI, which it is not looked for by."""
    text = name.encode(errors="surrogateescape").decode(errors="replace")
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
