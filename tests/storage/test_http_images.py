"""Reading images over HTTP from real local servers that lie, redirect, drip and rebind."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from batchrec.errors import ErrorCode, ImageError
from batchrec.spec import StoreOptions
from batchrec.storage import ImageReader, UriPolicy, http_client, http_connection
from tests.http_server import Answer, HttpServer, redirect

MAX_BYTES = 3_000_000
PUBLIC = "93.184.215.14"
METADATA = "http://169.254.169.254/latest/meta-data/iam/security-credentials/"
CANARY = "CANARYc4n4ry"

Lookup = list[tuple[int, int, int, str, tuple[object, ...]]]


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with HttpServer() as server:
        yield server


@pytest.fixture
def other() -> Iterator[HttpServer]:
    """A server nobody may be led to; it answers with a secret."""
    with HttpServer() as server:
        server.answers["/"] = server.answers["/a.jpg"] = Answer(b"secret")
        yield server


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "BACKOFF_S", 0.001)
    monkeypatch.setattr(http_client, "MAX_BACKOFF_S", 0.01)


@pytest.fixture
def reader_of(tmp_path: Path) -> Iterator[Callable[..., ImageReader]]:
    """A reader that may ask these hosts."""
    opened: list[ImageReader] = []

    def reader(*hosts: str) -> ImageReader:
        opened.append(ImageReader(UriPolicy(str(tmp_path), allow_http=hosts), StoreOptions(), MAX_BYTES))
        return opened[-1]

    yield reader
    for each in opened:
        each.close()


@pytest.fixture
def reader(reader_of: Callable[..., ImageReader], server: HttpServer) -> ImageReader:
    """A reader that may ask the server, by its address."""
    return reader_of(server.place)


@pytest.fixture
def lookups(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """What the resolver answers to each lookup of a name, one after another, and then again the last."""
    answers: dict[str, list[str]] = {"asked": []}

    def look_up(host: str, port: int, *_: object, **__: object) -> Lookup:
        answers["asked"].append(host)
        found = answers[host]
        text = found.pop(0) if len(found) > 1 else found[0]
        if text == "nothing":
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        families = {each: socket.AF_INET6 if ":" in each else socket.AF_INET for each in text.split()}
        return [(family, socket.SOCK_STREAM, 6, "", (each, port)) for each, family in families.items()]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return answers


def failure(reader: ImageReader, uri: str) -> ImageError:
    with pytest.raises(ImageError) as error:
        reader.read(uri)
    assert len(error.value.detail) <= 300
    assert CANARY not in str(error.value)
    return error.value


def test_an_image_is_read_and_its_connection_kept(server: HttpServer, reader: ImageReader) -> None:
    server.answers["/a%20b/%C3%A9.jpg?w=1&sig=x"] = Answer(b"image a")
    for _ in range(5):
        assert reader.read(f"http://{server.place}/a b/é.jpg?w=1&sig=x#top") == b"image a"
    assert server.num_connections == 1
    assert server.requests == [("/a%20b/%C3%A9.jpg?w=1&sig=x", server.place)] * 5


def test_many_threads_read_at_once(server: HttpServer, reader: ImageReader) -> None:
    for number in range(40):
        server.answers[f"/{number}"] = Answer(b"%d" % number * 1000)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda number: reader.read(f"http://{server.place}/{number}"), range(40)))
    assert found == [b"%d" % number * 1000 for number in range(40)]
    assert server.num_connections <= 8


def test_a_kept_connection_that_was_closed_meanwhile_costs_nothing(server: HttpServer, reader: ImageReader) -> None:
    server.answers["/a"] = Answer(b"image a", closes=True)
    for _ in range(3):
        assert reader.read(f"http://{server.place}/a") == b"image a"
    assert len(server.requests) == 3


def test_ipv6_is_spoken(reader_of: Callable[..., ImageReader]) -> None:
    try:
        server = HttpServer("::1")
    except OSError:
        pytest.skip("no IPv6 here")
    with server:
        server.answers["/a"] = Answer(b"image a")
        assert reader_of(server.place).read(f"http://{server.place}/a") == b"image a"
        assert server.requests == [("/a", server.place)]


@pytest.mark.parametrize(
    "answer",
    [
        Answer(b"image a" * 9999, pieces=1000),
        Answer(
            raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nima\r\n4;x=y\r\nge a\r\n0\r\nT: 1\r\n\r\n"
        ),
        Answer(raw=b"HTTP/1.0 200 OK\r\n\r\nimage a", closes=True),
        Answer(raw=b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nimage a"),
    ],
    ids=["pieces", "chunked", "until-closed", "continue"],
)
def test_every_way_of_sending_is_read(server: HttpServer, reader: ImageReader, answer: Answer) -> None:
    server.answers["/a"] = answer
    assert reader.read(f"http://{server.place}/a").startswith(b"image a")


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (204, "read_failed"),
        (206, "read_failed"),
        (304, "read_failed"),
        (400, "read_failed"),
        (401, "access_denied"),
        (403, "access_denied"),
        (404, "not_found"),
        (410, "not_found"),
        (414, "uri_invalid"),
        (451, "access_denied"),
        (501, "server_error"),
    ],
)
def test_an_answer_that_stays_has_its_code_at_once(
    server: HttpServer, reader: ImageReader, status: int, code: str
) -> None:
    server.answers["/a"] = Answer(b"" if status in (204, 304) else CANARY.encode(), status, {"X-Note": CANARY})
    error = failure(reader, f"http://{server.place}/a")
    assert (error.code.value, error.detail) == (code, f"HTTP {status}")
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 408])
def test_a_busy_server_is_asked_again(server: HttpServer, reader: ImageReader, status: int) -> None:
    busy = Answer(status=status, headers={"Retry-After": "1"})
    server.answers["/a"] = [busy, busy, busy, Answer(b"image a")]
    assert reader.read(f"http://{server.place}/a") == b"image a"
    server.answers["/a"] = busy
    code = ErrorCode.TIMEOUT if status == 408 else ErrorCode.SERVER_ERROR
    assert failure(reader, f"http://{server.place}/a").code is code
    assert len(server.requests) == 8


def test_pauses_between_tries_grow_and_are_others_for_each_image(
    server: HttpServer, reader: ImageReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers["/a"] = Answer(status=503)
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", lambda pause_s: pauses.append(pause_s) if pause_s else None)  # the server's is 0
    failure(reader, f"http://{server.place}/a")
    first = pauses.copy()
    failure(reader, f"http://{server.place}/a")
    second = pauses[len(first) :]
    for waited in (first, second):
        assert len(waited) == http_client.MAX_TRIES - 1
        assert waited == sorted(waited)
        assert waited[-1] > 1.5 * waited[0]
    assert all(one != another for one, another in zip(first, second, strict=True))


@pytest.mark.parametrize(
    "broken",
    [
        Answer(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 700\r\n\r\nimage", closes=True),
        Answer(raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n70\r\nimage", closes=True),
        Answer(raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nimage", closes=True),
        Answer(raw=b"HTTP/1.1 200 OK\r\nContent-Le", closes=True),
        Answer(raw=b"", closes=True),
    ],
    ids=["cut", "cut-chunk", "no-number", "cut-header", "nothing"],
)
def test_an_answer_that_is_cut_is_asked_for_again(server: HttpServer, reader: ImageReader, broken: Answer) -> None:
    server.answers["/a"] = [broken, Answer(b"image a")]
    assert reader.read(f"http://{server.place}/a") == b"image a"
    server.answers["/b"] = broken
    assert failure(reader, f"http://{server.place}/b").code is ErrorCode.SERVER_ERROR


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (Answer(b""), "empty"),
        (Answer(b"x" * (MAX_BYTES + 1)), "too_many_bytes"),
        (Answer(headers={"Content-Length": str(10**15)}), "too_many_bytes"),
        (Answer(b"x", headers={"Content-Encoding": "gzip"}), "read_failed"),
        (Answer(raw=b"SSH-2.0-OpenSSH_9.2\r\n", closes=True), "server_error"),
        (Answer(raw=b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n"), "server_error"),
        (Answer(raw=b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n"), "server_error"),
        (
            Answer(
                raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"80000\r\n%b\r\n" % bytes(2**19) * 8
            ),
            "too_many_bytes",
        ),
    ],
    ids=["empty", "long", "announced", "compressed", "ssh", "long-header", "many-headers", "long-chunked"],
)
def test_what_no_image_should_be_has_its_code(
    server: HttpServer, reader: ImageReader, answer: Answer, code: str
) -> None:
    server.answers["/a"] = answer
    assert failure(reader, f"http://{server.place}/a").code.value == code


@pytest.mark.parametrize(
    "answer",
    [
        Answer(raw=b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1000, pieces=1, pause_s=0.02),
        Answer(b"x" * 1000, pieces=1, pause_s=0.02),
        Answer(raw=b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000, pieces=25, pause_s=0.02),
    ],
    ids=["header", "body", "continue"],
)
def test_bytes_that_drip_end_as_a_timeout(
    server: HttpServer, reader: ImageReader, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_client, "MAX_TRIES", 1)
    monkeypatch.setattr(http_client, "TIMEOUT_S", 0.3)
    monkeypatch.setattr(http_connection, "TIMEOUT_S", 0.3)
    server.answers["/a"] = answer
    began = time.monotonic()
    assert failure(reader, f"http://{server.place}/a").code is ErrorCode.TIMEOUT
    assert time.monotonic() - began < 5


def test_a_server_that_is_not_there_is_unreachable(reader_of: Callable[..., ImageReader]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        place = f"127.0.0.1:{gone.getsockname()[1]}"
    assert failure(reader_of(place), f"http://{place}/a").code is ErrorCode.ENDPOINT_UNREACHABLE


# --- Redirects --------------------------------------------------------------------------------------------------------


def test_redirects_on_the_same_host_are_followed(server: HttpServer, reader: ImageReader) -> None:
    server.answers |= {
        "/a": redirect("/b", 301),
        "/b": redirect(f"http://{server.place}/c?x=1", 307),
        "/c?x=1": redirect("d", 308),
    }
    server.answers["/d"] = Answer(b"image d")
    assert reader.read(f"http://{server.place}/a") == b"image d"


def test_redirects_that_go_round_end(server: HttpServer, reader: ImageReader) -> None:
    server.answers["/a"] = redirect("/a")
    assert failure(reader, f"http://{server.place}/a").code is ErrorCode.URI_REFUSED
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    "location",
    [
        METADATA,
        f"//169.254.169.254/{CANARY}",
        "http://0xa9fea9fe/",
        "http://[::ffff:169.254.169.254]/",
        "http://2852039166/",
        "http://localhost:{other}/",
        "http://127.0.0.1:{other}/",
        "http://127.0.0.1:{other}\\@127.0.0.1:{own}/",
        "http://127.0.0.1:{own}@127.0.0.1:{other}/",
        "http://127.0.0.1:{own}:{other}/",
        "http://127.0.0.2:{own}/",
        "http://images.example/a.jpg",
        "https://127.0.0.1/",
        "file:///etc/passwd",
        "file:///a.jpg",
        "FILE:/etc/passwd",
        "gopher://127.0.0.1:{other}/",
        "ftp://127.0.0.1:{other}/",
        "data:image/png;base64,aW1hZ2U=",
        "javascript:alert(1)",
        "s3://partner-photos/a.jpg",
        "dict://127.0.0.1:{other}/",
        "http://",
        "http:///",
        "http://[::1/",
        "\\\\127.0.0.1:{other}\\a.jpg",
        f"https://u:{CANARY}@images.example/?X-Amz-Signature={CANARY}",
    ],
)
def test_no_redirect_leads_elsewhere(server: HttpServer, other: HttpServer, reader: ImageReader, location: str) -> None:
    server.answers["/a"] = redirect(location.replace("{other}", str(other.port)).replace("{own}", str(server.port)))
    error = failure(reader, f"http://{server.place}/a")
    # A backslash is no separator here, and no host is the same host: nothing is there.
    stays = location.startswith("\\") or location == "http:///"
    assert error.code is (ErrorCode.NOT_FOUND if stays else ErrorCode.URI_REFUSED)
    assert other.requests == []


def test_a_redirect_to_another_allowed_host_is_not_followed(
    server: HttpServer, other: HttpServer, reader_of: Callable[..., ImageReader]
) -> None:
    # 127.0.0.1 with another port is another service, though the host is one and both are allowed.
    reader = reader_of(server.place, other.place, "images.example")
    server.answers["/a"] = redirect("https://images.example/a.jpg")
    assert failure(reader, f"http://{server.place}/a").code is ErrorCode.URI_REFUSED
    server.answers["/b"] = redirect(f"http://{other.place}/")
    assert reader.read(f"http://{server.place}/b") == b"secret"


# --- Names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "found",
    [
        "127.0.0.1",
        "::1",
        "::ffff:127.0.0.1",
        "10.0.0.7",
        "169.254.169.254",
        "64:ff9b::7f00:1",
        f"{PUBLIC} 127.0.0.1",
        f"127.0.0.1 {PUBLIC}",
        "fd00:ec2::254",
        "0.0.0.0",
        "100.100.100.200",
    ],
)
def test_a_name_that_leads_to_a_private_address_is_not_connected_to(
    server: HttpServer, reader_of: Callable[..., ImageReader], lookups: dict[str, list[str]], found: str
) -> None:
    server.answers["/a"] = Answer(b"secret")
    lookups["images.example"] = [found]
    error = failure(reader_of(f"images.example:{server.port}"), f"http://images.example:{server.port}/a")
    assert error.code is ErrorCode.URI_REFUSED
    assert (server.requests, server.num_connections, lookups["asked"]) == ([], 0, ["images.example"])


def test_a_name_that_leads_elsewhere_at_the_second_lookup_gains_nothing(
    server: HttpServer,
    reader_of: Callable[..., ImageReader],
    lookups: dict[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """First a public address for the check, then this machine for the connection, if anybody looked twice."""
    monkeypatch.setattr(http_connection, "CONNECT_TIMEOUT_S", 0.2)
    monkeypatch.setattr(http_client, "MAX_TRIES", 1)
    server.answers["/a"] = Answer(b"secret")
    uri = f"http://images.example:{server.port}/a"
    reader = reader_of(f"images.example:{server.port}")
    lookups["images.example"] = [PUBLIC, "127.0.0.1"]
    assert failure(reader, uri).code in (ErrorCode.ENDPOINT_UNREACHABLE, ErrorCode.TIMEOUT)
    assert lookups["asked"] == ["images.example"]
    # The next try looks the name up again, and checks again.
    assert failure(reader, uri).code is ErrorCode.URI_REFUSED
    assert lookups["asked"] == ["images.example"] * 2
    assert (server.requests, server.num_connections) == ([], 0)


def test_the_connection_goes_to_the_very_address_that_was_checked(
    reader_of: Callable[..., ImageReader], lookups: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[str] = []
    monkeypatch.setattr(http_connection, "is_public", lambda address: checked.append(address) or address == "127.0.0.1")
    with HttpServer() as good, HttpServer("127.0.0.2", good.port) as bad:
        good.answers["/a"] = Answer(b"image a")
        lookups["images.example"] = ["127.0.0.1", "127.0.0.2"]
        place = f"images.example:{good.port}"
        assert reader_of(place).read(f"http://{place}/a") == b"image a"
        assert (good.requests, bad.requests) == ([("/a", place)], [])
        assert (checked, lookups["asked"]) == (["127.0.0.1"], ["images.example"])


def test_an_address_on_the_command_line_is_not_looked_up(
    server: HttpServer, reader: ImageReader, lookups: dict[str, list[str]]
) -> None:
    server.answers["/a"] = Answer(b"image a")
    assert reader.read(f"http://{server.place}/a") == b"image a"
    assert lookups["asked"] == []


def test_a_name_nobody_knows_is_unreachable_and_asked_for_once(
    reader_of: Callable[..., ImageReader], lookups: dict[str, list[str]]
) -> None:
    lookups["images.example"] = ["nothing"]
    error = failure(reader_of("images.example"), "https://images.example/a")
    assert (error.code, error.detail) == (ErrorCode.ENDPOINT_UNREACHABLE, "its host name cannot be looked up")
    assert lookups["asked"] == ["images.example"]


def test_proxies_of_the_environment_are_not_asked(
    server: HttpServer, other: HttpServer, reader: ImageReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://{other.place}")
    server.answers["/a"] = Answer(b"image a")
    assert reader.read(f"http://{server.place}/a") == b"image a"
    assert other.num_connections == 0


# --- TLS --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, and a certificate of images.example from it."""
    if shutil.which("openssl") is None:
        pytest.skip("making certificates needs openssl")
    folder = tmp_path_factory.mktemp("certificates")
    new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    for name in ("images.example", "other.example"):
        made = [*new, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}"]
        made += ["-addext", f"subjectAltName=DNS:{name}"]
        subprocess.run(made, cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
def tls_server(
    certificates: Path, monkeypatch: pytest.MonkeyPatch, lookups: dict[str, list[str]]
) -> Iterator[HttpServer]:
    """A server that is images.example, to whoever trusts the certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "images.example.pem", certificates / "images.example.key")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "images.example.pem"))
    monkeypatch.setattr(http_connection, "is_public", lambda address: address == "127.0.0.1")
    lookups["images.example"] = lookups["other.example"] = ["127.0.0.1"]
    with HttpServer(context=context) as server:
        server.answers["/a"] = Answer(b"image a")
        yield server


def test_https_is_read_where_the_certificate_is_of_the_name(
    tls_server: HttpServer, reader_of: Callable[..., ImageReader]
) -> None:
    reader = reader_of(f"images.example:{tls_server.port}")
    for _ in range(3):
        assert reader.read(f"https://images.example:{tls_server.port}/a") == b"image a"
    assert tls_server.num_connections == 1


@pytest.mark.parametrize("host", ["other.example", "127.0.0.1"])
def test_a_certificate_of_another_name_is_refused(
    tls_server: HttpServer, reader_of: Callable[..., ImageReader], host: str
) -> None:
    place = f"{host}:{tls_server.port}"
    error = failure(reader_of(place), f"https://{place}/a")
    assert (error.code, error.detail[:12]) == (ErrorCode.ENDPOINT_UNREACHABLE, "certificate:")
    assert tls_server.requests == []


def test_a_certificate_nobody_vouches_for_is_refused(
    tls_server: HttpServer, reader_of: Callable[..., ImageReader], certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "other.example.pem"))
    place = f"images.example:{tls_server.port}"
    assert failure(reader_of(place), f"https://{place}/a").detail.startswith("certificate: ")
    assert tls_server.requests == []


def test_no_redirect_leads_from_https_to_http(
    tls_server: HttpServer, server: HttpServer, reader_of: Callable[..., ImageReader]
) -> None:
    reader = reader_of(f"images.example:{tls_server.port}", f"images.example:{server.port}")
    tls_server.answers["/b"] = redirect(f"http://images.example:{server.port}/a")
    error = failure(reader, f"https://images.example:{tls_server.port}/b")
    assert (error.code, error.detail) == (ErrorCode.URI_REFUSED, "it redirects from https to http")
    assert server.requests == []


# --- Room -------------------------------------------------------------------------------------------------------------


class Accounts:
    """Room that is there at once, or only for who waits as long as it takes."""

    def __init__(self, *, short: bool = False) -> None:
        self.held = 0
        self.asked: list[tuple[int, bool]] = []
        self._short = short

    def reserve(self, num_bytes: int, patience_s: float | None) -> bool:
        self.asked.append((num_bytes, patience_s is None))
        granted = patience_s is None or not self._short
        self.held = num_bytes if granted else 0
        return granted


CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"40000\r\n%b\r\n" % bytes(2**18) * 10 + b"0\r\n\r\n"
)


@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("answer", [Answer(bytes(2_000_000)), Answer(raw=CHUNKED)], ids=["announced", "chunked"])
def test_room_for_exactly_the_image_is_held_in_the_end(
    server: HttpServer, reader: ImageReader, answer: Answer, short: bool
) -> None:
    accounts = Accounts(short=short)
    server.answers["/a"] = answer
    data = reader.read(f"http://{server.place}/a", accounts.reserve)
    assert accounts.held == len(data) >= 2_000_000


def test_room_is_given_back_while_a_busy_server_is_waited_for(server: HttpServer, reader: ImageReader) -> None:
    cut = Answer(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nima", closes=True)
    server.answers["/a"] = [cut, Answer(b"image a")]
    accounts = Accounts()
    assert reader.read(f"http://{server.place}/a", accounts.reserve) == b"image a"
    assert accounts.asked == [(7, False), (0, True), (7, False)]


def test_closing_ends_the_connections_that_were_kept(server: HttpServer, reader: ImageReader) -> None:
    server.answers["/a"] = Answer(b"image a")
    reader.read(f"http://{server.place}/a")
    reader.close()
    reader.read(f"http://{server.place}/a")
    assert server.num_connections == 2
    assert threading.active_count() < 100
