"""Secrets that a job meets on its way appear nowhere: not in outputs, reports, messages or logs."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchrec.storage import s3_client
from tests.http_server import Answer, HttpServer, redirect
from tests.s3_server import Fault, Request, S3Server

Cli = Callable[..., tuple[int, str, str]]

#: Each place has a canary of its own, so that a leak names where it came from.
IN_USERINFO, IN_SIGNATURE, IN_TOKEN, IN_AZURE = "c4naryUSERINFO", "c4narySIGNATURE", "c4naryTOKEN", "c4naryAZURE"
IN_ANSWER, IN_ENVIRONMENT, IN_SESSION, IN_RAY = "c4naryANSWER", "c4naryENVIRONMENT", "c4narySESSION", "c4naryRAY"
ANY = "c4nary"
KEY_ID = "AKIAC4NARYC4NARYC4NA"

SIGNED = (
    f"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={KEY_ID}%2F20260101%2Fus-east-1%2Fs3%2Faws4_request"
    f"&X-Amz-Security-Token={IN_TOKEN}&X-Amz-Expires=60&X-Amz-Signature={IN_SIGNATURE}"
)
REFUSED = [
    f"https://user:{IN_USERINFO}@images.example/a.jpg",
    f"https://{IN_USERINFO}@images.example/a.jpg",
    f"https://user:{IN_USERINFO}/x?@images.example/a.jpg",
    f"s3://{KEY_ID}:{IN_USERINFO}@photos/a.jpg",
    f"ftp://user:{IN_USERINFO}@images.example/a.jpg",
    f"https://photos.s3.amazonaws.com/a.jpg?{SIGNED}",
    f"https://photos.s3.amazonaws.com/a.jpg?AWSAccessKeyId={KEY_ID}&Signature={IN_SIGNATURE}&Expires=1",
    f"https://x.blob.core.windows.net/c/a.jpg?sv=2020-08-04&sr=b&sig={IN_AZURE}",
    f"https://storage.googleapis.com/b/a.jpg?X-Goog-Credential={IN_TOKEN}&X-Goog-Signature={IN_SIGNATURE}",
    f"https://d1.cloudfront.net/a.jpg?Policy={IN_TOKEN}&Signature={IN_SIGNATURE}&Key-Pair-Id={KEY_ID}",
    f"https://images.example/a.jpg#access_token={IN_TOKEN}",
    f"/absent/a.jpg?{SIGNED}",
    f"s3://other-photos/a.jpg?{SIGNED}",
    f"a.jpg?{SIGNED}",
    f"a\n.jpg?{SIGNED}",
    f"//user:{IN_USERINFO}@images.example/a.jpg",
    f"https:\\\\user:{IN_USERINFO}@images.example\\a.jpg",
    f"https://images.example/a.jpg;jsessionid={IN_TOKEN}",
]


def pieces(folder: Path) -> Iterator[tuple[str, str]]:
    """Everything a folder holds, Parquet also as its values, whatever they are packed in."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_socket():
            yield str(path), path.read_bytes().decode("latin-1")
            if path.suffix == ".parquet":
                table = pq.read_table(path, use_threads=False, partitioning=None)
                yield str(path), f"{table.to_pylist()} {table.schema.metadata} {pq.read_metadata(path).metadata}"


def leaks(folder: Path | None, *texts: str) -> list[str]:
    """Where a canary is."""
    found = [*enumerate(texts), *(pieces(folder) if folder else ())]
    return [
        f"{name}: {text[max(0, text.index(sign) - 60) :][:120]}"
        for name, text in found
        for sign in (ANY, KEY_ID)
        if sign in text
    ]


def test_the_search_finds_what_it_looks_for(tmp_path: Path) -> None:
    pq.write_table(pa.table({"uri": [REFUSED[0]]}), tmp_path / "a.parquet", compression="zstd", use_dictionary=False)
    assert leaks(tmp_path) != []
    assert leaks(None, f"x {KEY_ID}") != []


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of somebody who has the keys of everything."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", IN_ENVIRONMENT)
    monkeypatch.setenv("AWS_SESSION_TOKEN", IN_SESSION)
    monkeypatch.setenv("RAY_AUTH_TOKEN", IN_RAY)
    s3_client._client.cache_clear()


