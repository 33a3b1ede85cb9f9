"""Images in buckets: one request each, tried again here, so that a store that says slow down is heard."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from functools import partial

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store as Bucket

from batchrec.errors import ErrorCode, ImageError
from batchrec.spec import StoreOptions
from batchrec.storage import s3_client
from batchrec.storage.pacing import Pacer, Request
from batchrec.storage.places import S3Object
from batchrec.storage.room import Reserve, unbounded
from batchrec.storage.s3_client import Diagnosis, Trouble, connect, diagnose

# A connection whose body nobody takes is closed by the store or the client sooner or later.
MAX_HELD_S = 5.0
BACKOFF_S = 0.1
MAX_BACKOFF_S = 5.0
_RANGE_NOT_SATISFIABLE = 416

_BY_TROUBLE = {
    Trouble.NO_OBJECT: (ErrorCode.NOT_FOUND, ""),
    Trouble.NO_BUCKET: (ErrorCode.NOT_FOUND, "the bucket does not exist"),
    Trouble.DENIED: (ErrorCode.ACCESS_DENIED, "the store denied it"),
    Trouble.NO_CREDENTIALS: (ErrorCode.ACCESS_DENIED, "no AWS credentials were found: set the AWS_* variables"),
    Trouble.EXPIRED: (ErrorCode.CREDENTIALS_EXPIRED, ""),
    Trouble.ARCHIVED: (ErrorCode.READ_FAILED, "the object is archived: restore it first"),
    Trouble.UNREACHABLE: (ErrorCode.ENDPOINT_UNREACHABLE, ""),
    Trouble.REGION: (ErrorCode.ENDPOINT_UNREACHABLE, "the bucket is in another region: set AWS_REGION"),
    Trouble.TIMEOUT: (ErrorCode.TIMEOUT, ""),
    Trouble.ODD_KEY: (ErrorCode.URI_INVALID, "a key which the S3 client cannot ask for"),
    Trouble.CHANGED: (ErrorCode.CHANGED_WHILE_READ, ""),
}


class S3Reader:
    """Reads whole objects. Safe to use from many threads.

    Args:
        buckets: Which may be read.
        options: How to reach them.
        max_bytes: Larger objects are refused before they are read.
        pacer: Told of every request.
    """

    def __init__(self, buckets: Iterable[str], options: StoreOptions, max_bytes: int, pacer: Pacer) -> None:
        self._max_bytes, self._pacer = max_bytes, pacer
        self._buckets: dict[str, Bucket] = {bucket: connect(bucket, options, retries=False) for bucket in buckets}

    def read(self, place: S3Object, reserve: Reserve) -> bytes:
        """Return the bytes of one object; ``reserve`` as for :class:`batchrec.storage.ImageReader`.

        Raises:
            ImageError: Always with a code of the closed list; no text of the store is in it.
        """
        return self._tried(partial(self._fetch, place), reserve)

    def read_range(self, place: S3Object, first: int, num_bytes: int) -> bytes:
        """Return some bytes of one object, for which there is room; errors as for :meth:`read`."""
        return self._tried(partial(self._fetch_range, place, first, num_bytes), unbounded)

    def _tried(self, fetch: Callable[[Request], bytes], reserve: Reserve) -> bytes:
        """Fetch, and again while that may help."""
        request = Request(self._pacer, reserve)
        give_up_at = time.monotonic() + s3_client.RETRY_TIMEOUT_S
        num_tries = 0
        while True:
            try:
                data = fetch(request)
            except (BaseError, FileNotFoundError, ValueError) as error:
                found = diagnose(error)
                request.end(rejected=found.is_rejection)
                if not found.is_transient or num_tries == s3_client.MAX_RETRIES or time.monotonic() > give_up_at:
                    raise _image_error(found) from error
            except ImageError:
                request.end()
                raise
            else:
                request.end()
                return data
            reserve(0, None)  # nothing is held while it waits
            time.sleep(random.uniform(0.5, 1.0) * min(MAX_BACKOFF_S, BACKOFF_S * 2**num_tries))
            num_tries += 1
            request.begin()

    def _fetch(self, place: S3Object, request: Request) -> bytes:
        """Return an object for which there is room; the client takes no bytes before it is asked to."""
        bucket = self._buckets[place.bucket]
        result = obstore.get(bucket, place.key)
        size = result.meta["size"]
        self._check_size(size)
        if not request.reserve(size, MAX_HELD_S):
            del result  # and its connection with it
            request.reserve(size, None)
            request.begin()
            result = obstore.get(bucket, place.key)
            if result.meta["size"] != size:
                raise ImageError(ErrorCode.CHANGED_WHILE_READ)
        data = bytes(result.bytes())
        if len(data) != size:
            raise ImageError(ErrorCode.SERVER_ERROR, f"{len(data)} of {size} bytes came")
        return data

    def _fetch_range(self, place: S3Object, first: int, num_bytes: int, request: Request) -> bytes:
        result = obstore.get(self._buckets[place.bucket], place.key, options={"range": (first, first + num_bytes)})
        request.reserve(num_bytes, None)
        data = bytes(result.bytes())
        if len(data) != num_bytes:
            raise _cut_off()
        return data

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise ImageError(ErrorCode.TOO_MANY_BYTES, f"{size} bytes, limit {self._max_bytes}")
        if size == 0:
            raise ImageError(ErrorCode.EMPTY)


def _cut_off() -> ImageError:
    return ImageError(ErrorCode.NOT_FOUND, "the archive ends before it: index it again")


def _image_error(found: Diagnosis) -> ImageError:
    if found.status == _RANGE_NOT_SATISFIABLE:
        return _cut_off()
    code, detail = _BY_TROUBLE.get(found.trouble, (ErrorCode.SERVER_ERROR, ""))
    return ImageError(code, "; ".join(filter(None, (detail, found.detail))))
