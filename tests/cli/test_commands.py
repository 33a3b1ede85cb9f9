"""What every verb prints, where it prints it, and what it leaves alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchrec
from batchrec.cli.main import cli
from batchrec.settable import SETTINGS
from tests.cli.conftest import names_below

Cli = Callable[..., tuple[int, str, str]]
JOB_FILE = Path(__file__).parents[2] / "jobs" / "retail-tagging.yaml"


def verbs(group: click.Group = cli, above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every verb, those of groups included."""
    found = []
    for name, command in group.commands.items():
        found.append((*above, name))
        if isinstance(command, click.Group):
            found += verbs(command, (*above, name))
    return found


@pytest.mark.parametrize("verb", verbs(), ids=" ".join)
def test_every_verb_has_help_that_says_what_it_does(verb: tuple[str, ...], run_cli: Cli) -> None:
    code, out, err = run_cli(*verb, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: batchrec {' '.join(verb)} ")
    assert len(out.splitlines()[2]) > 20


@pytest.mark.parametrize("verb", ["submit", "plan"])
def test_the_help_of_a_job_names_every_setting(verb: str, run_cli: Cli) -> None:
    words = run_cli(verb, "--help")[1].split()
    assert [setting.flag for setting in SETTINGS if setting.flag not in words] == []


@pytest.mark.parametrize(
    "verb", [verb for verb in verbs() if verb not in (("models",), ("k8s",), ("schema",))], ids=" ".join
)
def test_every_verb_speaks_json(verb: tuple[str, ...], run_cli: Cli) -> None:
    assert "--json" in run_cli(*verb, "--help")[1]


def test_the_version_is_the_package_s(run_cli: Cli) -> None:
    code, out, _ = run_cli("--version")
    assert (code, out.split()[-1]) == (0, version("batchrec"))


def test_print_config_shows_where_each_value_comes_from(
    run_cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "job.yaml").write_text("top_k: 3\nlimit: 10\nworkers: 2\nsource: elsewhere.parquet\n")
    monkeypatch.setenv("BATCHREC_LIMIT", "20")
    monkeypatch.setenv("BATCHREC_WORKERS", "3")
    arguments = ["submit", "m.parquet", "-j", tmp_path / "job.yaml", "--set", "workers=4", "--print-config"]
    code, out, err = run_cli(*arguments, "--device", "cpu", "--json")
    found = {name: (row["value"], row["origin"]) for name, row in json.loads(out).items()}
    assert (code, err) == (0, "")
    assert found["source"] == (["m.parquet"], "flag")
    assert found["top_k"] == (3, f"job file {tmp_path}/job.yaml")
    assert found["limit"] == (20, "environment")
    assert found["workers"] == (4, "--set")
    assert found["device"] == ("cpu", "flag")
    assert found["model"] == ("apparel", "default")
    plain = {line.split()[0]: line for line in run_cli(*arguments)[1].splitlines()}
    assert plain.keys() == found.keys()
    assert plain["limit"].split() == ["limit", "20", "environment"]
    assert names_below(tmp_path) == {"job.yaml"}


@pytest.mark.parametrize("verb", [["plan"], ["submit", "--dry-run"]], ids=" ".join)
def test_a_plan_is_printed_and_nothing_is_written(verb: list[str], run_cli: Cli, archive: Path, tmp_path: Path) -> None:
    before = names_below(archive)
    code, out, err = run_cli(*verb, archive / "manifest.parquet", "-o", tmp_path / "out", "--passthrough", "broken")
    assert (code, err) == (0, "")
    facts = {line.split()[0]: " ".join(line.split()[1:]) for line in out.splitlines()}
    assert facts["manifest"] == "160 rows in 1 file"
    assert facts["columns"] == "images from uri, ids from image_id, carried through: broken"
    assert facts["shards"] == "1 of up to 256 rows"
    assert facts["output"] == str(tmp_path / "out")
    assert json.loads(run_cli(*verb, archive / "manifest.parquet", "-o", tmp_path / "out", "--json")[1])["rows"] == 160
    assert run_cli(*verb, archive / "manifest.parquet")[0] == 0
    assert (names_below(archive), names_below(tmp_path)) == (before, set())


def test_a_plan_of_a_finished_job_says_so(run_cli: Cli, archive: Path, finished: Path) -> None:
    _, out, _ = run_cli("plan", archive / "manifest.parquet", "-o", finished, "--limit", 60)
    assert "shards     1 of up to 256 rows, all done and sealed" in out


def test_sample_refuses_a_folder_that_holds_something(run_cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    code, out, err = run_cli("sample", tmp_path, "--images", 2)
    assert (code, out) == (2, "")
    assert err == f"batchrec: {tmp_path} is not empty; name a new folder, or remove this one first\n"
    assert run_cli("sample", tmp_path / "mine.txt")[0] == 2
    assert names_below(tmp_path) == {"mine.txt"}


def test_sample_draws_an_archive_that_can_be_planned(run_cli: Cli, tmp_path: Path) -> None:
    code, out, _ = run_cli("sample", tmp_path / "new", "--images", 3, "--size", "64x48", "--json")
    drawn = json.loads(out)
    assert (code, drawn["images"]) == (0, 3)
    assert json.loads(run_cli("plan", drawn["manifest"], "--json")[1])["rows"] == 3
    assert run_cli("sample", tmp_path / "other", "--size", "big")[0] == 2


def test_models_list_begins_with_the_bundled_one(run_cli: Cli) -> None:
    code, out, err = run_cli("models", "list")
    assert (code, err) == (0, "")
    assert out.splitlines()[0].split() == ["NAME", "ARCHITECTURE", "OUTPUTS", "PIXELS", "ACCURACY", "READY"]
    assert out.splitlines()[1].split()[0] == "apparel"
    listed = json.loads(run_cli("models", "list", "--json")[1])
    assert (listed[0]["name"], listed[0]["ready"]) == ("apparel", True)
    assert "torchvision:resnet50@IMAGENET1K_V2" in [model["name"] for model in listed]


def test_a_plan_says_that_ids_of_a_wrong_type_are_not_used(run_cli: Cli, tmp_path: Path) -> None:
    pq.write_table(pa.table({"uri": ["a.jpg", "b.jpg"], "id": [1.0, None]}), tmp_path / "m.parquet")
    code, out, err = run_cli("plan", tmp_path / "m.parquet", "-o", tmp_path / "out")
    assert code == 0, err
    assert "ids from the row number ('id' is double: cast it to integers or strings to have it as the id)" in out
    plain = json.loads(run_cli("plan", tmp_path / "m.parquet", "-o", tmp_path / "out", "--json")[1])
    assert plain["columns"]["unfit_id"] == ["id", "double"]


def test_a_plan_says_why_cuda_devices_are_left_alone(
    run_cli: Cli, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchrec.engine.devices.num_cuda_devices", lambda: 1)
    monkeypatch.setattr("batchrec.engine.devices.cuda_trouble", lambda: "too old")
    code, out, err = run_cli("plan", archive / "manifest.parquet", "-o", tmp_path / "out", "--pool", "inline")
    assert code == 0, err
    assert "(no CUDA: too old)" in next(line for line in out.splitlines() if line.startswith("workers"))


def test_doctor_looks_at_this_machine_and_at_an_output(run_cli: Cli, tmp_path: Path) -> None:
    _, out, err = run_cli("doctor")
    assert err == ""
    assert {line[:3] for line in out.splitlines()} <= {"ok ", "BAD"}
    (tmp_path / "file").write_text("")
    code, out, _ = run_cli("doctor", tmp_path / "file", "--json")
    findings = {each["name"]: each for each in json.loads(out)}
    assert (code, findings["pyarrow"]["good"], findings["bundled model"]["good"]) == (3, True, True)
    assert findings[f"output {tmp_path}/file"]["good"] is False


def test_results_go_to_stdout_and_everything_else_to_stderr(run_cli: Cli, archive: Path, tmp_path: Path) -> None:
    command = ["submit", archive / "manifest.parquet", "-o", tmp_path / "out", "--limit", 40, "--pool", "inline"]
    code, out, err = run_cli(*command, "--backend", "torch-eager", "--max-failure-rate", 1, "--json")
    assert code == 0, err
    assert json.loads(out)["num_rows"] == 40
    for said in ("manifest   40 rows in 1 file", "worker on ", "40/40 images"):
        assert said in err
    code, out, err = run_cli(*command, "--max-failure-rate", 0)
    assert code == 4
    assert out.startswith("Complete, but over the failure limit: ")
    assert err.splitlines()[-1].startswith("output ")


def test_status_errors_report_and_verify_of_a_finished_job(run_cli: Cli, finished: Path) -> None:
    num_failed = json.loads(run_cli("report", finished, "--json")[1])["num_failed"]
    assert run_cli("status", finished) == (0, f"complete: 60 rows, {60 - num_failed} ok, 1 part\n", "")
    assert len(run_cli("errors", finished)[1].splitlines()) == num_failed > 0
    assert f"... {num_failed - 1} more" in run_cli("errors", finished, "--limit", 1)[1]
    assert sum(json.loads(run_cli("errors", finished, "--by", "prefix", "--json")[1]).values()) == num_failed
    assert run_cli("report", finished)[1].startswith("Complete: ")
    code, out, err = run_cli("verify", finished)
    assert (code, err) == (0, "")
    assert out.startswith("sound and complete: 60 rows, sha256 ")


def test_verify_of_a_damaged_output_lists_the_faults(run_cli: Cli, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "out")
    next((tmp_path / "out").rglob("part-*.parquet")).write_bytes(b"")
    code, out, err = run_cli("verify", tmp_path / "out")
    assert (code, err) == (3, "")
    assert out.splitlines()[-2].startswith("broken: 0 rows")
    assert json.loads(run_cli("verify", tmp_path / "out", "--json")[1])["faults"]


def test_status_of_an_unfinished_output_says_what_resumes_it(run_cli: Cli, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "out")
    (tmp_path / "out" / "_SUCCESS").unlink()
    assert run_cli("status", tmp_path / "out")[1].startswith("not complete: 1 of 1 part; ")


@pytest.mark.parametrize(
    ("verb", "code"),
    [("errors OUT", 0), ("errors OUT --json", 0), ("report OUT", 0), ("models list", 0), ("submit SOURCE -o OUT", 4)],
)
def test_a_reader_that_goes_away_gets_no_traceback(verb: str, code: int, archive: Path, finished: Path) -> None:
    places = {"OUT": str(finished), "SOURCE": str(archive / "manifest.parquet")}
    command = [sys.executable, "-m", "batchrec", *(places.get(word, word) for word in verb.split())]
    if verb.startswith("submit"):
        command += ["--limit", "60", "--max-failure-rate", "0"]
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(write_end)
    assert (done.returncode, "Traceback" in done.stderr, "Exception" in done.stderr) == (code, False, False), (
        done.stderr
    )


def test_names_that_are_not_text_are_printed_all_the_same(archive: Path, tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/m\xff\nb\x1bc.parquet"
    shutil.copy(archive / "manifest.parquet", odd)
    command = [os.fsencode(sys.executable), b"-m", b"batchrec", b"plan", odd, b"--input-root", os.fsencode(archive)]
    done = subprocess.run(command, capture_output=True, timeout=60, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(done.stdout.splitlines()) == 8
    assert b"\x1b" not in done.stdout


def test_the_retail_job_file_runs(run_cli: Cli, archive: Path, tmp_path: Path) -> None:
    drawn = pq.read_table(archive / "manifest.parquet").slice(0, 40)
    skus = pa.array([f"SKU-{row}" for row in range(drawn.num_rows)])
    pq.write_table(drawn.append_column("sku", skus), archive / "retail.parquet")
    out = tmp_path / "out"
    command = ["submit", archive / "retail.parquet", "-j", JOB_FILE, "-o", out, "--pool", "inline"]
    code, printed, err = run_cli(*command, "--backend", "torch-eager")
    assert code in (0, 4), err
    assert printed.startswith("Complete")
    rows = batchrec.open(str(out)).predictions().to_table()
    assert rows.column("sku").to_pylist() == skus.to_pylist()
    assert run_cli("verify", out)[0] == 0
    config = json.loads(run_cli("submit", "-j", JOB_FILE, "--print-config", "--json")[1])
    assert config["source"] == {"value": ["catalogue/manifest.parquet"], "origin": f"job file {JOB_FILE}"}


INTERRUPTED = """
import signal, sys
from importlib.abc import MetaPathFinder
from batchrec.__main__ import main

class Hasty(MetaPathFinder):
    def find_spec(self, name, *_):
        if name == "click":
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Hasty())
main()
"""


def test_an_interrupt_while_everything_is_being_imported_is_one_line() -> None:
    ended = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "interrupted\n")


COUNTED = """
import os, sys
from batchrec.cli.main import run
import pyarrow.parquet
num_before = len(os.listdir("/proc/self/task"))
code = run([sys.argv[1], sys.argv[2]])
print(len(os.listdir("/proc/self/task")) - num_before, file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="only Linux lists threads there")
@pytest.mark.parametrize("verb", ["status", "errors", "report", "verify"])
def test_verbs_that_only_read_start_no_thread_that_could_abort_their_end(verb: str, finished: Path) -> None:
    command = [sys.executable, "-c", COUNTED, verb, str(finished)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ended.stderr.splitlines()[-1] == "0"


def test_a_home_folder_between_quotes_is_found(run_cli: Cli, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(finished.parent))
    assert run_cli("verify", f"~/{finished.name}")[0] == 0
