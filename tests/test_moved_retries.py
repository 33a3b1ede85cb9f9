"""Retries that were moved, copied, damaged or asked for in the wrong place: what is said of them, and what helps."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import polars
import pyarrow.dataset as ds
import pytest

import batchrec
from batchrec.output.merging import MergedPredictions
from tests.shop import Shop

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def shop(archive: Path, tmp_path: Path) -> Shop:
    return Shop(archive, tmp_path / "here")


@pytest.fixture
def half(shop: Shop, run_cli: Cli) -> Shop:
    """A job with a retry of two rows that is not complete."""
    shop.hide(2, 20)
    shop.submit()
    assert run_cli("retry", shop.out, "--code", "not_found")[0] == 0
    reopen(Path(f"{shop.out}.retry-0001"))
    shop.show(2, 20)
    return shop


def reopen(child: Path) -> None:
    """As a killed retry leaves its folder."""
    for path in (child / "_SUCCESS", child / "predictions", *child.glob("_batchrec/*/SEAL.json"), child / "errors"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_a_half_finished_retry_moved_with_its_parent_goes_on_where_it_is(half: Shop, run_cli: Cli) -> None:
    there = half.root.rename(half.root.with_name("there"))
    code, out, err = run_cli("retry", there / "out", "--code", "not_found", "--set", f"source={there / 'm'}", "--json")
    assert code == 0, err
    assert (json.loads(out)["output"], json.loads(out)["num_ok"]) == (f"{there}/out.retry-0001", 2)
    assert not half.root.exists()
    assert f"retry {there}/out.retry-0001: 2 rows, complete" in run_cli("status", there / "out")[1]


def test_in_a_copy_the_copy_of_the_retry_goes_on_and_not_the_original(half: Shop, run_cli: Cli) -> None:
    copy = Path(shutil.copytree(half.root, half.root.with_name("copy")))
    assert run_cli("retry", copy / "out", "--code", "not_found")[0] == 0
    assert (copy / "out.retry-0001" / "_SUCCESS").exists()
    assert not (half.root / "out.retry-0001" / "_SUCCESS").exists()


def test_a_moved_archive_is_read_where_it_is_now(half: Shop, run_cli: Cli) -> None:
    moved = (half.root / "m").rename(half.root / "moved")
    code, _, err = run_cli("retry", half.out, "--code", "not_found", "--set", f"source={moved}")
    assert code == 0, err
    assert batchrec.open(half.out).errors().num_rows == 0


def test_the_rows_of_a_retry_are_not_done_again_without_their_images(half: Shop, run_cli: Cli) -> None:
    half.hide(20)
    assert run_cli("retry", half.out, "--code", "not_found")[0] == 0
    (half.root / "m").rename(half.root / "moved")
    there = half.root.rename(half.root.with_name("there"))
    code, _, err = run_cli("retry", there / "out.retry-0001", "--code", "not_found")
    assert (code, f"no folder {half.root / 'm'}" in err, "retry the job itself" in err) == (3, True, True)
    assert batchrec.open(there / "out").errors().column("row").to_pylist() == [20]


def test_a_damaged_retry_is_named_with_what_helps_and_status_still_answers(shop: Shop, run_cli: Cli) -> None:
    shop.hide(2, 20)
    shop.submit()
    shop.show(2)
    assert run_cli("retry", shop.out, "--code", "not_found")[0] == 0
    child = Path(f"{shop.out}.retry-0001")
    shutil.rmtree(child / "predictions")
    advice = f"the retry {child} is damaged"
    code, said, _ = run_cli("status", shop.out)
    assert (code, advice in said, said.startswith("complete: ")) == (0, True, True)
    for verb in (["errors", shop.out], ["retry", shop.out, "--code", "not_found"]):
        code, _, err = run_cli(*verb)
        assert (code, advice in err, f"`batchrec repair {child}`" in err) == (3, True, True)
    assert run_cli("repair", child, "--yes")[0] == 0
    assert run_cli("retry", shop.out, "--code", "not_found")[0] == 0
    assert batchrec.open(shop.out).errors().column("row").to_pylist() == [20]


@pytest.mark.parametrize("below", ["predictions/more", "sub", "", "predictions/rows.parquet"])
def test_nothing_is_written_into_an_output(shop: Shop, run_cli: Cli, below: str) -> None:
    shop.hide(2)
    shop.submit()
    before = sorted(shop.out.rglob("*"))
    for verb in (["export"], ["compact"], ["retry", "--code", "not_found"]):
        code, _, err = run_cli(*verb, shop.out, "-o", f"{shop.out}/{below}")
        assert (code, f"lies inside {shop.out}" in err) == (3, True), verb
    assert sorted(shop.out.rglob("*")) == before


def test_the_verdict_is_that_of_the_job_with_its_retries_also_for_a_retry_of_a_retry(shop: Shop, run_cli: Cli) -> None:
    shop.hide(2, 20)
    shop.submit(max_failure_rate=0.01)
    code, out, err = run_cli("retry", shop.out, "--code", "not_found", "--json")
    facts = json.loads(out)
    assert (code, facts["exit_code"], facts["rows_merged"], facts["rows_ok_merged"]) == (4, 4, 40, 38)
    assert "38 of 40 rows ok, 5.0% failed, over the limit of 0.01 of them" in err
    assert run_cli("retry", f"{shop.out}.retry-0001", "--code", "not_found")[0] == 4
    code, _, err = run_cli("retry", shop.out, "--code", "not_found", "--set", "max_failure_rate=7")
    assert (code, "must be from 0 to 1" in err) == (2, True)


def test_two_retries_whose_folders_have_one_name_both_count(shop: Shop, run_cli: Cli) -> None:
    shop.hide(2, 20)
    shop.submit()
    shop.show(2)
    assert run_cli("retry", shop.out, "--code", "not_found", "-o", shop.root / "sub" / "again")[0] == 0
    shop.show(20)
    assert run_cli("retry", shop.out, "--code", "not_found", "-o", shop.root / "again")[0] == 0
    assert batchrec.open(shop.out).errors().num_rows == 0


def test_a_retry_can_be_taken_over(half: Shop, run_cli: Cli) -> None:
    assert run_cli("retry", half.out, "--code", "not_found", "--takeover")[0] == 0


def test_the_merged_view_reads_as_the_dataset_of_a_job_without_retries_does(shop: Shop, run_cli: Cli) -> None:
    shop.hide(2, 20)
    shop.submit()
    shop.show(2)
    assert run_cli("retry", shop.out, "--code", "not_found")[0] == 0
    merged = batchrec.open(shop.out).predictions()
    assert isinstance(merged, MergedPredictions)
    assert [batch.num_rows for batch in merged.to_batches(batch_size=15)] == [15, 15, 1, 9]
    ok = ds.field("status") == "ok"
    assert merged.head(3, columns=["row"], filter=ok).column("row").to_pylist() == [0, 1, 2]
    found = polars.scan_pyarrow_dataset(merged).filter(polars.col("status") == "error").collect()
    assert found["row"].to_list() == [20]
