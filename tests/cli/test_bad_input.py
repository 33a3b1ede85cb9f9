"""What people get wrong: each ends with its exit code, one line that says what to do, and nothing left behind."""

from __future__ import annotations

import importlib.resources
import json
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchrec.spec import MAX_COUNT
from batchrec.storage import s3_client
from tests.cli.conftest import names_below
from tests.s3_server import Fault, Request, S3Server

Cli = Callable[..., tuple[int, str, str]]
Complaint = Callable[..., str]

#: A command that cannot reach its store must say so within this time.
PATIENCE_S = 20


@pytest.fixture
def manifest(archive: Path) -> Path:
    return archive / "manifest.parquet"


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    """Where the job would write; must not be there afterwards."""
    folder = tmp_path / "out"
    yield folder
    assert not folder.exists()


def test_a_missing_manifest(complaint: Complaint, tmp_path: Path, out: Path) -> None:
    line = complaint(3, "submit", tmp_path / "nothing.parquet", "-o", out)
    assert f"no manifest at {tmp_path}/nothing.parquet" in line
    assert "check the path" in line


def test_a_column_that_is_not_there_names_those_that_are(complaint: Complaint, manifest: Path, out: Path) -> None:
    line = complaint(3, "submit", manifest, "-o", out, "--uri-col", "ur1")
    assert "no column 'ur1' (--uri-col)" in line
    assert "Did you mean 'uri'?" in line
    assert "'image_id', 'uri', 'label', 'broken'" in complaint(3, "plan", manifest, "-o", out, "--passthrough", "sku")


def test_a_manifest_without_uris_names_the_flag(complaint: Complaint, tmp_path: Path, out: Path) -> None:
    pq.write_table(pa.table({"picture": ["a.jpg"], "price": [1.5]}), tmp_path / "m.parquet")
    assert "name it with --uri-col (columns of strings: 'picture')" in complaint(
        3, "submit", tmp_path / "m.parquet", "-o", out
    )


@pytest.mark.parametrize(
    ("name", "content", "found", "advice"),
    [
        ("m.csv", b"uri,price\na.jpg,1\n", "CSV, first line 'uri,price'", "duckdb -c"),
        ("m.jsonl", b'{"uri": "a.jpg"}\n{"uri": "b.jpg"}\n', "JSONL", "duckdb -c"),
        ("m.jpg", b"\xff\xd8\xff\xe0" + bytes(500), "a JPEG image", "give the Parquet file that lists the images"),
        ("m.parquet", b"", "0 bytes", "write the file again"),
        ("m.parquet", b"PAR1" + bytes(200), "end without a footer", "copy or write the file again"),
        ("m.parquet", b"<html>Not found</html>", "HTML or XML", "it may be an error page"),
    ],
    ids=["csv", "jsonl", "image", "empty-file", "truncated", "error-page"],
)
def test_a_manifest_that_is_not_parquet_says_what_it_is(
    name: str, content: bytes, found: str, advice: str, complaint: Complaint, tmp_path: Path, out: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    line = complaint(3, "submit", tmp_path / name, "-o", out)
    assert found in line
    assert advice in line


def test_a_manifest_without_rows(complaint: Complaint, tmp_path: Path, out: Path) -> None:
    pq.write_table(pa.table({"uri": pa.array([], pa.string())}), tmp_path / "m.parquet")
    assert "has no rows (found: 1 file with 0 rows)" in complaint(3, "submit", tmp_path / "m.parquet", "-o", out)


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        ("aparel", "nearest: apparel"),
        ("torchvision:resnet19", "nearest: resnet18"),
        ("torchvision:resnet18@IMAGENET1K_V9", "it has IMAGENET1K_V1"),
        ("keras:resnet18", "write apparel or FOLDER or torchvision:NAME[@WEIGHTS] or file:PATH+NAME"),
        ("file:nothing.safetensors+resnet18", "check the path"),
    ],
)
def test_an_unknown_model_names_the_nearest(
    model: str, wanted: str, complaint: Complaint, manifest: Path, out: Path
) -> None:
    assert wanted in complaint(3, "submit", manifest, "-o", out, "-m", model)


