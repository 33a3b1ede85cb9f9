"""The end of a Parquet file: its rows and columns without reading its data."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from batchrec.errors import ManifestError
from batchrec.manifest.definition import ManifestFile
from batchrec.spec import StoreOptions
from batchrec.storage.reading import open_input

_MAGIC = b"PAR1"
_ENCRYPTED_MAGIC = b"PARE"
#: Nonce and tag behind the plain footer of a file with encrypted columns.
_SIGNATURE_BYTES = 12 + 16
_TAIL_BYTES = 64 * 1024
_HEAD_BYTES = 4096
_EXPORT = "write it as Parquet, for example: duckdb -c \"COPY (FROM '{uri}') TO 'manifest.parquet'\""

_SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (b"ORC", "an ORC file", "write it as Parquet with the tool that made it"),
    (b"Obj\x01", "an Avro file", "write it as Parquet with the tool that made it"),
    (b"ARROW1", "an Arrow IPC (Feather) file", "write it as Parquet with pyarrow.parquet.write_table"),
    (b"SQLite format 3\0", "an SQLite database", "export the table of images as Parquet"),
    (b"\x1f\x8b", "gzip-compressed data", "unpack it and write it as Parquet"),
    (b"PK\x03\x04", "a ZIP archive or a spreadsheet", "unpack or export it and write it as Parquet"),
    (b"\xff\xd8\xff", "a JPEG image", "give the Parquet file that lists the images"),
    (b"\x89PNG", "a PNG image", "give the Parquet file that lists the images"),
    (b"RIFF", "a WebP image or other RIFF file", "give the Parquet file that lists the images"),
    (b"GIF8", "a GIF image", "give the Parquet file that lists the images"),
)


@dataclass(frozen=True, slots=True)
class Footer:
    """What the end of one Parquet file says.

    Attributes:
        size: Bytes of the whole file.
        sha256: Hex digest of the raw footer.
        metadata: Row groups and columns.
        schema: Columns as Arrow types.
    """

    size: int
    sha256: str
    metadata: pq.FileMetaData
    schema: pa.Schema

    @property
    def num_rows(self) -> int:
        """Rows of the file."""
        return int(self.metadata.num_rows)


def load_footer(uri: str, options: StoreOptions) -> Footer:
    """Read the footer of one Parquet file.

    Raises:
        ManifestError: It is empty, cut off, encrypted, damaged, or not Parquet.
    """
    with open_input(uri, options) as stream:
        return read_footer(stream, uri)


def read_footer(stream: BinaryIO, uri: str) -> Footer:
    """Read the footer of an open Parquet file; the position of the stream is lost.

    Raises:
        ManifestError: It is empty, cut off, encrypted, damaged, or not Parquet.
    """
    size = stream.seek(0, 2)
    tail = _last_bytes(stream, size, _TAIL_BYTES)
    if len(tail) < 12 or tail[-4:] != _MAGIC:
        raise _not_parquet(uri, size, _first_bytes(stream), tail)
    footer_bytes = int.from_bytes(tail[-8:-4], "little") + 8
    if footer_bytes + len(_MAGIC) > size:
        raise _damaged(uri, f"its footer claims {footer_bytes} bytes of a file of {size}")
    footer = tail[-footer_bytes:] if footer_bytes <= len(tail) else _last_bytes(stream, size, footer_bytes)
    try:
        parsed = pq.ParquetFile(pa.BufferReader(_MAGIC + footer))
        schema, metadata = parsed.schema_arrow, parsed.metadata
    except (pa.ArrowException, OSError) as error:
        raise _damaged(uri, str(error)) from error
    if len(footer) - 8 == metadata.serialized_size + _SIGNATURE_BYTES:
        # Asked for such a column, pyarrow ends the process.
        raise _encrypted(uri, "a signed footer, as of encrypted columns")
    return Footer(size=size, sha256=hashlib.sha256(footer).hexdigest(), metadata=metadata, schema=schema)


def tail_sha256(stream: BinaryIO) -> str:
    """Return a digest of the last 64 KiB: enough to notice a rewrite, cheap however long the footer."""
    return hashlib.sha256(_last_bytes(stream, stream.seek(0, 2), _TAIL_BYTES)).hexdigest()


def _last_bytes(stream: BinaryIO, size: int, wanted: int) -> bytes:
    stream.seek(max(0, size - wanted))
    return stream.read(min(size, wanted))


def _first_bytes(stream: BinaryIO) -> bytes:
    stream.seek(0)
    return stream.read(_HEAD_BYTES)


def _damaged(uri: str, found: str) -> ManifestError:
    return ManifestError(f"the Parquet footer of {uri} is damaged", found=found, advice="write the file again")


def _encrypted(uri: str, found: str) -> ManifestError:
    return ManifestError(f"{uri} is encrypted Parquet", found=found, advice="write the manifest without encryption")


def _not_parquet(uri: str, size: int, head: bytes, tail: bytes) -> ManifestError:
    if not size:
        return ManifestError(f"{uri} is not Parquet", found="0 bytes", advice="write the file again")
    if tail[-4:] == _ENCRYPTED_MAGIC or head[:4] == _ENCRYPTED_MAGIC:
        return _encrypted(uri, "the magic PARE")
    if head[:4] == _MAGIC:
        found = f"it begins as Parquet but its {size} bytes end without a footer"
        return ManifestError(f"{uri} is cut off", found=found, advice="copy or write the file again")
    looks_like, advice = _guess(head)
    return ManifestError(f"{uri} is not Parquet", found=looks_like, advice=advice.format(uri=uri))


def _guess(head: bytes) -> tuple[str, str]:
    """Say what some bytes look like, and what to do with such a file."""
    for signature, looks_like, advice in _SIGNATURES:
        if head.startswith(signature):
            return looks_like, advice
    if head[257:262] == b"ustar":
        return "a tar archive", "list the images in it: batchrec index {uri} -o members.parquet"
    try:
        text = head.removeprefix(b"\xef\xbb\xbf").decode()
    except UnicodeDecodeError as error:
        # The head may end in the middle of a character; anything earlier is not text.
        if error.start < len(head) - 4:
            return "binary data of no known kind", "give a Parquet file that lists the images"
        text = head[: error.start].decode(errors="replace")
    return _guess_text(text)


def _guess_text(text: str) -> tuple[str, str]:
    first = text.lstrip().partition("\n")[0].strip()
    if first.startswith("<"):
        return "HTML or XML", "check what was downloaded: it may be an error page"
    if first.startswith("{") and _is_json(first):
        return "JSONL", _EXPORT
    if first[:1] in ("{", "["):
        return "JSON", _EXPORT
    separators = {",": "CSV", "\t": "TSV (tab-separated)", ";": "CSV separated by semicolons"}
    for separator, kind in separators.items():
        if separator in first:
            return f"{kind}, first line {first[:80]!r}", _EXPORT
    if first:
        return f"text, first line {first[:80]!r}", "write a Parquet file with one row an image and a column uri"
    return "blank text", "give a Parquet file that lists the images"


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def check_unchanged(stream: BinaryIO, planned: ManifestFile) -> pq.FileMetaData:
    """Return what an open file's footer says of its columns and row groups.

    Raises:
        ManifestError: It is not the file the job was planned with.
    """
    try:
        footer = read_footer(stream, planned.uri)
        same = (footer.size, footer.sha256) == (planned.size, planned.footer_sha256)
        found = f"{footer.size} bytes, footer {footer.sha256[:12]}"
    except ManifestError as error:
        raise changed(planned, str(error)) from error
    if not same:
        raise changed(planned, found)
    return footer.metadata


def changed(planned: ManifestFile, found: str) -> ManifestError:
    """Return the error for a manifest file that is another than the planned one."""
    return ManifestError(
        f"the manifest {planned.uri} changed since the job was planned "
        f"({planned.size} bytes, footer {planned.footer_sha256[:12]})",
        found=found,
        advice="put the planned file back to resume, or start a new job in another output folder",
    )
