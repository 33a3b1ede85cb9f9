"""A small S3 server that tells the truth about races.

Every request is applied between two awaits of one event loop, so all operations are totally ordered
(linearizable): of many conditional PUTs of one key exactly one wins. Signatures are not verified.

    with S3Server() as server:
        server.create_bucket("photos")
        server.fault = lambda request: Fault(status=503, code="SlowDown") if request.method == "PUT" else None

or, from a shell: ``python -m tests.s3_server --port 9000 --folder DIR`` (each folder in DIR is a bucket).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import shutil
import socket
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import formatdate
from pathlib import Path
from typing import Protocol, Self
from urllib.parse import parse_qsl, quote, unquote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

REASONS = {200: "OK", 204: "No Content", 206: "Partial Content", 301: "Moved Permanently", 304: "Not Modified"}


@dataclass(frozen=True, slots=True)
class Request:
    """One request, as a fault hook sees it; ``number`` counts from 1 over the server's life."""

    number: int
    method: str
    bucket: str
    key: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Fault:
    """What to do to a request instead of, or beside, answering it.

    Attributes:
        status: Answer this status with ``code`` instead of the true answer.
        code: S3 error code of that answer.
        delay_s: Wait before anything else.
        applied: Apply the request first, then fail.
        reset: Drop the connection instead of answering.
        answer_delay_s: Wait between applying and answering.
        cut_bytes: Announce the whole body but send only so much of it, then drop the connection.
    """

    status: int | None = None
    code: str = "InternalError"
    delay_s: float = 0.0
    applied: bool = False
    reset: bool = False
    answer_delay_s: float = 0.0
    cut_bytes: int | None = None


class SeededFaults:
    """A fault hook that draws from a seed; the n-th request of one kind for one key always meets the same.

    Threads come in any order, so the draw hangs on what is asked for and not on when.

    Args:
        seed: Another one draws others.
        faults: Each with its share of the requests of its methods.

    Attributes:
        made: How often each was made, by its place in the list.
    """

    def __init__(self, seed: int, faults: Sequence[tuple[float, str, Fault]]) -> None:
        self._seed, self._faults = seed, faults
        self._asked: Counter[tuple[str, str, str]] = Counter()
        self.made: Counter[int] = Counter()

    def __call__(self, request: Request) -> Fault | None:
        kind = request.method, request.bucket, request.key
        self._asked[kind] += 1
        digest = hashlib.sha256(repr((self._seed, *kind, self._asked[kind])).encode()).digest()
        drawn = int.from_bytes(digest[:8], "big") / 2**64
        for number, (share, methods, fault) in enumerate(self._faults):
            if request.method in methods.split():
                drawn -= share
                if drawn < 0:
                    self.made[number] += 1
                    return fault
        return None


#: A bad day: each with its share of the requests it can meet.
BAD_DAY = (
    (0.05, "GET PUT HEAD POST DELETE", Fault(status=503, code="SlowDown")),
    (0.02, "PUT POST DELETE", Fault(status=500, applied=True)),
    (0.01, "PUT POST DELETE", Fault(reset=True, applied=True)),
    (0.01, "PUT", Fault(status=409, code="ConditionalRequestConflict")),
    (0.01, "GET", Fault(cut_bytes=100)),
    (0.01, "GET PUT HEAD", Fault(reset=True)),
    (0.05, "GET PUT HEAD", Fault(delay_s=0.05, answer_delay_s=0.05)),
)


@dataclass(frozen=True, slots=True)
class Access:
    """One line of the access log; ``status`` 0 means the connection was dropped."""

    method: str
    bucket: str
    key: str
    status: int
    num_bytes: int
    range: str
    conditional: bool


@dataclass(frozen=True, slots=True)
class Stored:
    """An object as a GET sees it."""

    data: bytes
    etag: str
    modified: float


@dataclass(slots=True)
class Answer:
    """A response before it is written."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class S3Fault(Exception):
    """An S3 error answer."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.answer = _error(status, code)


def _error(status: int, code: str) -> Answer:
    body = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{code} (test server)</Message>'
        f"<AWSAccessKeyId>AKIACANARYINBODY</AWSAccessKeyId><RequestId>{uuid.uuid4().hex}</RequestId></Error>"
    )
    return Answer(status, body.encode(), {"Content-Type": "application/xml"})