def test_labels_that_do_not_fit_the_model(complaint: Complaint, manifest: Path, tmp_path: Path, out: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("hat\nshoe\n")
    line = complaint(3, "submit", manifest, "-o", out, "--labels", labels)
    assert f"2 labels in {labels}, 10 outputs of the model" in line


def test_weights_that_are_no_weights(complaint: Complaint, manifest: Path, tmp_path: Path, out: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"not weights at all")
    line = complaint(3, "submit", manifest, "-o", out, "-m", f"file:{tmp_path}/w.safetensors+resnet18")
    assert "the weights file is damaged (found: w.safetensors: " in line


def test_a_bundle_with_one_byte_changed(complaint: Complaint, manifest: Path, tmp_path: Path, out: Path) -> None:
    with importlib.resources.as_file(importlib.resources.files("batchrec.models") / "bundles" / "apparel") as bundle:
        shutil.copytree(bundle, tmp_path / "bundle")
    weights = tmp_path / "bundle" / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    line = complaint(3, "submit", manifest, "-o", out, "-m", tmp_path / "bundle")
    assert "is not the one it was saved with" in line
    assert "copy the bundle again" in line


def test_an_output_of_another_job_names_each_difference(complaint: Complaint, manifest: Path, finished: Path) -> None:
    before = names_below(finished)
    line = complaint(3, "submit", manifest, "-o", finished, "--limit", 50, "--top-k", 3, "--pool", "inline")
    assert "limit was 60, is now 50; top_k was 5, is now 3" in line
    assert "use another output folder" in line
    assert names_below(finished) == before


def test_an_output_folder_that_holds_other_things(complaint: Complaint, manifest: Path, tmp_path: Path) -> None:
    for name in ("c.txt", "b", "a.parquet", "f", "e", "d", ".hidden"):
        (tmp_path / name).write_text("mine")
    before = names_below(tmp_path)
    for verb in ("plan", "submit"):
        line = complaint(3, verb, manifest, "-o", tmp_path, "--pool", "inline")
        assert (
            f"the output folder {tmp_path} holds other things already (found: a.parquet, b, c.txt, d, e and 1 more)"
            in line
        )
        assert "name a folder of its own with -o" in line
    assert names_below(tmp_path) == before


def test_an_output_folder_that_is_the_manifests_own(complaint: Complaint, archive: Path) -> None:
    before = names_below(archive)
    line = complaint(3, "submit", archive / "manifest.parquet", "-o", archive, "--pool", "inline")
    assert "holds other things already" in line
    assert names_below(archive) == before


def test_an_output_prefix_that_holds_other_things(complaint: Complaint, manifest: Path, s3_server: S3Server) -> None:
    s3_server.put("photos", "out/2026/a.jpg", b"an image")
    s3_server.put("photos", "out/notes.txt", b"")
    line = complaint(3, "submit", manifest, "-o", "s3://photos/out", "--pool", "inline")
    assert "the output folder s3://photos/out holds other things already (found: 2026/, notes.txt)" in line
    assert [request.method for request in s3_server.log if request.method != "GET"] == []
    assert len(s3_server.log) == 2 * 2  # once for people, once with --json


def test_an_output_path_that_is_a_file(complaint: Complaint, manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        line = complaint(3, "submit", manifest, "-o", path, "--pool", "inline")
        assert "cannot hold a job" in line
        assert "choose another output folder" in line
    assert (tmp_path / "file").read_text() == "mine"


def test_an_output_nobody_may_write_to(complaint: Complaint, manifest: Path, unwritable: Path) -> None:
    line = complaint(3, "submit", manifest, "-o", unwritable / "out", "--pool", "inline")
    assert f"{unwritable}/out cannot be used" in line
    assert "grant this user read and write there" in line
    assert names_below(unwritable) == set()


def test_an_output_that_is_no_kind_of_store(complaint: Complaint, manifest: Path) -> None:
    line = complaint(3, "plan", manifest, "-o", "https://user:s3cr3t@example.com/out")
    assert "use a local folder, file:// or s3://BUCKET/PREFIX" in line
    assert "s3cr3t" not in line


def test_several_manifests_without_an_output(complaint: Complaint, manifest: Path) -> None:
    assert "name one with -o" in complaint(2, "plan", manifest, manifest)
    assert "no manifest is named" in complaint(2, "plan")
    assert "no output folder is named" in complaint(2, "plan", manifest, "-o", "")


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--topk", "3"], "'--topk'; did you mean '--top-k'?"),
        (["--set", "topk=3"], "topk: unknown setting, perhaps top_k"),
        (["--set", "top_k"], "--set top_k has no value"),
        (["--job", "nothing.yaml"], "the job file nothing.yaml cannot be read (found: No such file or directory)"),
    ],
)
def test_a_setting_that_is_unknown_or_has_no_value(
    arguments: list[str], wanted: str, complaint: Complaint, manifest: Path, out: Path
) -> None:
    assert wanted in complaint(2, "plan", manifest, "-o", out, *arguments)


