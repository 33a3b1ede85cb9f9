"""Images over HTTP: from allowed hosts only, and only from the very address that was checked."""

from __future__ import annotations

import random
import ssl
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from http.client import HTTPResponse
from urllib.parse import urljoin

from batchrec.errors import ErrorCode, ImageError
from batchrec.storage.hosts import PORTS, Host, HttpObject, admits, parse_http
from batchrec.storage.http_connection import TIMEOUT_S, Connection, StaleError, TransientError, meanings
from batchrec.storage.pacing import Pacer, Request
from batchrec.storage.room import Reserve

MAX_TRIES = 4
MAX_REDIRECTS = 3
# What an answer must bring on the whole, after the time it has to begin.
LEAST_BYTES_PER_S = 2**20
MAX_HELD_S = 5.0
BACKOFF_S = 0.25
MAX_BACKOFF_S = 8.0
MAX_IDLE = 32
PIECE_BYTES = 256 * 2**10
FIRST_ROOM_BYTES = 2**20
DRAINED_BYTES = 64 * 2**10
REDIRECTS = (301, 302, 303, 307, 308)

_BY_STATUS = {
    401: ErrorCode.ACCESS_DENIED,
    403: ErrorCode.ACCESS_DENIED,
    404: ErrorCode.NOT_FOUND,
    408: ErrorCode.TIMEOUT,
    410: ErrorCode.NOT_FOUND,
    414: ErrorCode.URI_INVALID,
    425: ErrorCode.SERVER_ERROR,
    429: ErrorCode.SERVER_ERROR,
    451: ErrorCode.ACCESS_DENIED,
}
_TRANSIENT_STATUS = (408, 425, 429, 500, 502, 503, 504)


class _MoreRoomError(Exception):
    """There is no room for so many bytes now."""

    def __init__(self, num_bytes: int) -> None:
        super().__init__(num_bytes)
        self.num_bytes = num_bytes


