"""One HTTP connection to an address that was looked up once and checked, with an end to every wait."""

from __future__ import annotations

import io
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse, IncompleteRead, RemoteDisconnected
from typing import Any

from batchrec.errors import ErrorCode, ImageError
from batchrec.storage.hosts import PORTS, HttpObject, is_public

CONNECT_TIMEOUT_S = 5.0
# For the answer to begin.
TIMEOUT_S = 30.0
MAX_ADDRESSES = 3
HEADERS = {"User-Agent": "batchrec", "Accept": "image/*, */*;q=0.1", "Accept-Encoding": "identity"}


class TransientError(Exception):
    """A fault that may be gone at the next try, which should wait at least so long; perhaps the host said slow down."""

    def __init__(self, error: ImageError, wait_s: float = 0.0, *, is_rejection: bool = False) -> None:
        super().__init__(str(error))
        self.error = error
        self.wait_s = wait_s
        self.is_rejection = is_rejection


class StaleError(Exception):
    """A connection kept from an earlier request was closed by the other side."""


class Wire:
    """The socket as ``http.client`` wants it, where every wait ends at one moment however slowly bytes drip.

    Attributes:
        until: When, by the monotonic clock.
    """

    def __init__(self, plain: socket.socket) -> None:
        self._socket = plain
        self.until = time.monotonic() + TIMEOUT_S

    def sendall(self, data: Any) -> None:
        """Send all of it."""
        self._wait_no_longer()
        self._socket.sendall(data)

    def receive(self, buffer: Any) -> int:
        """Fill a buffer as far as bytes are there; return how many."""
        self._wait_no_longer()
        return self._socket.recv_into(buffer)

    def makefile(self, mode: str) -> io.BufferedReader:
        """Return a reader of the answer."""
        return io.BufferedReader(_Incoming(self))

    def close(self) -> None:
        """Do nothing: whoever opened it hangs up, once the answer is read."""

    def hang_up(self) -> None:
        """Close it."""
        self._socket.close()

    def _wait_no_longer(self) -> None:
        left_s = self.until - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._socket.settimeout(left_s)


class _Incoming(io.RawIOBase):
    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._wire.receive(buffer)


class Connection(HTTPConnection):
    """A connection to the host of an object.

    Args:
        place: Whose scheme, host and port count.
        context: For https.
    """

    def __init__(self, place: HttpObject, context: ssl.SSLContext | None) -> None:
        super().__init__(place.host, place.port)
        self.default_port = PORTS[place.scheme]  # left out of the Host header
        self._place, self._context = place, context
        self._wire: Wire | None = None

    def connect(self) -> None:
        """Look the name up, once, and connect to one of the very addresses that were checked."""
        plain = _connect(self._place)
        if self._place.scheme == "https":
            assert self._context is not None
            try:
                plain = self._context.wrap_socket(plain, server_hostname=self._place.host)
            except BaseException:
                plain.close()
                raise
        self._wire = self.sock = Wire(plain)

    def ask(self, target: str) -> HTTPResponse:
        """Return the beginning of the answer to a GET.

        Raises:
            StaleError: The connection had been used before and is closed.
        """
        used_before = self._wire is not None
        self.wait_until(time.monotonic() + TIMEOUT_S)
        try:
            self.request("GET", target, headers=HEADERS)
            return self.getresponse()
        except (ConnectionError, RemoteDisconnected) as error:
            if used_before:
                raise StaleError from error
            raise

    def wait_until(self, moment: float) -> None:
        """Set when every wait ends, by the monotonic clock."""
        if self._wire is not None:
            self._wire.until = moment

    def hang_up(self) -> None:
        """Close it."""
        self.close()
        if self._wire is not None:
            self._wire.hang_up()


def _connect(place: HttpObject) -> socket.socket:
    last: OSError = ConnectionError()
    for family, address in _addresses(place)[:MAX_ADDRESSES]:
        plain = socket.socket(family, socket.SOCK_STREAM)
        try:
            plain.settimeout(CONNECT_TIMEOUT_S)
            plain.connect(address)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            plain.close()
            last = error
        else:
            return plain
    raise last


def _addresses(place: HttpObject) -> list[tuple[int, Any]]:
    """Return where a host may be connected to; an address that the command line named is taken at its word."""
    if place.is_address:
        return [(socket.AF_INET6 if ":" in place.host else socket.AF_INET, (place.host, place.port))]
    found = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    addresses = [
        (int(family), address) for family, _, _, _, address in found if family in (socket.AF_INET, socket.AF_INET6)
    ]
    # One private address among public ones is enough: whoever mixes them hopes for the order.
    if not all(is_public(str(address[0])) for _, address in addresses):
        raise ImageError(
            ErrorCode.URI_REFUSED,
            f"{place.host[:100]} leads to a private address: to allow one, write the address itself in the manifest "
            "and in --allow-http",
        )
    return addresses


@contextmanager
def meanings() -> Iterator[None]:
    """Turn what goes wrong on a connection into an image's error, or a transient one; nobody else's words in it."""
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise ImageError(ErrorCode.ENDPOINT_UNREACHABLE, f"certificate: {error.verify_message[:150]}") from error
    except socket.gaierror as error:
        fault = ImageError(ErrorCode.ENDPOINT_UNREACHABLE, "its host name cannot be looked up")
        raise (TransientError(fault) if error.errno == socket.EAI_AGAIN else fault) from error
    except TimeoutError as error:
        raise TransientError(ImageError(ErrorCode.TIMEOUT)) from error
    except (IncompleteRead, RemoteDisconnected, ConnectionResetError, BrokenPipeError) as error:
        raise TransientError(ImageError(ErrorCode.SERVER_ERROR, "the connection was dropped")) from error
    except HTTPException as error:
        raise ImageError(ErrorCode.SERVER_ERROR, f"no HTTP answer: {type(error).__name__}") from error
    except ssl.SSLError as error:
        raise TransientError(ImageError(ErrorCode.ENDPOINT_UNREACHABLE, "TLS failed")) from error
    except OSError as error:
        raise TransientError(ImageError(ErrorCode.ENDPOINT_UNREACHABLE)) from error