def test_a_job_file_with_unknown_keys_names_all_of_them(
    complaint: Complaint, manifest: Path, tmp_path: Path, out: Path
) -> None:
    job = tmp_path / "job.yaml"
    job.write_text("topk: 3\nmodle: apparel\nlimit: many\n")
    line = complaint(2, "submit", manifest, "-o", out, "-j", job)
    for fault in ("1: topk: unknown setting, perhaps top_k", "2: modle: unknown setting, perhaps model", "3: limit: "):
        assert f"{job}:{fault}" in line
    job.write_text("[1, 2")
    assert "is not YAML" in complaint(2, "submit", manifest, "-o", out, "-j", job)


def test_bad_values_are_all_listed_at_once(complaint: Complaint, manifest: Path, out: Path) -> None:
    flags = ["--top-k", "x", "--precision", "half", "--max-failure-rate", "few", "--deadline", "soon"]
    line = complaint(2, "submit", manifest, "-o", out, *flags)
    for fault in ("--top-k: 'x' is not a whole number", "--max-failure-rate: 'few' is not a number"):
        assert fault in line
    assert "--precision: 'half' is not one of auto, fp32, bf16, fp16" in line
    assert "--deadline: 'soon' is not a time like 90, 30m or 12h" in line
    flags = ["--top-k", "0", "--workers", "-1", "--max-failure-rate", "2"]
    line = complaint(2, "submit", manifest, "-o", out, *flags)
    assert f"top_k is 0, must be from 1 to {MAX_COUNT}; workers is -1, must be from 1 to {MAX_COUNT}; max_" in line
    line = complaint(2, "submit", manifest, "-o", out, "--limit", 2**63, "--batch-size", 2**20)
    assert f"limit is a larger number, must be from 1 to {MAX_COUNT}" in line
    assert f"batch_size is {2**20}, must be from 1 to 65536" in line


def test_an_unknown_verb_or_a_missing_argument(complaint: Complaint, run_cli: Cli) -> None:
    assert "'subit'" in complaint(2, "subit")
    assert "see `batchrec status --help`" in complaint(2, "status")
    code, out, err = run_cli()
    assert (code, out) == (2, "")
    assert "submit" in err