class HttpReader:
    """Reads whole images over HTTP. Safe to use from many threads.

    Proxies named in the environment are not used: what they connect to could not be checked.

    Args:
        hosts: Whom to ask.
        max_bytes: Larger images are refused, as soon as that is known.
        pacer: Told of every request; one that is redirected counts as one.
    """

    def __init__(self, hosts: Sequence[Host], max_bytes: int, pacer: Pacer) -> None:
        self._hosts = tuple(hosts)
        self._max_bytes, self._pacer = max_bytes, pacer
        self._lock = threading.Lock()
        self._idle: dict[tuple[str, str, int], list[Connection]] = defaultdict(list)
        self._context: ssl.SSLContext | None = None

    def read(self, place: HttpObject, reserve: Reserve) -> bytes:
        """Return the bytes of one image; ``reserve`` as for :class:`batchrec.storage.ImageReader`.

        Raises:
            ImageError: Always with a code of the closed list; no text of the server is in it.
        """
        request = Request(self._pacer, reserve)
        room, num_tries = 0, 0
        while True:
            try:
                data = self._fetch(place, request.reserve, room)
            except _MoreRoomError as short:
                room = short.num_bytes
                reserve(room, None)
            except TransientError as fault:
                request.end(rejected=fault.is_rejection)
                room, num_tries = 0, num_tries + 1
                if num_tries == MAX_TRIES:
                    raise fault.error from None
                reserve(0, None)
                time.sleep(max(fault.wait_s, random.uniform(0.5, 1.0) * BACKOFF_S * 2**num_tries))
            except ImageError:
                request.end()
                raise
            else:
                request.end()
                return data
            request.begin()

    def close(self) -> None:
        """Close the connections kept for later requests."""
        with self._lock:
            idle = [connection for kept in self._idle.values() for connection in kept]
            self._idle.clear()
        for connection in idle:
            connection.hang_up()

    def _fetch(self, place: HttpObject, reserve: Reserve, room: int) -> bytes:
        for _ in range(MAX_REDIRECTS + 1):
            found = self._ask(place, reserve, room)
            if isinstance(found, bytes):
                return found
            place = found
        raise ImageError(ErrorCode.URI_REFUSED, f"it redirects more than {MAX_REDIRECTS} times")

    def _ask(self, place: HttpObject, reserve: Reserve, room: int) -> bytes | HttpObject:
        while True:
            connection = self._connection(place)
            try:
                with meanings():
                    response = connection.ask(place.target)
                    found = self._answer(place, response, connection, reserve, room)
            except StaleError:
                connection.hang_up()
            except BaseException:
                connection.hang_up()
                raise
            else:
                self._put_back(place, connection, response)
                return found

    def _connection(self, place: HttpObject) -> Connection:
        with self._lock:
            kept = self._idle[place.scheme, place.host, place.port]
            if kept:
                return kept.pop()
            if place.scheme == "https" and self._context is None:
                self._context = ssl.create_default_context()
        return Connection(place, self._context)

    def _put_back(self, place: HttpObject, connection: Connection, response: HTTPResponse) -> None:
        is_read = response.isclosed() or response.length == 0
        response.close()
        if is_read and not response.will_close:
            with self._lock:
                kept = self._idle[place.scheme, place.host, place.port]
                if len(kept) < MAX_IDLE:
                    kept.append(connection)
                    return
        connection.hang_up()

    def _answer(
        self, place: HttpObject, response: HTTPResponse, connection: Connection, reserve: Reserve, room: int
    ) -> bytes | HttpObject:
        if response.status == 200:
            return self._body(response, connection, reserve, room)
        if response.status in REDIRECTS:
            if response.length is not None and response.length <= DRAINED_BYTES:
                response.read()  # so that the connection can be kept
            return follow(place, response.getheader("Location") or "", self._hosts)
        unknown = ErrorCode.SERVER_ERROR if response.status >= 500 else ErrorCode.READ_FAILED
        error = ImageError(_BY_STATUS.get(response.status, unknown), f"HTTP {response.status}")
        if response.status in _TRANSIENT_STATUS:
            raise TransientError(error, _retry_after_s(response), is_rejection=response.status in (429, 503))
        raise error

    def _body(self, response: HTTPResponse, connection: Connection, reserve: Reserve, room: int) -> bytes:
        if (response.getheader("Content-Encoding") or "identity").lower() != "identity":
            raise ImageError(ErrorCode.READ_FAILED, "the server sent it compressed, though not asked to")
        size = response.length
        self._check_size(size or 0)
        room = _hold(FIRST_ROOM_BYTES if size is None else size, room, reserve)
        data, began = bytearray(), time.monotonic()
        while piece := response.read1(PIECE_BYTES):
            self._check_size(len(data) + len(piece))
            if len(data) + len(piece) > room:
                paused = time.monotonic()
                room = _hold(max(2 * room, len(data) + len(piece)), room, reserve)
                began += time.monotonic() - paused
            data += piece
            connection.wait_until(began + TIMEOUT_S + len(data) / LEAST_BYTES_PER_S)
        if size is not None and len(data) != size:
            raise TransientError(ImageError(ErrorCode.SERVER_ERROR, f"{len(data)} of {size} bytes came"))
        if not data and size is None and not response.chunked:
            raise TransientError(ImageError(ErrorCode.SERVER_ERROR, "the connection was dropped"))
        if not data:
            raise ImageError(ErrorCode.EMPTY)
        if len(data) != room:
            reserve(len(data), None)
        return bytes(data)

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise ImageError(ErrorCode.TOO_MANY_BYTES, f"{size} bytes or more, limit {self._max_bytes}")


def follow(place: HttpObject, location: str, hosts: Sequence[Host]) -> HttpObject:
    """Return where a redirect leads: to the same host, never from https to http.

    Raises:
        ImageError: ``uri_refused``; it leads elsewhere.
    """
    try:
        whole = urljoin(f"{place.scheme}://{place.place}{place.target}", location)
        scheme, _, rest = whole.partition("://")
        there = parse_http(scheme, rest) if scheme in PORTS and location.isprintable() else None
    except ValueError:
        there = None
    if there is None:
        raise ImageError(ErrorCode.URI_REFUSED, "it redirects to what is no http or https URL")
    if there.host != place.host or not admits(hosts, there):
        raise ImageError(
            ErrorCode.URI_REFUSED, f"it redirects to {there.place[:100]}: allow that host and name the image there"
        )
    if place.scheme == "https" and there.scheme == "http":
        raise ImageError(ErrorCode.URI_REFUSED, "it redirects from https to http")
    return there


def _hold(wanted: int, room: int, reserve: Reserve) -> int:
    if wanted <= room:
        return room
    if not reserve(wanted, MAX_HELD_S):
        raise _MoreRoomError(wanted)
    return wanted


def _retry_after_s(response: HTTPResponse) -> float:
    text = response.getheader("Retry-After") or ""
    return min(float(text), MAX_BACKOFF_S) if text.isascii() and text.isdigit() else 0.0
