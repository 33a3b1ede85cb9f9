"""A store, and a reader of images, through s3fs: the same job by a second client, which errs and retries otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import BinaryIO, cast

import s3fs
from botocore.exceptions import BotoCoreError, ClientError

from batchrec.errors import ErrorCode, ImageError, StorageLost
from batchrec.spec import StoreOptions
from batchrec.storage.pacing import Pacer
from batchrec.storage.places import S3Object
from batchrec.storage.room import Reserve
from batchrec.storage.store import STAGING, KeyExists, KeyMissing, ObjectInfo, Uncertain, check_key

CLIENT_ERRORS = (OSError, BotoCoreError)


class S3fsStore:
    """A prefix in a bucket, as :class:`batchrec.storage.s3_store.S3Store`."""

    def __init__(self, url: str, options: StoreOptions) -> None:
        self.url = url.rstrip("/")
        self._root = self.url.removeprefix("s3://")
        self._files = _connect(options)

    def create(self, key: str, data: bytes) -> None:
        path = self._path(key)
        try:
            self._files.pipe_file(path, data, mode="create")
        except CLIENT_ERRORS as error:
            answer = error.__cause__
            if isinstance(answer, ClientError) and answer.response["Error"]["Code"] == "PreconditionFailed":
                raise KeyExists(key) from None
            raise Uncertain(f"{key}: {error}") from error

    def overwrite(self, key: str, data: bytes) -> None:
        try:
            self._files.pipe_file(self._path(key), data)
        except CLIENT_ERRORS as error:
            raise _meaning(error, key) from error

    def read(self, key: str) -> bytes:
        try:
            return bytes(self._files.cat_file(self._path(key)))
        except CLIENT_ERRORS as error:
            raise _meaning(error, key) from error

    def info(self, key: str) -> ObjectInfo:
        try:
            facts = self._files.info(self._path(key))
        except CLIENT_ERRORS as error:
            raise _meaning(error, key) from error
        if facts["type"] != "file":
            raise KeyMissing(key)
        return self._described(facts)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        yield from sorted(self.scan(prefix), key=lambda info: info.key)

    def scan(self, prefix: str) -> Iterator[ObjectInfo]:
        folder, slash, _ = f"{self._root}/{prefix}".rpartition("/")
        try:
            found = self._files.find(folder + slash, detail=True)
        except CLIENT_ERRORS as error:
            raise _meaning(error, prefix) from error
        for info in map(self._described, found.values()):
            if info.key.startswith(prefix) and not info.key.startswith(STAGING):
                yield info

    def top(self) -> tuple[str, ...]:
        return tuple(sorted({"".join(info.key.partition("/")[:2]) for info in self.scan("")}))

    def open(self, key: str) -> BinaryIO:
        self.info(key)
        return cast("BinaryIO", self._files.open(self._path(key), "rb"))

    def delete(self, key: str) -> None:
        try:
            self._files.rm_file(self._path(key))
        except CLIENT_ERRORS as error:
            raise _meaning(error, key) from error

    def _path(self, key: str) -> str:
        check_key(key)
        return f"{self._root}/{key}"

    def _described(self, facts: dict[str, object]) -> ObjectInfo:
        key = str(facts["name"]).removeprefix(f"{self._root}/")
        return ObjectInfo(key, facts["size"], facts["LastModified"], str(facts["ETag"]))  # type: ignore[arg-type]


class S3fsReader:
    """Whole images, as :class:`batchrec.storage.s3_images.S3Reader`."""

    def __init__(self, buckets: Iterable[str], options: StoreOptions, max_bytes: int, pacer: Pacer) -> None:
        self._files = _connect(options)
        self._max_bytes = max_bytes

    def read(self, place: S3Object, reserve: Reserve) -> bytes:
        try:
            data = bytes(self._files.cat_file(f"{place.bucket}/{place.key}"))
        except FileNotFoundError:  # of the server's answer s3fs keeps no more
            raise ImageError(ErrorCode.NOT_FOUND, "HTTP 404 NoSuchKey") from None
        except CLIENT_ERRORS as error:
            raise ImageError(ErrorCode.READ_FAILED) from error
        reserve(len(data), None)
        return data


def _connect(options: StoreOptions) -> s3fs.S3FileSystem:
    """A file system that remembers nothing: neither of servers that are gone nor of folders as they were."""
    return s3fs.S3FileSystem(endpoint_url=options.endpoint, use_listings_cache=False, skip_instance_cache=True)


def _meaning(error: Exception, key: str) -> Exception:
    if isinstance(error, FileNotFoundError):
        return KeyMissing(key)
    return StorageLost(f"{key}: {error}", advice="the same command resumes")