class Shelf(Protocol):
    """Where objects are kept."""

    def create_bucket(self, bucket: str) -> None: ...
    def buckets(self) -> list[str]: ...
    def get(self, bucket: str, key: str) -> Stored | None: ...
    def put(self, bucket: str, key: str, data: bytes) -> Stored: ...
    def delete(self, bucket: str, key: str) -> None: ...
    def keys(self, bucket: str) -> list[tuple[str, int, str, float]]: ...


class MemoryShelf:
    """Objects in a dict."""

    def __init__(self) -> None:
        self._objects: dict[str, dict[str, Stored]] = {}

    def create_bucket(self, bucket: str) -> None:
        self._objects.setdefault(bucket, {})

    def buckets(self) -> list[str]:
        return sorted(self._objects)

    def get(self, bucket: str, key: str) -> Stored | None:
        return self._objects[bucket].get(key)

    def put(self, bucket: str, key: str, data: bytes) -> Stored:
        stored = Stored(data, hashlib.md5(data, usedforsecurity=False).hexdigest(), time.time())
        self._objects[bucket][key] = stored
        return stored

    def delete(self, bucket: str, key: str) -> None:
        self._objects[bucket].pop(key, None)

    def keys(self, bucket: str) -> list[tuple[str, int, str, float]]:
        objects = self._objects[bucket]
        ordered = sorted(objects, key=lambda key: key.encode())
        return [(key, len(objects[key].data), objects[key].etag, objects[key].modified) for key in ordered]