@pytest.fixture
def picture(archive: Path) -> bytes:
    rows = pq.read_table(archive / "manifest.parquet").to_pylist()
    return (archive / next(row["uri"] for row in rows if row["broken"] is None)).read_bytes()


@pytest.fixture
def server(picture: bytes) -> Iterator[HttpServer]:
    """Serves a picture to who knows the signature, and tells everybody else all it knows."""
    with HttpServer() as server:
        told = {"X-Secret": IN_ANSWER, "WWW-Authenticate": f"Basic realm={IN_ANSWER}"}
        server.answers[f"/good.jpg?{SIGNED}"] = Answer(picture)
        for status in (301, 400, 404, 418):
            server.answers[f"/{status}.jpg?{SIGNED}"] = Answer(IN_ANSWER.encode(), status, told)
        server.answers[f"/away.jpg?{SIGNED}"] = redirect(f"https://user:{IN_USERINFO}@images.example/?{SIGNED}")
        server.answers[f"/moved.jpg?{SIGNED}"] = redirect(f"https://images.example/{IN_ANSWER}?{SIGNED}")
        server.answers[f"/odd.jpg?{SIGNED}"] = Answer(raw=f"SSH-2.0 {IN_ANSWER}\r\n".encode(), closes=True)
        server.answers[f"/html.jpg?{SIGNED}"] = Answer(f"<html>AccessDenied {IN_ANSWER}</html>".encode())
        yield server


