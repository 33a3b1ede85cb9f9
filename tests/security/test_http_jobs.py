"""Whole jobs whose images lie on HTTP servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchrec.engine.identity import bound_identity
from batchrec.spec import JobSpec, StoreOptions
from batchrec.storage import open_store
from tests.http_server import Answer, HttpServer

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def server(archive: Path) -> Iterator[HttpServer]:
    """Serves the good images of the archive; every fifth request of an image is answered 503 first."""
    rows = [row for row in pq.read_table(archive / "manifest.parquet").to_pylist() if row["broken"] is None]
    with HttpServer() as server:
        for number, row in enumerate(rows[:40]):
            good = Answer((archive / row["uri"]).read_bytes())
            server.answers[f"/{row['uri']}"] = good if number % 5 else [Answer(status=503), good]
        yield server


@pytest.fixture
def manifest(server: HttpServer, tmp_path: Path) -> Path:
    uris = [f"http://{server.place}{target}" for target in server.answers]
    uris += [
        f"http://{server.place}/absent.jpg",
        "http://169.254.169.254/latest/meta-data/",
        "https://cdn.example/a.jpg",
    ]
    pq.write_table(pa.table({"uri": uris}), tmp_path / "m.parquet")
    return tmp_path / "m.parquet"


def submit(run_cli: Cli, manifest: Path, out: Path, *flags: str) -> tuple[int, str, str]:
    common = ["-o", out, "--pool", "inline", "--backend", "openvino", "--max-failure-rate", "1"]
    return run_cli("submit", manifest, *common, *flags)


def test_images_of_an_allowed_host_are_recognised(
    manifest: Path, server: HttpServer, tmp_path: Path, run_cli: Cli
) -> None:
    code, _, err = submit(run_cli, manifest, tmp_path / "out", "--allow-http", server.place)
    assert code == 0, err
    rows = pq.read_table(tmp_path / "out" / "predictions", use_threads=False).to_pylist()
    assert [row["status"] for row in rows] == ["ok"] * 40 + ["error"] * 3
    assert [row["error_code"] for row in rows[40:]] == ["not_found", "uri_refused", "uri_refused"]
    assert "--allow-http" in rows[42]["error_detail"]
    assert {target for target, _ in server.requests} == {*server.answers, "/absent.jpg"}
    assert run_cli("verify", tmp_path / "out")[0] == 0


def test_without_the_flag_no_host_is_asked(manifest: Path, server: HttpServer, tmp_path: Path, run_cli: Cli) -> None:
    assert submit(run_cli, manifest, tmp_path / "out")[0] == 0
    rows = pq.read_table(tmp_path / "out" / "predictions", use_threads=False).to_pylist()
    assert {row["error_code"] for row in rows} == {"uri_refused"}
    assert server.num_connections == 0


def test_the_hosts_decide_the_rows_and_none_is_the_job_there_was_before(
    manifest: Path, server: HttpServer, tmp_path: Path, run_cli: Cli
) -> None:
    submit(run_cli, manifest, tmp_path / "none")
    fields = bound_identity(open_store(str(tmp_path / "none"), StoreOptions()))
    assert fields is not None
    assert "allow_http" not in fields.fields
    hosts = ("--allow-http", server.place, "--allow-http", "cdn.example:8443")
    code, _, err = submit(run_cli, manifest, tmp_path / "none", *hosts)
    assert code == 3
    assert f'allow_http was null, is now ["{server.place}", "cdn.example:8443"]' in err


@pytest.mark.parametrize("verb", ["plan", "submit"])
def test_what_is_no_host_is_refused_before_any_work(manifest: Path, tmp_path: Path, run_cli: Cli, verb: str) -> None:
    hosts = ("--allow-http", "https://cdn.example/", "--allow-http", "169.254.169.254", "--allow-http", "good.example")
    code, out, err = run_cli(verb, manifest, "-o", tmp_path / "out", "--pool", "inline", *hosts)
    assert (code, out) == (2, "")
    assert "'https://cdn.example/': no valid host" in err
    assert "'169.254.169.254': a link-local" in err
    assert "good.example" not in err
    assert not (tmp_path / "out").exists()


def test_the_setting_survives_its_way_to_a_cluster() -> None:
    spec = JobSpec(
        source=("s3://photos/m.parquet",), output="s3://photos/out", allow_http=("cdn.example", "b.example:81")
    )
    assert JobSpec.from_json(spec.to_json()) == spec
    older = {name: value for name, value in spec.to_json().items() if name != "allow_http"}
    assert JobSpec.from_json(older).allow_http == ()