@pytest.mark.parametrize("verb", ["verify", "status", "errors", "report"])
def test_a_folder_that_is_no_output(verb: str, complaint: Complaint, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nothing"):
        line = complaint(3, verb, folder)
        assert f"{folder} is not the output of a job (found: no _batchrec/OUTPUT.json)" in line
        assert "name the folder given with -o" in line
    assert names_below(tmp_path) == set()


@pytest.mark.parametrize("verb", ["verify", "status"])
def test_an_output_that_ended_before_it_had_a_plan(
    verb: str, complaint: Complaint, finished: Path, tmp_path: Path
) -> None:
    (tmp_path / "_batchrec").mkdir()
    shutil.copy(finished / "_batchrec" / "OUTPUT.json", tmp_path / "_batchrec")
    assert "run its command again to begin it" in complaint(3, verb, tmp_path)


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.parametrize("place", ["manifest", "output", "status"])
def test_an_endpoint_that_does_not_answer_ends_in_seconds(
    place: str, run_cli: Cli, archive: Path, tmp_path: Path, s3_server: S3Server
) -> None:
    flags = ["--s3-endpoint", f"http://127.0.0.1:{closed_port()}"]
    commands = {
        "manifest": ["submit", "s3://photos/m.parquet", "-o", tmp_path / "out", "--pool", "inline"],
        "output": ["submit", archive / "manifest.parquet", "-o", "s3://photos/out", "--pool", "inline"],
        "status": ["status", "s3://photos/out"],
    }
    began = time.monotonic()
    code, out, err = run_cli(*commands[place], *flags)
    assert (code, out) == (5, "")
    assert err.startswith("batchrec: the endpoint cannot be reached: s3://photos")
    assert err.count("\n") == 1
    assert time.monotonic() - began < PATIENCE_S
    assert not (tmp_path / "out").exists()


def test_a_bucket_that_does_not_exist(complaint: Complaint, manifest: Path, s3_server: S3Server) -> None:
    line = complaint(3, "submit", manifest, "-o", "s3://nobody/out", "--pool", "inline")
    assert "the bucket does not exist: s3://nobody/out" in line


def test_a_bucket_that_denies_reading_or_writing(
    complaint: Complaint, manifest: Path, s3_server: S3Server, tmp_path: Path
) -> None:
    s3_server.put("photos", "m.parquet", manifest.read_bytes())
    s3_server.fault = lambda request: Fault(status=403, code="AccessDenied")
    line = complaint(3, "submit", "s3://photos/m.parquet", "-o", tmp_path / "out", "--pool", "inline")
    assert "the store denied access: s3://photos" in line
    s3_server.fault = lambda request: Fault(status=403, code="AccessDenied") if request.method == "PUT" else None
    line = complaint(3, "submit", manifest, "-o", "s3://photos/out", "--pool", "inline")
    assert "grant these credentials access to it" in line
    assert list(s3_server.keys("photos")) == ["m.parquet"]
    assert not (tmp_path / "out").exists()


def test_images_that_are_denied_publish_nothing_and_the_same_command_resumes(
    run_cli: Cli, archive: Path, s3_server: S3Server
) -> None:
    for path in archive.rglob("*.*"):
        s3_server.put("photos", f"in/{path.relative_to(archive)}", path.read_bytes())

    def deny(request: Request) -> Fault | None:
        return Fault(status=403, code="AccessDenied") if request.key.endswith(".jpg") else None

    s3_server.fault = deny
    command = ["submit", "s3://photos/in/manifest.parquet", "-o", "s3://photos/out", "--limit", "40"]
    flags = ["--pool", "inline", "--backend", "torch-eager", "--max-failure-rate", "1"]
    code, out, err = run_cli(*command, *flags, "--json")
    assert (code, json.loads(out)["error"]["kind"]) == (5, "AccessLost")
    assert "images of a shard could not be had: access_denied" in err.splitlines()[-1]
    assert "the same command resumes" in err.splitlines()[-1]
    assert not [key for key in s3_server.keys("photos") if key.startswith("out/predictions/")]
    s3_server.fault = None
    assert run_cli(*command, *flags)[0] == 0


def test_a_job_that_fails_fast_stops_over_its_limit_and_the_same_command_without_goes_on_to_the_end(
    run_cli: Cli, archive: Path, tmp_path: Path
) -> None:
    drawn = pq.read_table(archive / "manifest.parquet").to_pylist()
    good = [str(archive / row["uri"]) for row in drawn if row["broken"] is None][:4]
    manifest, out = tmp_path / "poor.parquet", tmp_path / "out"
    (tmp_path / "page.jpg").write_text("<html>gone</html>")
    pq.write_table(pa.table({"uri": [*good, "page.jpg", "nowhere.jpg", "page.jpg"] * 40}), manifest)
    command = ["submit", manifest, "-o", out, "--input-root", archive, "--rows-per-shard", "28"]
    command += ["--pool", "inline", "--backend", "torch-eager"]
    code, _, err = run_cli(*command, "--fail-fast")
    stopped = err.splitlines()[-1]
    assert code == 6, err
    assert re.match(r"batchrec: \d+ of \d{3} images failed so far, over the limit of 5 % ", stopped)
    assert "(found: not_an_image, " in stopped
    assert "check what was uploaded" in stopped
    assert stopped.endswith("the same command resumes; without --fail-fast it goes on")
    assert 0 < len(list(out.rglob("part-*"))) < 10
    assert run_cli(*command)[0] == 4
    assert run_cli("verify", out)[1].startswith("sound and complete: 280 rows")
    assert run_cli(*command, "--fail-fast")[0] == 4


def test_a_full_disk_ends_resumable_and_room_lets_it_finish(
    run_cli: Cli, manifest: Path, mount_disk: Callable[[str], Path]
) -> None:
    disk = mount_disk("size=256k")
    filler = disk / "filler"
    filler.write_bytes(bytes(256 * 1024 - 32 * 1024))
    command = ["submit", manifest, "-o", disk / "out", "--pool", "inline", "--max-failure-rate", "1"]
    code, out, err = run_cli(*command, "--backend", "torch-eager")
    assert (code, out) == (5, ""), err
    last = err.splitlines()[-1]
    assert last.startswith(f"batchrec: no space left for {disk}/out (found: ")
    assert "then run the same command again" in last
    assert not list((disk / "out").rglob("part-*"))
    filler.unlink()
    assert run_cli(*command, "--backend", "torch-eager")[0] == 0
    assert run_cli("verify", disk / "out")[1].startswith("sound and complete: 160 rows")


def test_a_disk_that_is_full_from_the_start(
    complaint: Complaint, manifest: Path, mount_disk: Callable[[str], Path]
) -> None:
    disk = mount_disk("size=8k")
    (disk / "filler").write_bytes(bytes(8 * 1024))
    assert "no space left" in complaint(5, "submit", manifest, "-o", disk / "out", "--pool", "inline")


@pytest.fixture(autouse=True)
def new_clients() -> None:
    """Clients of an earlier test's server."""
    s3_client._client.cache_clear()