@pytest.fixture
def manifest(tmp_path: Path, server: HttpServer, picture: bytes) -> Path:
    """A manifest full of secrets, with one good picture in four."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "good.jpg").write_bytes(picture)
    (folder / f"good.jpg?{SIGNED}").write_bytes(picture)
    names = ("good", "301", "400", "404", "418", "away", "moved", "odd", "html")
    served = [f"http://{server.place}/{name}.jpg?{SIGNED}" for name in names]
    uris = [*REFUSED, *served, f"good.jpg?{SIGNED}", *["good.jpg"] * 10]
    pq.write_table(pa.table({"uri": uris, "sku": [str(row) for row in range(len(uris))]}), folder / "m.parquet")
    return folder / "m.parquet"


def test_no_secret_of_a_local_job_appears_anywhere(
    manifest: Path, server: HttpServer, tmp_path: Path, run_cli: Cli
) -> None:
    out = tmp_path / "out"
    common = [
        manifest,
        "-o",
        out,
        "--pool",
        "inline",
        "--backend",
        "openvino",
        "--passthrough",
        "sku",
        "--allow-http",
        server.place,
    ]
    said = [run_cli("plan", *common), run_cli("submit", *common, "--max-failure-rate", "1")]
    said += [run_cli("submit", *common, "--max-failure-rate", "0", "--json")]
    assert [code for code, *_ in said] == [0, 0, 4], said
    said += [
        run_cli(verb, out, *flags) for verb in ("status", "report", "errors", "verify") for flags in ((), ("--json",))
    ]
    said += [run_cli("errors", out, "--by", "prefix")]
    assert leaks(out, *(text for _, *texts in said for text in texts)) == []
    codes = [word for code in ("uri_refused", "uri_invalid", "not_found") for word in ("--code", code)]
    said = [run_cli("retry", out, *flags) for flags in ((), ("--json",), codes)]
    assert [code for code, *_ in said] == [3, 3, 3], said
    said += [
        run_cli("export", out, "--merged", "-o", tmp_path / "merged"),
        run_cli("compact", out, "-o", tmp_path / "c"),
    ]
    next(out.rglob("SEAL.json")).write_bytes(b"{")
    said += [run_cli("repair", out, *flags) for flags in ((), ("--json",), ("--yes",))]
    said += [run_cli("status", out), run_cli("submit", *common, "--max-failure-rate", "1"), run_cli("verify", out)]
    assert [code for code, *_ in said[3:]] == [0, 0, 2, 2, 0, 0, 0, 0], said
    written = [folder for folder in tmp_path.iterdir() if folder.name != "in"]
    assert len(written) == 3, written
    for folder in written:
        assert leaks(folder, *(text for _, *texts in said for text in texts)) == []
    rows = pq.read_table(out / "predictions", use_threads=False).to_pylist()
    good = [row["uri"] for row in rows if row["status"] == "ok" and "?" in row["uri"]]
    assert len(good) == 2
    assert all("X-Amz-Signature=***" in uri and "X-Amz-Expires=60" in uri for uri in good)


@pytest.fixture
def bucket(s3_server: S3Server, secrets: None, monkeypatch: pytest.MonkeyPatch, picture: bytes) -> S3Server:
    """A bucket with its manifest; the store believes in these secrets."""
    for name, value in (("AWS_ACCESS_KEY_ID", KEY_ID), ("AWS_SECRET_ACCESS_KEY", IN_ENVIRONMENT)):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_SESSION_TOKEN", IN_SESSION)
    monkeypatch.setattr(s3_client, "MAX_RETRIES", 0)
    s3_client._client.cache_clear()
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"uri": [*REFUSED, *(f"{row}.jpg?{SIGNED}" for row in range(20))]}), sink)
    s3_server.put("photos", "m.parquet", sink.getvalue().to_pybytes())
    for row in range(20):
        s3_server.put("photos", f"{row}.jpg?{SIGNED}", picture)
    return s3_server


def telling(status: int, code: str) -> Fault:
    """A store that repeats what it was sent, as the real one does with a signature that does not match."""
    told = f"<StringToSign>{IN_ANSWER} {IN_SESSION}</StringToSign><AWSAccessKeyId>{KEY_ID}</AWSAccessKeyId>"
    return Fault(status=status, code=f"{code}</Code>{told}<Code>{code}")


@pytest.mark.parametrize(
    ("status", "code", "keys", "exit_code"),
    [
        (403, "SignatureDoesNotMatch", ".jpg", 5),
        (403, "ExpiredToken", ".jpg", 5),
        (500, "InternalError", ".jpg", 5),
        (404, "NoSuchKey", ".jpg", 0),
        (400, "AuthorizationHeaderMalformed", ".jpg", 5),
        (403, "InvalidAccessKeyId", "m.parquet", 3),
        (403, "ExpiredToken", "m.parquet", 3),
        (400, "InvalidToken", "m.parquet", 5),
        (403, "AccessDenied", "out/", 3),
        (507, "InsufficientStorage", "out/predictions", 5),
        (None, "", "", 0),
    ],
)
def test_no_secret_of_a_job_in_buckets_appears_anywhere(
    bucket: S3Server, tmp_path: Path, run_cli: Cli, status: int | None, code: str, keys: str, exit_code: int
) -> None:
    def fault(request: Request) -> Fault | None:
        return (
            telling(status, code)
            if status is not None and keys in request.key + request.query.get("prefix", "")
            else None
        )

    bucket.fault = fault
    common = ["s3://photos/m.parquet", "-o", "s3://photos/out", "--pool", "inline", "--backend", "openvino"]
    said = [run_cli("submit", *common, "--max-failure-rate", "1", *flags) for flags in ((), ("--json",))]
    assert [found for found, *_ in said] == [exit_code] * 2, said
    bucket.fault = None
    said += [run_cli(verb, "s3://photos/out") for verb in ("status", "report", "errors", "verify")]
    for key in bucket.keys("photos"):
        if key.startswith("out/"):
            path = tmp_path / "copy" / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bucket.get("photos", key) or b"")
    assert leaks(tmp_path / "copy", *(text for _, *texts in said for text in texts)) == []


@pytest.mark.parametrize(
    "arguments",
    [
        [f"s3://{KEY_ID}:{IN_USERINFO}@photos/m.parquet", "-o", "out"],
        [f"https://user:{IN_USERINFO}@images.example/m.parquet?{SIGNED}", "-o", "out"],
        ["m.parquet", "-o", f"s3://{KEY_ID}:{IN_USERINFO}@photos/out"],
        ["m.parquet", "-o", f"https://user:{IN_USERINFO}@images.example/out?{SIGNED}"],
        ["m.parquet", "-o", "out", "--allow-http", f"user:{IN_USERINFO}@images.example"],
        ["m.parquet", "-o", "out", "--allow-http", f"https://images.example/?{SIGNED}"],
        ["m.parquet", "-o", "s3://photos/out", "--s3-endpoint", f"http://user:{IN_USERINFO}@127.0.0.1:9"],
        ["m.parquet", "-o", "out", "--address", f"http://user:{IN_USERINFO}@127.0.0.1:9"],
        ["m.parquet", "-o", "out", "--model", f"https://user:{IN_USERINFO}@images.example/w.pt?{SIGNED}"],
        ["m.parquet", "-o", "out", "--labels", f"https://user:{IN_USERINFO}@images.example/l?{SIGNED}"],
        ["m.parquet", "-o", "out", "--input-root", f"https://user:{IN_USERINFO}@images.example/?{SIGNED}"],
        ["m.parquet", "-o", "out", "--uri-col", f"https://user:{IN_USERINFO}@images.example/?{SIGNED}"],
        ["m.parquet", "-o", "out", "--set", f"https://user:{IN_USERINFO}@images.example/?{SIGNED}"],
        ["m.parquet", "-o", "out", "--top-k", f"https://user:{IN_USERINFO}@images.example/?{SIGNED}"],
        ["m.parquet", "-o", "out", "--pool", f"https://user:{IN_USERINFO}@images.example/?{SIGNED}"],
        ["m.parquet", "-o", "out", "-j", f"https://user:{IN_USERINFO}@images.example/j?{SIGNED}"],
        ["m.parquet", "-o", "out", f"--https://user:{IN_USERINFO}@images.example/?{SIGNED}"],
        ["m.parquet", "-o", "out", "-j", "job.yaml"],
    ],
    ids=lambda arguments: next(each for each in reversed(arguments[1:]) if each.startswith("-"))[:16],
)
def test_a_secret_in_a_wrong_command_is_not_repeated(
    arguments: list[str], manifest: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(manifest.parent)
    Path("job.yaml").write_text(f"top_k: https://user:{IN_USERINFO}@images.example/?{SIGNED}\n")
    for verb in ("plan", "submit"):
        for flags in ([], ["--json"]):
            code, out, err = run_cli(verb, *arguments, *flags)
            assert code in (2, 3, 5) or (verb == "plan" and "--address" in arguments), err
            assert leaks(None, out, err) == []


def test_what_config_is_printed_holds_no_secret(manifest: Path, run_cli: Cli) -> None:
    source = f"s3://{KEY_ID}:{IN_USERINFO}@photos/m.parquet"
    code, out, err = run_cli("submit", source, "-o", "out", "--print-config")
    assert code == 0
    assert leaks(None, out, err) == []


RAY_JOB = """
import os, sys
os.environ.update(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0")
import ray, batchrec
ray.init(address="local", num_cpus=2, include_dashboard=False, configure_logging=False,
         object_store_memory=80 * 2**20, _metrics_export_port=int(sys.argv[1]))
batchrec.submit(sys.argv[2], output=sys.argv[3], allow_http=sys.argv[4], max_failure_rate=1, backend="openvino")
print("done", flush=True)
sys.stdin.readline()
"""


@pytest.mark.ray
def test_no_secret_of_a_ray_job_appears_in_its_logs_or_metrics(
    manifest: Path, server: HttpServer, tmp_path: Path
) -> None:
    """The whole folder of a Ray: its own logs, its workers' and its agents'; and what it exports."""
    ray_folder = Path(tempfile.mkdtemp(prefix="ray"))  # short: there are sockets in it
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arguments = [port, manifest, tmp_path / "out", server.place]
    try:
        with subprocess.Popen(
            [sys.executable, "-c", RAY_JOB, *map(str, arguments)],
            env={**os.environ, "RAY_TMPDIR": str(ray_folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            assert process.stdout is not None
            lines = list(itertools.takewhile(lambda line: line != "done\n", process.stdout))
            exported = scrape(port)
            said = process.communicate("\n")[0]
        assert process.returncode == 0, (lines, said)
        assert [path for path in ray_folder.rglob("worker-*.err") if path.is_file()], "the logs are elsewhere"
        assert leaks(tmp_path / "out", *lines, said, exported) == []
        assert leaks(ray_folder) == []
    finally:
        shutil.rmtree(ray_folder)


def scrape(port: int) -> str:
    """What the endpoint says once the job's errors are there; Ray passes values on every ten seconds."""
    give_up_at = time.monotonic() + 60
    while 'code="uri_refused"' not in (text := _metrics(port)):
        assert time.monotonic() < give_up_at, text
        time.sleep(0.5)
    return text


def _metrics(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            return answer.read().decode()
    except OSError as error:  # refused, reset or slow
        return f"the endpoint is not there yet: {error}"
