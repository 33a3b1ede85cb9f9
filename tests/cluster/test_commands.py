"""The verbs as they are typed, while a cluster is there and afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import batchrec
from batchrec.cluster.following import follow, stop
from batchrec.cluster.submission import Submission, keep_submission
from batchrec.cluster.submitting import Manner, hand_over
from batchrec.errors import ClusterLost
from batchrec.manifest.reading import open_manifest
from batchrec.output.layout import Layout
from batchrec.spec import JobSpec, StoreOptions
from batchrec.storage import open_store
from tests.cluster.conftest import write_manifest
from tests.cluster.head import REPOSITORY, TOKEN, RayHead, free_port, own_ip
from tests.interrupting import hear_interrupts
from tests.s3_server import S3Server

Cli = Callable[..., tuple[int, str, str]]
ID = "batchrec-0123456789ab-1"


@pytest.fixture
def finished(archive: Path, tmp_path: Path) -> Path:
    """A sealed output that a cluster, gone since, was asked for."""
    out = tmp_path / "out"
    source = str(archive / "manifest.parquet")
    batchrec.submit(source, output=str(out), pool="inline", limit=20, max_failure_rate=1, backend="torch-eager")
    record(out, JobSpec(source=(source,), output=str(out), limit=20, max_failure_rate=1))
    return out


@pytest.fixture
def abandoned(tmp_path: Path) -> Path:
    """An output folder whose cluster went before anything was done."""
    record(tmp_path / "out", JobSpec(source=("s3://b/m.parquet",), output=str(tmp_path / "out")))
    return tmp_path / "out"


def record(out: Path, spec: JobSpec, address: str | None = None) -> None:
    address = address or f"http://127.0.0.1:{free_port()}"
    written = Submission(
        spec=spec, model=None, address=address, submission_id=ID, attempt=1, version="0", submitted_at=1.0
    )
    keep_submission(open_store(str(out), StoreOptions()), written)


def test_after_the_cluster_is_gone_a_complete_output_answers_for_itself(finished: Path, run_cli: Cli) -> None:
    code, out, _ = run_cli("wait", finished)
    assert code == 0
    assert out.startswith("Complete")
    assert run_cli("status", finished)[1].startswith("complete")
    code, out, _ = run_cli("list", finished, "--json")
    assert [row["submission_id"] for row in json.loads(out)] == [ID]


def test_a_complete_output_is_answered_without_its_cluster(finished: Path, archive: Path, run_cli: Cli) -> None:
    arguments = ["submit", archive / "manifest.parquet", "-o", finished, "--limit", 20]
    nowhere = ["--address", "http://203.0.113.7:8265"]
    assert run_cli(*arguments, *nowhere, "--max-failure-rate", 1)[0] == 0
    code, out, err = run_cli(*arguments, *nowhere, "--max-failure-rate", 0)
    assert code == 4
    assert "over the failure limit" in out
    assert "http://203.0.113.7:8265 (from --address)" in err
    assert run_cli(*arguments, *nowhere, "--top-k", 2)[0] == 3


def test_after_the_cluster_is_gone_an_unfinished_output_says_what_to_do(abandoned: Path, run_cli: Cli) -> None:
    code, _, err = run_cli("wait", abandoned)
    assert code == 5
    assert "not complete" in err
    assert "the same `submit` resumes it" in err
    for verb in ("stop", "logs"):
        code, _, err = run_cli(verb, abandoned)
        assert code == 5
        assert "does not answer" in err


def test_the_coordinators_own_lines_outlive_the_cluster(finished: Path, run_cli: Cli) -> None:
    layout = Layout(batchrec.open(str(finished)).job_id)
    store = open_store(str(finished), StoreOptions())
    store.overwrite(f"{layout.drivers_prefix}00000002.log", b"worker ready\n")
    code, out, err = run_cli("logs", finished)
    assert (code, out) == (0, "worker ready\n")
    assert "its logs went with it" in err
    assert json.loads(run_cli("logs", finished, "--json")[1])["from"] == "output"


def test_a_record_alone_does_not_lead_a_token_anywhere(tmp_path: Path, run_cli: Cli) -> None:
    record(
        tmp_path / "out", JobSpec(source=("s3://b/m.parquet",), output=str(tmp_path / "out")), "http://203.0.113.7:1"
    )
    code, _, err = run_cli("stop", tmp_path / "out")
    assert code == 2
    assert "say --address" in err


def test_a_name_needs_a_cluster_and_a_folder_a_submission(tmp_path: Path, run_cli: Cli) -> None:
    for verb in ("status", "logs", "stop", "wait"):
        code, _, err = run_cli(verb, ID)
        assert code == 2
        assert "--address" in err
    for verb in ("logs", "stop", "wait"):
        assert run_cli(verb, tmp_path)[0] == 3
    assert run_cli("list")[0] == 2


def test_elsewhere_without_a_token_nothing_is_sent(manifest: Path, tmp_path: Path, run_cli: Cli) -> None:
    code, _, err = run_cli("submit", manifest, "-o", tmp_path / "out", "--address", "http://203.0.113.7:8265")
    assert code == 3
    assert "--no-auth" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("flag", ["--no-wait", "--ship-code", "--env=A=b", "--no-auth", "--shared-filesystem"])
def test_flags_for_a_cluster_are_refused_without_one(flag: str, manifest: Path, run_cli: Cli) -> None:
    code, _, err = run_cli("submit", manifest, flag)
    assert code == 2
    assert flag.partition("=A")[0] in err


def test_an_inline_pool_and_a_cluster_exclude_each_other(manifest: Path, run_cli: Cli) -> None:
    code, _, err = run_cli("submit", manifest, "--pool", "inline", "--address", "http://head:8265")
    assert code == 2
    assert "--pool inline" in err


@pytest.mark.ray
@pytest.mark.usefixtures("token_at_hand")
def test_a_plain_cluster_says_that_it_has_no_batchrec(
    head: RayHead, manifest: Path, tmp_path: Path, run_cli: Cli
) -> None:
    code, _, err = run_cli("submit", manifest, "-o", tmp_path / "out", "--address", head.url)
    assert code == 3
    assert "has no batchrec" in err
    assert "--ship-code" in err
    assert TOKEN not in err


@pytest.mark.ray
@pytest.mark.usefixtures("token_at_hand")
def test_a_submission_by_its_name_and_by_its_folder(
    head: RayHead, manifest: Path, tmp_path: Path, run_cli: Cli
) -> None:
    out, here = tmp_path / "out", ["--address", head.url]
    code, said, _ = run_cli("submit", manifest, "-o", out, *here, "--no-wait", "--json")
    assert code == 0
    name = json.loads(said)["submission_id"]
    assert run_cli("wait", name, *here)[0] == run_cli("wait", out)[0] == 3
    assert run_cli("status", name, *here)[1].startswith(f"{name}: FAILED, exit code 1")
    assert json.loads(run_cli("status", name, *here, "--json")[1])["metadata"]["output"] == str(out)
    assert "had ended before" in run_cli("stop", out)[1]
    for target in ([name, *here], [out], [out, "-f"]):
        assert "No module named batchrec" in run_cli("logs", *target)[1]
    assert name in run_cli("list", *here)[1]
    assert name in run_cli("list", out)[1]


@pytest.mark.ray
def test_an_interrupt_leaves_the_job_running_and_says_how_to_end_it(
    head: RayHead, manifest: Path, tmp_path: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A module of that name takes the place of the package, and waits.
    (tmp_path / "shadow" / "batchrec").mkdir(parents=True)
    (tmp_path / "shadow" / "batchrec" / "__main__.py").write_text(
        "print('begun', flush=True)\nimport time\ntime.sleep(300)"
    )
    home = tmp_path / "home"
    home.mkdir(mode=0o500)
    environment = {**os.environ, "RAY_AUTH_TOKEN": TOKEN, "HOME": str(home), "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "batchrec", "submit", str(manifest), "-o", str(tmp_path / "out")]
    command += ["--address", head.url, "--env", f"PYTHONPATH={tmp_path}/shadow"]
    running = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=hear_interrupts)
    assert running.stderr is not None
    said = ""
    while "begun" not in said:
        line = running.stderr.readline()
        assert line, said
        said += line
    running.send_signal(signal.SIGINT)
    said += running.stderr.read()
    running.stderr.close()
    assert running.wait(60) == 130
    assert "detached" in said
    assert "batchrec stop batchrec-" in said
    assert TOKEN not in said
    assert list(home.iterdir()) == []
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    assert "is stopped" in run_cli("stop", tmp_path / "out")[1]


@pytest.mark.ray
@pytest.mark.cluster
@pytest.mark.usefixtures("token_at_hand")
def test_shipped_code_runs_a_whole_job_on_a_plain_cluster(
    head: RayHead, archive: Path, tmp_path: Path, run_cli: Cli
) -> None:
    arguments = ["submit", archive / "manifest.parquet", "-o", tmp_path / "out", "--address", head.url, "--limit", 20]
    code, out, err = run_cli(*arguments, "--ship-code", "--max-failure-rate", 1)
    assert code == 0, err
    assert out.startswith("Complete")
    assert batchrec.open(str(tmp_path / "out")).predictions().count_rows() == 20
    assert run_cli(*arguments, "--ship-code", "--max-failure-rate", 0)[0] == 4


@pytest.mark.ray
@pytest.mark.cluster
@pytest.mark.usefixtures("token_at_hand")
def test_a_manifest_of_this_disk_runs_on_a_cluster_elsewhere_that_has_batchrec(
    head: RayHead, archive: Path, bucket: S3Server, tmp_path: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s" * 40)
    for number, path in enumerate(sorted(archive.rglob("*.jpg"))[:5]):
        bucket.put("photos", f"archive/{number}.jpg", path.read_bytes())
    path = write_manifest(tmp_path / "m.parquet", 5)
    monkeypatch.setattr("batchrec.cluster.dashboard.Dashboard.is_here", lambda self: False)
    arguments = ["submit", path, "-o", "s3://photos/out", "--allow-bucket", "photos", "--address"]
    # The installation of an image, as far as Python can tell.
    installed = ["--env", f"PYTHONPATH={REPOSITORY}", "--s3-endpoint", bucket.url, "--s3-region", "us-east-1"]
    code, _, err = run_cli(*arguments, f"http://{own_ip()}:{head.port}", *installed, "--max-failure-rate", 1)
    assert code == 0, err
    opened = batchrec.open("s3://photos/out", StoreOptions(endpoint=bucket.url))
    [file] = open_manifest(JobSpec(source=(str(path),), output="-")).files
    assert opened.identity["manifest"] == [[file.name, file.size, file.footer_sha256]]
    rows = opened.predictions().to_table().to_pylist()
    assert [row["uri"] for row in rows] == [f"s3://photos/archive/{number}.jpg" for number in range(5)]


@pytest.mark.ray
@pytest.mark.cluster
def test_a_head_without_cores_keeps_the_coordinator_away_and_its_loss_is_told(tmp_path: Path) -> None:
    lines: list[str] = []
    with RayHead(num_cpus=0) as bare:
        dashboard = bare.dashboard()
        assert dashboard.keeps_head_free()
        spec = JobSpec(source=(str(tmp_path / "m.parquet"),), output=str(tmp_path / "out"))
        name = hand_over(spec, dashboard, Manner(entrypoint=("true",))).submission.submission_id
        job, _ = stop(dashboard, name, patience_s=1.0)
        assert (job.status, job.has_ended) == ("PENDING", False)
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(follow, dashboard, name, lines.append, patience_s=1.0)
            bare.kill()
            with pytest.raises(ClusterLost, match="does not answer"):
                waiting.result(60)
