"""Reading images, many at once, under the policy of one manifest."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from functools import partial

from batchrec.errors import ErrorCode, ImageError
from batchrec.spec import StoreOptions
from batchrec.storage.beneath import LeadsOutError, Roots
from batchrec.storage.hosts import HttpObject
from batchrec.storage.http_client import HttpReader
from batchrec.storage.inputs import InputFile, list_inputs, open_input
from batchrec.storage.members import ShardMembers, image_of
from batchrec.storage.pace import Pace
from batchrec.storage.pacing import Pacer
from batchrec.storage.places import LocalFile, S3Object, TarMember, may_name_member
from batchrec.storage.policy import UriPolicy
from batchrec.storage.room import Reserve, unbounded
from batchrec.storage.s3_images import S3Reader

__all__ = ["ImageReader", "InputFile", "Reserve", "list_inputs", "open_input"]

LOCAL_CONCURRENCY = 4
# Enough to hide 50 ms of latency behind a decoder of 600 images/s.
REMOTE_CONCURRENCY = 32
# Enough to hide 100 ms behind eight cores; what a host that is no object store may be asked at once stays lower.
BUCKET_CONCURRENCY = 256
HOST_CONCURRENCY = 32

_BY_ERRNO = {
    errno.ENOENT: (ErrorCode.NOT_FOUND, ""),
    errno.ENOTDIR: (ErrorCode.NOT_FOUND, "a part of the path is a file"),
    errno.ENAMETOOLONG: (ErrorCode.URI_INVALID, "a name too long for the filesystem"),
    errno.EACCES: (ErrorCode.ACCESS_DENIED, "no permission to read the file"),
    errno.EPERM: (ErrorCode.ACCESS_DENIED, "no permission to read the file"),
    errno.ENXIO: (ErrorCode.URI_INVALID, "not a regular file"),
    errno.ELOOP: (ErrorCode.URI_REFUSED, "links that go round"),
}


class ImageReader:
    """Reads whole images by URI. Safe to use from many threads.

    Args:
        policy: What may be read.
        options: How to reach buckets.
        max_bytes: Images larger than this are refused before they are read.
    """

    def __init__(self, policy: UriPolicy, options: StoreOptions, max_bytes: int) -> None:
        self._policy = policy
        self._max_bytes = max_bytes
        self._roots = Roots(policy.roots)
        self._pacer = _pacer(policy)
        self._http = HttpReader(policy.hosts, max_bytes, self._pacer)
        self._s3 = S3Reader(policy.buckets, options, max_bytes, self._pacer)

    def read(self, uri: str | None, reserve: Reserve = unbounded) -> bytes:
        """Return the bytes of one image.

        Args:
            uri: As the manifest has it.
            reserve: Asked for room once the size is known and before the bytes are read.

        Raises:
            ImageError: Always with a code of the closed list; nothing else but what ``reserve`` raises.
        """
        place = self._policy.resolve(uri)
        if isinstance(place, TarMember):
            self._check_size(place.size)
            reserve(place.size, None)
            return image_of(place, self._read_range(place.archive, place.first, place.end - place.first))
        if isinstance(place, LocalFile):
            return self._read_local(place, partial(self._read_once, reserve=reserve))
        if isinstance(place, HttpObject):
            return self._http.read(place, reserve)
        return self._s3.read(place, reserve)

    def members(self, uris: Sequence[str | None]) -> ShardMembers | None:
        """Return what reads the members of archives among the images of a shard; None where there are none."""
        if not any(map(may_name_member, uris)):
            return None
        return ShardMembers(uris, self._policy, self._read_range, self._pacer, self._max_bytes)

    def concurrency(self) -> int:
        """Return how many reads at once keep the source busy; changes while a store is read."""
        return self._pacer.limit

    def allow(self, num_reads: int) -> None:
        """Allow no more reads at once than these from now on, whatever would keep the source busy."""
        self._pacer.allow(num_reads)

    def close(self) -> None:
        """Let go of the folders and connections held open."""
        self._roots.close()
        self._http.close()

    def _read_range(self, archive: LocalFile | S3Object, first: int, num_bytes: int) -> bytes:
        """Return some bytes of an archive, for which there is room; errors as for :meth:`read`."""
        if isinstance(archive, S3Object):
            return self._s3.read_range(archive, first, num_bytes)
        return self._read_local(archive, partial(_read_part, first=first, num_bytes=num_bytes))

    def _read_local(self, file: LocalFile, read: Callable[[int], bytes | None]) -> bytes:
        """Read a file that is open meanwhile; twice where the first try found that it changed."""
        try:
            for _ in range(2):
                if (data := self._read_opened(file, read)) is not None:
                    return data
        except LeadsOutError:
            raise ImageError(
                ErrorCode.URI_REFUSED,
                "a link leads out of the manifest's folder: allow its target with --input-root DIR",
            ) from None
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, "unknown")
            code, detail = _BY_ERRNO.get(error.errno or 0, (ErrorCode.READ_FAILED, name))
            raise ImageError(code, detail) from error
        raise ImageError(ErrorCode.CHANGED_WHILE_READ, "twice")

    def _read_opened(self, file: LocalFile, read: Callable[[int], bytes | None]) -> bytes | None:
        descriptor = self._roots.open(file.root, file.path)
        try:
            return read(descriptor)
        finally:
            os.close(descriptor)

    def _read_once(self, descriptor: int, *, reserve: Reserve) -> bytes | None:
        """Return the bytes, or None where the file changed meanwhile."""
        before = _regular(descriptor)
        self._check_size(before.st_size)
        reserve(before.st_size, None)
        data = _read_all(descriptor, before.st_size)
        after = os.fstat(descriptor)
        same = after.st_size == before.st_size == len(data) and after.st_mtime_ns == before.st_mtime_ns
        return data if same else None

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise ImageError(ErrorCode.TOO_MANY_BYTES, f"{size} bytes, limit {self._max_bytes}")
        if size == 0:
            raise ImageError(ErrorCode.EMPTY)


def _pacer(policy: UriPolicy) -> Pacer:
    if not policy.buckets and not policy.hosts:
        return Pacer(Pace(LOCAL_CONCURRENCY, LOCAL_CONCURRENCY))
    return Pacer(Pace(REMOTE_CONCURRENCY, HOST_CONCURRENCY if policy.hosts else BUCKET_CONCURRENCY))


def _read_part(descriptor: int, *, first: int, num_bytes: int) -> bytes | None:
    """Return some bytes of a file, or None where it changed meanwhile."""
    before = _regular(descriptor)
    if before.st_size < first + num_bytes:
        raise ImageError(ErrorCode.NOT_FOUND, "the archive ends before it: index it again")
    os.lseek(descriptor, first, os.SEEK_SET)
    data = os.read(descriptor, num_bytes)
    while len(data) < num_bytes and (more := os.read(descriptor, num_bytes - len(data))):
        data += more
    same = len(data) == num_bytes and os.fstat(descriptor).st_mtime_ns == before.st_mtime_ns
    return data if same else None


def _regular(descriptor: int) -> os.stat_result:
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode):
        raise ImageError(ErrorCode.URI_INVALID, "not a regular file")
    return facts


def _read_all(descriptor: int, size: int) -> bytes:
    """Read to the end, or one byte past an announced size, which shows that the file grew."""
    data = os.read(descriptor, size + 1)
    while len(data) < size and (more := os.read(descriptor, size + 1 - len(data))):
        data += more
    return data
