"""`bench` and `plan --measure`: what they print, what they leave alone, and what the report makes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batchrec import benching
from batchrec.engine import measuring, sampling
from batchrec.engine.scratch import scratch_beside
from batchrec.spec import StoreOptions
from tests.cli.conftest import names_below

Cli = Callable[..., tuple[int, str, str]]
QUICK = (
    "--pool",
    "inline",
    "--backend",
    "torch-eager",
    "--device",
    "cpu",
    "--batch-size",
    "8",
    "--max-failure-rate",
    "1",
)


@pytest.fixture(autouse=True)
def short_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FETCH_S", "DECODE_S", "MODEL_S", "CORES_S"):
        monkeypatch.setattr(measuring, name, 0.1)
    monkeypatch.setattr(sampling, "RUN_S", 0.2)
    monkeypatch.setattr(benching, "NUM_DRAWN", 12)


def test_a_measured_plan_tells_time_and_cost_and_the_report_holds_them_against_the_run(
    run_cli: Cli, archive: Path, tmp_path: Path
) -> None:
    before, out = names_below(archive), tmp_path / "out"
    job = (archive / "manifest.parquet", "-o", out, *QUICK)
    code, printed, err = run_cli("plan", *job, "--price-per-hour", "3600", "--json")
    assert (code, err) == (0, "")
    plan = json.loads(printed)
    expectation, expected = plan["measured"]["expectation"], plan["expected"]
    assert expected["images"] == plan["rows"] == 160
    assert expected["seconds"] == pytest.approx(expectation["outside_s"] + 160 / expectation["images_per_s"])
    assert expected["cost"] == pytest.approx(expected["seconds"])
    assert expectation["limit_images_per_s"] == plan["measured"]["limit"]["images_per_s"]
    assert plan["measured"]["terms"]["model"]["backend"] == "torch-eager"
    assert names_below(tmp_path) == set()
    assert names_below(archive) == before
    assert run_cli("submit", *job)[0] == 0
    report = json.loads((out / "report.json").read_text())
    assert report["expectation"] == expectation


def test_bench_draws_images_where_none_are_named_and_leaves_nothing_where_the_output_would_lie(
    run_cli: Cli, tmp_path: Path
) -> None:
    code, printed, err = run_cli("bench", "-o", tmp_path / "a" / "out", *QUICK)
    assert (code, err) == (0, "")
    lines = {line.split()[0]: line for line in printed.splitlines()}
    assert {"cores", "sample", "fetch", "decode", "model", "write", "limit", "reached", "one"} <= lines.keys()
    assert " from local disk, " in lines["fetch"]
    assert "torch-inductor: compiling takes half a minute" in printed
    assert names_below(tmp_path) == set()


def test_a_limit_that_whole_workers_pass_is_measured_again(
    run_cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is where another process has the cores for a second."""
    found: list[float] = []

    def disturbed_once(*arguments: Any) -> float:
        found.append(measuring.measure_decode(*arguments) * (1 if found else 1000))
        return found[-1]

    monkeypatch.setattr(benching, "measure_decode", disturbed_once)
    code, printed, _ = run_cli("bench", "--json", "-o", tmp_path / "out", *QUICK)
    assert code == 0
    assert len(found) == 2
    assert json.loads(printed)["terms"]["decode_core_s"] == found[1]


def test_an_output_in_the_home_is_looked_for_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with scratch_beside("~/x", StoreOptions()) as scratch:
        assert Path(scratch).parent == tmp_path


@pytest.mark.parametrize(
    ("verb", "said"), [("bench", "interrupted\n"), ("submit", "interrupted: the same command res")]
)
def test_only_what_resumes_is_said_to(
    run_cli: Cli, archive: Path, monkeypatch: pytest.MonkeyPatch, verb: str, said: str
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("batchrec.benching.bench", interrupt)
    monkeypatch.setattr("batchrec.job.run_job", interrupt)
    code, _, err = run_cli(verb, archive / "manifest.parquet", *QUICK)
    assert code == 130
    assert said in err


def test_a_manifest_without_a_single_readable_image_cannot_be_measured(
    complaint: Callable[..., str], empty: Path
) -> None:
    said = complaint(3, "bench", empty, *QUICK)
    assert "no image of the sample could be read" in said


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A manifest of images that are not there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "gone.parquet"
    pq.write_table(pa.table({"uri": ["a.jpg", "b.jpg"]}), path)
    return path
