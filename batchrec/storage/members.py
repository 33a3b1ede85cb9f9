"""Images inside tar archives: read by ranges that take a member's neighbours along.

    train-0001.tar#1536+110234~5f0c21aa/shoes/17.jpg        ARCHIVE#OFFSET+SIZE~CRC/NAME

A URI says where the member's bytes lie (:func:`batchrec.manifest.indexing.index_archives` writes them), so that no
worker reads an archive's headers to find one. The header in the 512 bytes before is read along and has to be the one
that was indexed: it holds the member's name, size and time, so what was written anew since gives errors.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from batchrec.errors import ErrorCode, ImageError
from batchrec.storage.pacing import Pacer
from batchrec.storage.places import HEADER_BYTES, LocalFile, S3Object, TarMember, may_name_member
from batchrec.storage.policy import UriPolicy
from batchrec.storage.room import Reserve

#: Neighbours are read with one request up to so many bytes: enough for its cost to hardly count, few enough for
#: several requests to be under way while the images of one shard are read.
SPAN_BYTES = 2**20
#: Bytes between two members that are cheaper read than left out.
GAP_BYTES = 64 * 2**10

#: Reads so many bytes of an archive from a place on.
ReadRange = Callable[[LocalFile | S3Object, int, int], bytes]


def image_of(member: TarMember, found: bytes | memoryview) -> bytes:
    """Return a member's bytes from those of its header and itself.

    Raises:
        ImageError: The header is another than the one that was indexed.
    """
    if zlib.crc32(found[:HEADER_BYTES]) != member.header_crc:
        raise ImageError(ErrorCode.NOT_FOUND, "another header lies before it than was indexed: index the archive again")
    return bytes(found[HEADER_BYTES:])


@dataclass(slots=True)
class _Span:
    """Neighbours that are read together.

    Attributes:
        archive: Where they lie.
        first: Offset of the first one's header.
        end: Offset behind the last one.
        num_left: Members that were not taken yet.
        data: The bytes, from the first reader to the last.
        failed: Whether they could not be read together.
    """

    archive: LocalFile | S3Object
    first: int
    end: int
    num_left: int = 1
    data: bytes | None = None
    failed: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def takes(self, member: TarMember) -> bool:
        """Take one more member in, if it follows closely."""
        near = 0 <= member.first - self.end <= GAP_BYTES and member.end - self.first <= SPAN_BYTES
        if not near or member.archive != self.archive:
            return False
        self.end, self.num_left = member.end, self.num_left + 1
        return True


class ShardMembers:
    """The members of archives among the images of one shard, each to be read once. Safe to use from many threads.

    What is read for one image is held until the last of its span was taken.

    Args:
        uris: The shard's images, in order.
        policy: What may be read.
        read_range: Reads a span.
        pacer: Told of reads of buckets that wait for a neighbour's, as if each were a request: that is what they are
            to whoever decides how many there may be.
        max_bytes: Larger members are not read here.
    """

    def __init__(
        self, uris: Sequence[str | None], policy: UriPolicy, read_range: ReadRange, pacer: Pacer, max_bytes: int
    ) -> None:
        self._read_range, self._pacer = read_range, pacer
        self._places: dict[int, tuple[_Span, TarMember]] = {}
        span: _Span | None = None
        for row, member in _members(uris, policy):
            if not 0 < member.size <= max_bytes:
                continue
            if span is None or not span.takes(member):
                span = _Span(member.archive, member.first, member.end)
            self._places[row] = span, member

    def read(self, row: int, reserve: Reserve) -> bytes | None:
        """Return an image; None where it has to be read by itself, to find out what is wrong with it.

        Raises:
            ImageError: Another member lies in its place.
        """
        if (place := self._places.get(row)) is None:
            return None
        span, member = place
        reserve(member.size, None)  # before the lock: who waits for room must not hold up the others
        if (data := self._take(span)) is None:
            return None
        return image_of(member, memoryview(data)[member.first - span.first : member.end - span.first])

    def _take(self, span: _Span) -> bytes | None:
        came_at = time.monotonic()
        with span.lock:
            if span.data is None and not span.failed:
                try:
                    span.data = self._read_range(span.archive, span.first, span.end - span.first)
                except ImageError:
                    span.failed = True
            elif isinstance(span.archive, S3Object):
                now = time.monotonic()
                self._pacer.note(now, now - came_at, now - came_at, rejected=False)
            data, span.num_left = span.data, span.num_left - 1
            if span.num_left <= 0:
                span.data = None
            return data


def _members(uris: Sequence[str | None], policy: UriPolicy) -> Iterator[tuple[int, TarMember]]:
    """Yield the members of archives that may be read, with their rows."""
    for row, uri in enumerate(uris):
        if may_name_member(uri):
            try:
                place = policy.resolve(uri)
            except ImageError:
                continue
            if isinstance(place, TarMember):
                yield row, place