class FolderShelf:
    """Objects as files: each folder below the root is a bucket, for archives too large for memory."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def create_bucket(self, bucket: str) -> None:
        (self._root / bucket).mkdir(parents=True, exist_ok=True)

    def buckets(self) -> list[str]:
        return sorted(entry.name for entry in self._root.iterdir() if entry.is_dir())

    def _path(self, bucket: str, key: str) -> Path:
        if {"", ".", ".."} & set(key.split("/")):
            raise S3Fault(400, "InvalidURI")
        return self._root / bucket / key

    def get(self, bucket: str, key: str) -> Stored | None:
        path = self._path(bucket, key)
        try:
            data, facts = path.read_bytes(), path.stat()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None
        return Stored(data, f"{facts.st_mtime_ns:x}-{facts.st_size:x}", facts.st_mtime)

    def put(self, bucket: str, key: str, data: bytes) -> Stored:
        path = self._path(bucket, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self._root, prefix=".staged-", delete=False) as staged:
            staged.write(data)
        shutil.move(staged.name, path)
        stored = self.get(bucket, key)
        assert stored is not None
        return stored

    def delete(self, bucket: str, key: str) -> None:
        self._path(bucket, key).unlink(missing_ok=True)

    def keys(self, bucket: str) -> list[tuple[str, int, str, float]]:
        root = self._root / bucket
        found = []
        for path in root.rglob("*"):
            if path.is_file():
                facts = path.stat()
                etag = f"{facts.st_mtime_ns:x}-{facts.st_size:x}"
                found.append((path.relative_to(root).as_posix(), facts.st_size, etag, facts.st_mtime))
        return sorted(found, key=lambda entry: entry[0].encode())


class S3Server:
    """The server; starts on entering, on a free port of 127.0.0.1 unless told otherwise.

    Attributes:
        fault: Decides for every request whether something goes wrong; None for nothing.
        conditional_put: False makes a store that ignores ``If-None-Match`` on PUT.
        log: Every request answered, in order.
        num_connections: Connections accepted so far.
        under_way: Requests being answered now, by number.
    """

    def __init__(
        self, *, host: str = "127.0.0.1", port: int = 0, folder: Path | None = None, conditional_put: bool = True
    ) -> None:
        self.shelf: Shelf = FolderShelf(folder) if folder else MemoryShelf()
        self.fault: Callable[[Request], Fault | None] | None = None
        self.conditional_put = conditional_put
        self.log: list[Access] = []
        self.num_connections = 0
        self.under_way: dict[int, Request] = {}
        self._host, self._port = host, port
        self._number = 0
        self._uploads: dict[str, dict[int, bytes]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._open: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self._port}"

    @property
    def environment(self) -> dict[str, str]:
        """The AWS variables that lead a client here."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "AKIATESTTESTTESTTEST",
            "AWS_SECRET_ACCESS_KEY": "secretsecretsecretsecretsecretsecretsecr",
        }

    def create_bucket(self, bucket: str) -> None:
        self.shelf.create_bucket(bucket)

    def put(self, bucket: str, key: str, data: bytes) -> None:
        """Store an object without a request."""
        self.shelf.create_bucket(bucket)
        self.shelf.put(bucket, key, data)

    def get(self, bucket: str, key: str) -> bytes | None:
        """Return an object without a request; None where there is none."""
        stored = self.shelf.get(bucket, key)
        return stored.data if stored else None

    def keys(self, bucket: str) -> list[str]:
        return [entry[0] for entry in self.shelf.keys(bucket)]

    def requests(self, method: str | None = None, key: str | None = None) -> list[Access]:
        """Return the logged requests of one method, one key, or both."""
        return [line for line in self.log if method in (None, line.method) and key in (None, line.key)]

    def __enter__(self) -> Self:
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), name="s3-server", daemon=True)
        self._thread.start()
        if not started.wait(10):
            raise RuntimeError("the S3 server did not start")
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._loop is not None and self._thread is not None
        self._loop.call_soon_threadsafe(self._stop)
        self._thread.join(10)

    def _run(self, started: threading.Event) -> None:
        asyncio.run(self.serve(started.set))

    def _stop(self) -> None:
        self._stopping.set()

    async def serve(self, started: Callable[[], None] = lambda: None) -> None:
        """Answer requests until stopped."""
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        server = await asyncio.start_server(self._connection, self._host, self._port, limit=2**20)
        self._port = server.sockets[0].getsockname()[1]
        started()
        await self._stopping.wait()
        server.close()
        for writer in list(self._open):
            writer.transport.abort()
        # The handlers of the aborted connections end by themselves; wait so that none is destroyed pending.
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        self.num_connections += 1
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        request = await self._parse(head, reader, writer)
        self.under_way[request.number] = request
        try:
            return await self._settle(request, writer)
        finally:
            del self.under_way[request.number]

    async def _settle(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        fault = (self.fault(request) if self.fault else None) or Fault()
        if fault.delay_s:
            await asyncio.sleep(fault.delay_s)
        failing = fault.status is not None or fault.reset
        answer = self._apply(request) if fault.applied or not failing else Answer(200)
        if fault.answer_delay_s:
            await asyncio.sleep(fault.answer_delay_s)
        if fault.status is not None:
            answer = _error(fault.status, fault.code)
        self._note(request, 0 if fault.reset else answer.status, len(answer.body))
        if fault.reset:
            writer.transport.abort()
            return False
        return await self._answer(request, answer, fault, writer)

    def _note(self, request: Request, status: int, num_bytes: int) -> None:
        conditional = "if-none-match" in request.headers
        wanted = request.headers.get("range", "")
        self.log.append(Access(request.method, request.bucket, request.key, status, num_bytes, wanted, conditional))

    async def _parse(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request:
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ", 2)
        headers = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if colon:
                headers[name.strip().lower()] = value.strip()
        if headers.get("expect", "").lower() == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await _body(headers, reader)
        path, _, query = target.partition("?")
        bucket, _, key = unquote(path).lstrip("/").partition("/")
        self._number += 1
        return Request(self._number, method, bucket, key, dict(parse_qsl(query, keep_blank_values=True)), headers, body)

    async def _answer(self, request: Request, answer: Answer, fault: Fault, writer: asyncio.StreamWriter) -> bool:
        headers = {"Content-Length": str(len(answer.body)), "x-amz-request-id": uuid.uuid4().hex, **answer.headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(f"HTTP/1.1 {answer.status} {REASONS.get(answer.status, 'Error')}\r\n{lines}\r\n".encode())
        if request.method != "HEAD" and answer.status not in (204, 304):
            writer.write(answer.body if fault.cut_bytes is None else answer.body[: fault.cut_bytes])
        await writer.drain()
        return fault.cut_bytes is None and request.headers.get("connection", "").lower() != "close"

    def _apply(self, request: Request) -> Answer:
        try:
            return self._route(request)
        except S3Fault as fault:
            return fault.answer

    def _route(self, request: Request) -> Answer:
        if not request.bucket:
            names = "".join(f"<Bucket><Name>{name}</Name></Bucket>" for name in self.shelf.buckets())
            return _xml("ListAllMyBucketsResult", f"<Buckets>{names}</Buckets>")
        if not request.key and request.method == "PUT":
            self.shelf.create_bucket(request.bucket)
            return Answer(200)
        if request.bucket not in self.shelf.buckets():
            raise S3Fault(404, "NoSuchBucket")
        if not request.key:
            return self._bucket(request)
        if "uploads" in request.query or "uploadId" in request.query:
            return self._multipart(request)
        act = {"GET": self._get, "HEAD": self._get, "PUT": self._put, "DELETE": self._delete}.get(request.method)
        if act is None:
            raise S3Fault(405, "MethodNotAllowed")
        return act(request)

    def _bucket(self, request: Request) -> Answer:
        if request.method == "HEAD":
            return Answer(200)
        if request.method == "POST" and "delete" in request.query:
            return self._delete_many(request)
        if request.method == "GET" and "location" in request.query:
            return _xml("LocationConstraint", "")
        if request.method == "GET":
            return self._list(request)
        raise S3Fault(405, "MethodNotAllowed")

    def _get(self, request: Request) -> Answer:
        stored = self.shelf.get(request.bucket, request.key)
        if stored is None:
            raise S3Fault(404, "NoSuchKey")
        etag = f'"{stored.etag}"'
        headers = {
            "ETag": etag,
            "Last-Modified": formatdate(stored.modified, usegmt=True),
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }
        if request.headers.get("if-match", etag) not in (etag, "*"):
            raise S3Fault(412, "PreconditionFailed")
        if request.headers.get("if-none-match") in (etag, "*"):
            return Answer(304, b"", headers)
        if (wanted := request.headers.get("range")) is not None:
            start, stop = _range(wanted, len(stored.data))
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(stored.data)}"
            return Answer(206, stored.data[start:stop], headers)
        return Answer(200, stored.data, headers)

    def _put(self, request: Request) -> Answer:
        if "x-amz-copy-source" in request.headers:
            bucket, _, key = unquote(request.headers["x-amz-copy-source"]).lstrip("/").partition("/")
            source = self.shelf.get(bucket, key)
            if source is None:
                raise S3Fault(404, "NoSuchKey")
            stored = self.shelf.put(request.bucket, request.key, source.data)
            return _xml("CopyObjectResult", f"<ETag>&quot;{stored.etag}&quot;</ETag>")
        self._refuse_if_there(request)
        stored = self.shelf.put(request.bucket, request.key, request.body)
        return Answer(200, b"", {"ETag": f'"{stored.etag}"'})

    def _refuse_if_there(self, request: Request) -> None:
        conditional = self.conditional_put and request.headers.get("if-none-match") == "*"
        if conditional and self.shelf.get(request.bucket, request.key) is not None:
            raise S3Fault(412, "PreconditionFailed")

    def _delete(self, request: Request) -> Answer:
        self.shelf.delete(request.bucket, request.key)
        return Answer(204)

    def _delete_many(self, request: Request) -> Answer:
        deleted = []
        for element in ElementTree.fromstring(request.body).iter():
            if element.tag.rpartition("}")[2] == "Key" and element.text:
                self.shelf.delete(request.bucket, element.text)
                deleted.append(f"<Deleted><Key>{escape(element.text)}</Key></Deleted>")
        return _xml("DeleteResult", "".join(deleted))

    def _list(self, request: Request) -> Answer:
        query = request.query
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after = query.get("continuation-token") or query.get("start-after", "")
        limit = min(int(query.get("max-keys", "1000")), 1000)
        entries = list(_entries(self.shelf.keys(request.bucket), prefix, delimiter, after))
        page, rest = entries[:limit], entries[limit:]
        coded = quote if query.get("encoding-type") == "url" else escape
        body = [f"<Name>{request.bucket}</Name><Prefix>{coded(prefix)}</Prefix><KeyCount>{len(page)}</KeyCount>"]
        body.append(f"<MaxKeys>{limit}</MaxKeys><IsTruncated>{'true' if rest else 'false'}</IsTruncated>")
        if "encoding-type" in query:
            body.append("<EncodingType>url</EncodingType>")
        if rest:
            body.append(f"<NextContinuationToken>{escape(page[-1][0])}</NextContinuationToken>")
        body += [xml(coded) for _, xml in page]
        return _xml("ListBucketResult", "".join(body))

    def _multipart(self, request: Request) -> Answer:
        upload = request.query.get("uploadId", "")
        if "uploads" in request.query:
            upload = uuid.uuid4().hex
            self._uploads[upload] = {}
            return _xml(
                "InitiateMultipartUploadResult",
                f"<Bucket>{request.bucket}</Bucket><Key>{escape(request.key)}</Key><UploadId>{upload}</UploadId>",
            )
        if upload not in self._uploads:
            raise S3Fault(404, "NoSuchUpload")
        if request.method == "PUT":
            self._uploads[upload][int(request.query["partNumber"])] = request.body
            return Answer(200, b"", {"ETag": f'"{hashlib.md5(request.body, usedforsecurity=False).hexdigest()}"'})
        if request.method == "DELETE":
            del self._uploads[upload]
            return Answer(204)
        self._refuse_if_there(request)
        parts = self._uploads.pop(upload)
        stored = self.shelf.put(request.bucket, request.key, b"".join(parts[number] for number in sorted(parts)))
        return _xml(
            "CompleteMultipartUploadResult",
            f"<Bucket>{request.bucket}</Bucket><Key>{escape(request.key)}</Key><ETag>&quot;{stored.etag}&quot;</ETag>",
        )


def _entries(
    keys: list[tuple[str, int, str, float]], prefix: str, delimiter: str, after: str
) -> Iterator[tuple[str, Callable[[Callable[[str], str]], str]]]:
    seen = set()
    for key, size, etag, modified in keys:
        if not key.startswith(prefix):
            continue
        head, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
        common = prefix + head + found if found else ""
        if common and common not in seen and common.encode() > after.encode():
            seen.add(common)
            yield (
                common,
                lambda coded, common=common: f"<CommonPrefixes><Prefix>{coded(common)}</Prefix></CommonPrefixes>",
            )  # type: ignore[misc]
        if not common and key.encode() > after.encode():
            when = datetime.fromtimestamp(modified, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
            rest = f"<LastModified>{when}</LastModified><ETag>&quot;{etag}&quot;</ETag><Size>{size}</Size>"
            yield key, lambda coded, key=key, rest=rest: f"<Contents><Key>{coded(key)}</Key>{rest}</Contents>"  # type: ignore[misc]


def _range(wanted: str, size: int) -> tuple[int, int]:
    first, _, last = wanted.removeprefix("bytes=").partition("-")
    start, stop = (int(first), int(last) + 1 if last else size) if first else (max(0, size - int(last)), size)
    if start >= size or start >= stop:
        raise S3Fault(416, "InvalidRange")
    return start, min(stop, size)


def _xml(root: str, body: str) -> Answer:
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<{root} xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{body}</{root}>'
    return Answer(200, text.encode(), {"Content-Type": "application/xml"})


async def _body(headers: dict[str, str], reader: asyncio.StreamReader) -> bytes:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        raw = await _chunks(reader)
    else:
        raw = await reader.readexactly(int(headers.get("content-length", "0")))
    if headers.get("x-amz-content-sha256", "").startswith("STREAMING-"):
        inner = asyncio.StreamReader()
        inner.feed_data(raw)
        inner.feed_eof()
        return await _chunks(inner)
    return raw


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    while (await reader.readuntil(b"\r\n")).strip():  # trailers
        pass
    return bytes(body)


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description="A small S3 server for tests and measurements.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--folder", type=Path, help="keep objects as files here; each folder in it is a bucket")
    parser.add_argument("--bucket", action="append", default=[], help="create this bucket")
    parser.add_argument("--no-conditional-put", action="store_true", help="ignore If-None-Match")
    parser.add_argument("--latency-s", type=float, default=0.0, help="wait so long before every answer")
    parser.add_argument("--rejected", type=float, default=0.0, help="share of the requests answered with 503 SlowDown")
    args = parser.parse_args()
    server = S3Server(host=args.host, port=args.port, folder=args.folder, conditional_put=not args.no_conditional_put)
    if args.latency_s or args.rejected:
        late = Fault(delay_s=args.latency_s)
        rejected = Fault(status=503, code="SlowDown", delay_s=args.latency_s)
        drawn = SeededFaults(0, [(args.rejected, "GET PUT HEAD POST DELETE", rejected)])
        server.fault = lambda request: drawn(request) or late
    for bucket in args.bucket:
        server.create_bucket(bucket)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(server.serve(lambda: print(server.url, flush=True)))


if __name__ == "__main__":
    main()
