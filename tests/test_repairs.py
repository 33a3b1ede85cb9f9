"""A real output is damaged, repaired, and finished by the command that made it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchrec
from batchrec.errors import OutputError
from batchrec.storage import s3_client
from tests.s3_server import S3Server

Cli = Callable[..., tuple[int, str, str]]
SETTINGS = {"pool": "inline", "backend": "torch-eager", "max_failure_rate": 1.0, "rows_per_shard": 32, "limit": 96}


@pytest.fixture(scope="module")
def sealed(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a job of three shards."""
    out = tmp_path_factory.mktemp("sealed") / "out"
    batchrec.submit(str(archive / "manifest.parquet"), output=str(out), **SETTINGS)
    return out


@pytest.fixture
def out(sealed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sealed, tmp_path / "out"))


def one(out: Path, name: str) -> Path:
    return next(path for path in out.rglob(name) if "quarantine" not in path.parts)


def replace_part_of_a_crashed_seal(out: Path) -> None:
    (out / "_SUCCESS").unlink()
    one(out, "part-00000001.parquet").write_bytes(one(out, "part-00000002.parquet").read_bytes())


def replace_plan(out: Path) -> None:
    """As one flipped bit does it: every shard is of file 16."""
    plan = pq.read_table(one(out, "plan.parquet"))
    at = plan.column_names.index("file")
    plan = plan.set_column(at, "file", pa.array([16] * len(plan), pa.int64()))
    pq.write_table(plan, one(out, "plan.parquet"))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a part is cut": lambda out: one(out, "part-00000001.parquet").write_bytes(b"PAR1"),
    "a part is gone": lambda out: one(out, "part-00000002.parquet").unlink(),
    "all parts are gone": lambda out: shutil.rmtree(out / "predictions"),
    "the seal is garbage": lambda out: one(out, "SEAL.json").write_bytes(b"{"),
    "the seal is gone": lambda out: one(out, "SEAL.json").unlink(),
    "_SUCCESS is garbage": lambda out: (out / "_SUCCESS").write_bytes(b""),
    "errors are gone": lambda out: one(out, "errors.parquet").unlink(),
    "the binding is gone": lambda out: (out / "_batchrec" / "OUTPUT.json").unlink(),
    "the binding is garbage": lambda out: (out / "_batchrec" / "OUTPUT.json").write_bytes(b"\xff"),
    "the plan is garbage": lambda out: one(out, "plan.parquet").write_bytes(b"PAR1"),
    "the plan names other files": lambda out: replace_plan(out),
    "the plan is gone": lambda out: one(out, "plan.parquet").unlink(),
    "the definition is garbage": lambda out: one(out, "spec.json").write_bytes(b"{"),
    "the definition is of another job": lambda out: one(out, "spec.json").write_bytes(b'{"identity": {"top_k": 9}}'),
    "the report is garbage": lambda out: (out / "report.json").write_bytes(b"<html>"),
    "a foreign part": lambda out: shutil.copy(
        one(out, "part-00000000.parquet"), one(out, "part-00000000.parquet").with_name("copy.parquet")
    ),
    "a part replaced between the seal and _SUCCESS": replace_part_of_a_crashed_seal,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_repair_and_the_same_command_make_a_damaged_output_whole(
    damage: Callable[[Path], object], out: Path, archive: Path, run_cli: Cli
) -> None:
    rows = json.loads(run_cli("verify", out, "--json")[1])["rows_sha256"]
    damage(out)
    broken = run_cli("verify", out)
    assert broken[0] != 0 or "foreign" in broken[1], broken
    code, said, err = run_cli("repair", out, "--yes", "--json")
    assert code == 0, err
    assert json.loads(said)["moved_to"] or not json.loads(said)["moved"]
    batchrec.submit(str(archive / "manifest.parquet"), output=str(out), **SETTINGS)
    code, said, err = run_cli("verify", out, "--json")
    found = json.loads(said)
    assert (code, found["faults"], found["complete"], found["rows"]) == (0, [], True, 96)
    assert found["rows_sha256"] == rows
    assert one(out, "spec.json").stat().st_size > 100
    assert run_cli("report", out)[0] == 0
    assert run_cli("repair", out)[1] == "nothing to repair\n"


@pytest.mark.parametrize("name", ["SEAL.json", "OUTPUT.json", "plan.parquet", "spec.json", "part-00000001.parquet"])
def test_a_folder_where_a_file_belongs_is_named_and_the_advice_of_each_message_leads_out(
    name: str, out: Path, archive: Path, run_cli: Cli
) -> None:
    def submit() -> None:
        batchrec.submit(str(archive / "manifest.parquet"), output=str(out), **SETTINGS)

    path = one(out, name)
    path.unlink()
    path.mkdir()
    code, said, err = run_cli("verify", out)
    part = name.startswith("part")
    assert (code, f"{name} " in said + err) == (3, True)
    if part:
        assert said.splitlines()[-1] == f"to mend it: batchrec repair {out}, then its own command again"
        assert run_cli("repair", out, "--yes")[0] == 0
    with pytest.raises(OutputError, match=f"{name} is no file.*found: a folder.*move it away"):
        submit()
    path.rename(out.parent / "away")
    if not part:
        assert run_cli("repair", out, "--yes")[0] == 0
    submit()
    assert run_cli("verify", out)[0] == 0


