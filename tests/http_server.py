"""A small HTTP server that answers as it is told, rightly or not.

with HttpServer() as server:
    server.answers["/a.jpg"] = Answer(b"...")
    server.answers["/b.jpg"] = [Answer(status=503), Answer(b"...")]  # one after another, the last for ever
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer.

    Attributes:
        body: Sent after the headers.
        status: Of the first line.
        headers: Beside Content-Length, which they may replace; None leaves it out.
        raw: Sent instead of all that.
        pieces: Bytes sent at once; everything when None.
        pause_s: Between pieces.
        closes: Whether the connection ends with it.
    """

    body: bytes = b""
    status: int = 200
    headers: dict[str, str | None] = field(default_factory=dict)
    raw: bytes | None = None
    pieces: int | None = None
    pause_s: float = 0.0
    closes: bool = False

    def data(self) -> bytes:
        if self.raw is not None:
            return self.raw
        headers = {"Content-Length": str(len(self.body)), **self.headers}
        lines = [
            f"HTTP/1.1 {self.status} X",
            *(f"{name}: {value}" for name, value in headers.items() if value is not None),
        ]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + self.body


def redirect(location: str, status: int = 302) -> Answer:
    return Answer(status=status, headers={"Location": location})


class HttpServer:
    """Serves until it is left.

    Attributes:
        answers: By request target; 404 for others.
        requests: Target and Host header of each request.
        num_connections: Accepted so far.
    """

    def __init__(self, address: str = "127.0.0.1", port: int = 0, context: ssl.SSLContext | None = None) -> None:
        self.answers: dict[str, Answer | Sequence[Answer]] = {}
        self.requests: list[tuple[str, str]] = []
        self.num_connections = 0
        self._context = context
        self._closed = False
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listening = socket.create_server(
            (address, port), family=socket.AF_INET6 if ":" in address else socket.AF_INET
        )
        self.port: int = self._listening.getsockname()[1]
        self.place = f"[{address}]:{self.port}" if ":" in address else f"{address}:{self.port}"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for each in list(self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)

    def _start(self, run: object, *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closed:
            try:
                accepted, _ = self._listening.accept()
            except OSError:
                return
            self.num_connections += 1
            self._open.append(accepted)
            self._start(self._serve, accepted)

    def _serve(self, plain: socket.socket) -> None:
        with contextlib.suppress(OSError), plain:
            stream = self._context.wrap_socket(plain, server_side=True) if self._context else plain
            with stream, stream.makefile("rb") as incoming:
                while self._answer(stream, incoming):
                    pass

    def _answer(self, stream: socket.socket, incoming: object) -> bool:
        lines = list(iter(lambda: incoming.readline().strip().decode("latin-1"), ""))  # type: ignore[attr-defined]
        if not lines:
            return False
        target = lines[0].split(" ")[1]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        self.requests.append((target, headers["host"]))
        answer = self._next(target)
        data = answer.data()
        for start in range(0, len(data), answer.pieces or len(data) or 1):
            stream.sendall(data[start : start + (answer.pieces or len(data) or 1)])
            time.sleep(answer.pause_s)
            if self._closed:
                return False
        return not answer.closes

    def _next(self, target: str) -> Answer:
        answer = self.answers.get(target, Answer(status=404))
        if isinstance(answer, Answer):
            return answer
        if len(answer) > 1:
            self.answers[target] = answer[1:]
        return answer[0]
