"""A store in an S3 bucket, through conditional PUT."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO, cast

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store as Bucket

from batchrec.spec import StoreOptions
from batchrec.storage.s3_client import Trouble, connect, diagnose, split_url, store_error
from batchrec.storage.store import STAGING, KeyExists, KeyMissing, ObjectInfo, Uncertain, check_key

if TYPE_CHECKING:
    from obstore import ObjectMeta

CLIENT_ERRORS = (BaseError, FileNotFoundError, ValueError)
# Enough for the footer of a part, so that sealing costs one request for each.
TAIL_BYTES = 64 * 2**10
BUFFER_BYTES = 256 * 2**10
# What S3 lists with one request.
PAGE_KEYS = 1000
# Answers a read-back would only repeat.
FINAL = {
    Trouble.NO_BUCKET,
    Trouble.DENIED,
    Trouble.NO_CREDENTIALS,
    Trouble.EXPIRED,
    Trouble.FULL,
    Trouble.REGION,
    Trouble.UNSUPPORTED,
    Trouble.UNREACHABLE,
}


class S3Store:
    """A prefix in a bucket."""

    def __init__(self, url: str, options: StoreOptions) -> None:
        bucket, prefix = split_url(url)
        self.url = f"s3://{bucket}/{prefix}" if prefix else f"s3://{bucket}"
        self._prefix = f"{prefix}/" if prefix else ""
        self._bucket = connect(bucket, options)

    def create(self, key: str, data: bytes) -> None:
        """Put an object under a key nobody holds."""
        name = self._name(key)
        try:
            obstore.put(self._bucket, name, data, mode="create", use_multipart=False)
        except CLIENT_ERRORS as error:
            found = diagnose(error)
            if found.trouble in (Trouble.EXISTS, Trouble.CHANGED):
                raise KeyExists(key) from None
            if found.trouble in FINAL:
                raise store_error(found, self.url) from error
            raise Uncertain(f"{key}: {found.detail}") from error

    def overwrite(self, key: str, data: bytes) -> None:
        """Put an object whatever stands there."""
        name = self._name(key)
        try:
            obstore.put(self._bucket, name, data, use_multipart=False)
        except CLIENT_ERRORS as error:
            raise self._meaning(error, key) from error

    def read(self, key: str) -> bytes:
        """Return a whole object."""
        name = self._name(key)
        try:
            return bytes(obstore.get(self._bucket, name).bytes())
        except CLIENT_ERRORS as error:
            raise self._meaning(error, key) from error

    def info(self, key: str) -> ObjectInfo:
        """Describe an object."""
        name = self._name(key)
        try:
            return _info(key, obstore.head(self._bucket, name))
        except CLIENT_ERRORS as error:
            raise self._meaning(error, key) from error

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Describe every object whose key begins with a string, by key."""
        yield from sorted(self.scan(prefix), key=lambda info: info.key)

    def scan(self, prefix: str) -> Iterator[ObjectInfo]:
        """Describe every object whose key begins with a string, as the pages come; flat in memory."""
        folder, slash, _ = (self._prefix + prefix).rpartition("/")
        try:
            for page in obstore.list(self._bucket, folder if slash else None):
                for meta in page:
                    key = meta["path"].removeprefix(self._prefix)
                    if key.startswith(prefix) and not key.startswith(STAGING):
                        yield _info(key, meta)
        except CLIENT_ERRORS as error:
            raise self._meaning(error, prefix) from error

    def top(self) -> tuple[str, ...]:
        """Name what lies at the top, as far as the first page of keys shows it."""
        try:
            page = next(iter(obstore.list(self._bucket, self._prefix or None, chunk_size=PAGE_KEYS)), [])
        except CLIENT_ERRORS as error:
            raise self._meaning(error, "") from error
        # A marker of the folder itself comes without the slash of the prefix.
        keys = (meta["path"].removeprefix(self._prefix) for meta in page if meta["path"].startswith(self._prefix))
        return tuple(sorted({"".join(key.partition("/")[:2]) for key in keys}))

    def open(self, key: str) -> BinaryIO:
        """Return a seekable reader that fetches ranges."""
        name = self._name(key)
        try:
            ranges = RangeReader(self._bucket, name, f"{self.url}/{key}")
        except CLIENT_ERRORS as error:
            raise self._meaning(error, key) from error
        return cast("BinaryIO", io.BufferedReader(ranges, BUFFER_BYTES))

    def delete(self, key: str) -> None:
        """Remove an object if it is there."""
        name = self._name(key)
        try:
            obstore.delete(self._bucket, name)
        except FileNotFoundError:
            return
        except CLIENT_ERRORS as error:
            raise self._meaning(error, key) from error

    def _name(self, key: str) -> str:
        check_key(key)
        return self._prefix + key

    def _meaning(self, error: Exception, key: str) -> Exception:
        found = diagnose(error)
        return KeyMissing(key) if found.trouble is Trouble.NO_OBJECT else store_error(found, self.url)


class RangeReader(io.RawIOBase):
    """An S3 object as a file: the tail is fetched on opening, the rest by ranges of that same version.

    Raises the client's own errors when opened, and AccessError or StorageLost when read.
    """

    def __init__(self, bucket: Bucket, name: str, url: str) -> None:
        super().__init__()
        self._bucket, self._object, self._url = bucket, name, url
        self._position = 0
        self._tail = b""
        try:
            result = obstore.get(bucket, name, options={"range": {"suffix": TAIL_BYTES}})
            self._tail = bytes(result.bytes())
            meta = result.meta
        except BaseError:
            # An object without bytes has no last byte to ask for.
            meta = obstore.head(bucket, name)
            if meta["size"]:
                raise
        self._size_bytes, self._etag = meta["size"], meta["e_tag"]

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the offset of the next byte read."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to an offset from the start, the position or the end."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size_bytes}[whence]
        if origin + offset < 0:
            raise ValueError(f"seek to {origin + offset}, before the start")
        self._position = origin + offset
        return self._position

    def readinto(self, buffer: object) -> int:
        """Fill a buffer from the position on; return the bytes read, 0 at the end."""
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        stop = min(self._position + len(view), self._size_bytes)
        if stop <= self._position:
            return 0
        data = self._range(self._position, stop)
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _range(self, start: int, stop: int) -> bytes:
        tail_start = self._size_bytes - len(self._tail)
        if start >= tail_start:
            return self._tail[start - tail_start : stop - tail_start]
        options: obstore.GetOptions = {"range": (start, stop)}
        if self._etag:
            options["if_match"] = self._etag
        try:
            return bytes(obstore.get(self._bucket, self._object, options=options).bytes())
        except CLIENT_ERRORS as error:
            raise store_error(diagnose(error), self._url) from error


def _info(key: str, meta: ObjectMeta) -> ObjectInfo:
    return ObjectInfo(key, meta["size"], meta["last_modified"], meta["e_tag"])