@pytest.mark.parametrize(
    ("lost", "verb"), [("plan.parquet", "verify"), ("OUTPUT.json", "verify"), ("OUTPUT.json", "submit")]
)
def test_a_complete_output_that_lost_what_it_rests_on_is_sent_to_repair(
    lost: str, verb: str, out: Path, archive: Path, run_cli: Cli
) -> None:
    one(out, lost).unlink()
    where = (out,) if verb == "verify" else (archive / "manifest.parquet", "-o", out, "--limit", 96, "--pool", "inline")
    code, _, err = run_cli(verb, *where)
    assert (code, "batchrec repair" in err) == (3, True), err


def test_errors_of_another_kind_are_called_damaged(out: Path, archive: Path, run_cli: Cli) -> None:
    shutil.copy(archive / "manifest.parquet", one(out, "errors.parquet"))
    for verb in ("errors", "retry"):
        code, _, err = run_cli(verb, out)
        assert (code, "errors.parquet is damaged" in err, "`batchrec repair` mends it" in err) == (3, True, True)


def test_a_binding_that_describes_another_job_is_named_and_not_the_definition(out: Path, run_cli: Cli) -> None:
    path = out / "_batchrec" / "OUTPUT.json"
    path.write_bytes(path.read_bytes().replace(b'"top_k": 5', b'"top_k": 4'))
    code, said, _ = run_cli("verify", out)
    assert (code, said.splitlines()[0]) == (3, "_batchrec/OUTPUT.json names another job than it describes")
    assert "spec.json" not in said


def test_a_definition_that_is_gone_is_noted(out: Path, run_cli: Cli) -> None:
    one(out, "spec.json").unlink()
    code, said, _ = run_cli("verify", out)
    assert (code, "spec.json is not there: a retry has to be told manifest and model" in said) == (0, True)


def test_without_yes_and_without_a_terminal_nothing_is_changed(out: Path, run_cli: Cli) -> None:
    one(out, "part-00000001.parquet").write_bytes(b"")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    code, said, err = run_cli("repair", out)
    assert (code, said) == (2, "")
    assert "move away _SUCCESS: " in err
    assert "shards to be done again: 1" in err
    assert err.splitlines()[-1] == "batchrec: nothing was changed, as nobody could be asked; say --yes"
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_repair_says_what_it_moved_and_what_comes_next(out: Path, run_cli: Cli) -> None:
    one(out, "part-00000001.parquet").write_bytes(b"")
    code, said, _ = run_cli("repair", out, "--yes")
    assert code == 0
    assert said.splitlines()[0].startswith(f"moved 4 objects to {out}/_batchrec/quarantine/")
    assert said.splitlines()[1].startswith("shards to be done: 1; run the job's own command again")
    assert run_cli("status", out)[1].startswith("not complete: 2 of 3 parts")


def test_a_complete_output_is_not_opened_when_its_manifest_is_gone(archive: Path, tmp_path: Path, run_cli: Cli) -> None:
    home = tmp_path / "archive"
    shutil.copytree(archive, home)
    out = tmp_path / "out"
    batchrec.submit(str(home / "manifest.parquet"), output=str(out), **SETTINGS)
    one(out, "part-00000001.parquet").unlink()
    home.rename(tmp_path / "moved")
    code, _, err = run_cli("repair", out, "--yes")
    assert (code, "that is not possible: no manifest at" in err) == (3, True)
    assert (out / "_SUCCESS").exists()
    assert run_cli("repair", out, "--yes", "--manifest", tmp_path / "moved" / "manifest.parquet")[0] == 0
    batchrec.submit(str(tmp_path / "moved" / "manifest.parquet"), output=str(out), **SETTINGS)
    assert run_cli("verify", out)[0] == 0


def test_a_damaged_output_names_the_command_that_repairs_it(out: Path, archive: Path, run_cli: Cli) -> None:
    command = (
        "submit",
        archive / "manifest.parquet",
        "-o",
        out,
        "--limit",
        96,
        "--pool",
        "inline",
        "--backend",
        "torch-eager",
    )
    one(out, "part-00000001.parquet").unlink()
    code, _, err = run_cli(*command)
    assert (code, f"`batchrec repair {out}`" in err) == (3, True)
    (out / "_SUCCESS").unlink()
    one(out, "part-00000002.parquet").write_bytes(b"PAR1")
    code, _, err = run_cli(*command)
    assert (code, f"`batchrec repair {out}`" in err) == (3, True)


def test_an_output_in_a_bucket_is_repaired(s3_server: S3Server, sealed: Path, archive: Path, run_cli: Cli) -> None:
    s3_client._client.cache_clear()
    for path in sealed.rglob("*"):
        if path.is_file():
            s3_server.put("photos", f"out/{path.relative_to(sealed)}", path.read_bytes())
    part = next(key for key in s3_server.keys("photos") if key.endswith("part-00000001.parquet"))
    s3_server.put("photos", part, b"")
    assert run_cli("verify", "s3://photos/out")[0] == 3
    assert run_cli("repair", "s3://photos/out", "--yes")[0] == 0
    batchrec.submit(str(archive / "manifest.parquet"), output="s3://photos/out", **SETTINGS)
    assert run_cli("verify", "s3://photos/out")[0] == 0
