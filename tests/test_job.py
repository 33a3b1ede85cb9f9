"""Whole jobs in one process, on drawn images, with the bundled model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchrec
from batchrec.engine.devices import Placement
from batchrec.engine.sites import OpenPool, ThisProcess
from batchrec.errors import AccessError, OutputError
from batchrec.job import prepare, run_job
from batchrec.manifest.planning import Plan
from batchrec.output.layout import Layout
from batchrec.output.verifying import verify
from batchrec.planning import plan_job
from batchrec.spec import JobSpec
from batchrec.storage import Store, open_store

Cli = Callable[..., tuple[int, str, str]]

#: What drawing breaks, and the code it must end with.
CODES_OF_BROKEN = {
    "truncated": {"truncated"},
    "empty": {"empty"},
    "html": {"not_an_image"},
    "missing": {"not_found"},
    "bomb": {"too_many_pixels"},
}


@pytest.fixture(scope="module")
def finished(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a finished job on the archive."""
    out = tmp_path_factory.mktemp("finished") / "out"
    summary = batchrec.submit(
        str(archive / "manifest.parquet"),
        output=str(out),
        pool="inline",
        passthrough="broken",
        max_failure_rate=0.5,
    )
    assert summary.exit_code == 0
    return out


@pytest.fixture
def model_without_numbers(tmp_path: Path) -> str:
    """A real small network with weights so large that one of its answers is infinite."""
    import torch
    from safetensors.torch import save_file
    from torchvision.models import get_model

    weights = get_model("shufflenet_v2_x0_5", num_classes=3).state_dict()
    weights["conv5.1.bias"] += 1
    weights["fc.weight"][1] = torch.finfo(torch.float32).max
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, tmp_path / "large.safetensors")
    return f"file:{tmp_path}/large.safetensors+shufflenet_v2_x0_5"


def sound(out: Path) -> int:
    """Verify an output and return its number of rows."""
    opened = batchrec.open(str(out))
    plan = Plan.from_parquet(opened.store.read(opened.layout.plan_key))
    found = verify(opened.store, opened.layout, list(plan))
    assert (found.faults, found.complete) == ((), True)
    return found.num_rows


def test_every_manifest_row_ends_once_and_the_output_is_sound(archive: Path, finished: Path) -> None:
    manifest = pq.read_table(archive / "manifest.parquet")
    rows = batchrec.open(str(finished)).predictions().to_table()
    assert sound(finished) == manifest.num_rows == 160
    assert rows.column("uri").to_pylist() == manifest.column("uri").to_pylist()
    assert rows.column("image_id").to_pylist() == [str(i) for i in manifest.column("image_id").to_pylist()]


def test_every_broken_file_is_one_row_with_its_code(finished: Path) -> None:
    rows = batchrec.open(str(finished)).predictions().to_table().to_pylist()
    broken = [row for row in rows if row["broken"]]
    assert len(broken) == 8
    assert all(row["status"] == "error" and row["label"] is None for row in broken if row["broken"] in CODES_OF_BROKEN)
    for row in broken:
        assert row["error_code"] in CODES_OF_BROKEN.get(row["broken"], {row["error_code"]}), row
    assert all(row["status"] == "ok" for row in rows if not row["broken"])


def test_predictions_are_what_they_say(finished: Path) -> None:
    ok = [row for row in batchrec.open(str(finished)).predictions().to_table().to_pylist() if row["status"] == "ok"]
    for row in ok:
        scores = [each["score"] for each in row["top_k"]]
        assert scores == sorted(scores, reverse=True)
        assert (row["label"], row["score"]) == (row["top_k"][0]["label"], scores[0])
        assert row["margin"] == pytest.approx(scores[0] - scores[1], abs=1e-6)
        assert 0 < sum(scores) <= 1.001
        assert min(row["width"], row["height"], row["bytes"]) > 0


def test_the_same_command_again_reads_no_image(archive: Path, tmp_path: Path) -> None:
    copy = tmp_path / "archive"
    shutil.copytree(archive, copy)
    first = batchrec.submit(str(copy / "manifest.parquet"), pool="inline", max_failure_rate=0.5)
    for image in copy.rglob("*.jpg"):
        image.unlink()
    again = batchrec.submit(str(copy / "manifest.parquet"), pool="inline", max_failure_rate=0.5)
    assert (again.num_ok, again.exit_code, again.stats.num_rows) == (first.num_ok, 0, 0)
    assert sound(Path(f"{copy}/manifest.parquet.batchrec")) == 160


def test_the_verdict_follows_the_limit_asked_for_now(archive: Path, finished: Path) -> None:
    arguments = {"output": str(finished), "pool": "inline", "passthrough": "broken"}
    source = str(archive / "manifest.parquet")
    assert batchrec.submit(source, max_failure_rate=0.0, **arguments).exit_code == 4
    assert batchrec.submit(source, max_failure_rate=0.5, **arguments).exit_code == 0


@pytest.mark.parametrize("backend", ["torch-eager", "openvino"])
def test_a_model_that_answers_no_numbers_gives_error_rows(
    archive: Path, model_without_numbers: str, tmp_path: Path, backend: str
) -> None:
    out = tmp_path / "out"
    source, model = str(archive / "manifest.parquet"), model_without_numbers
    settings = {"pool": "inline", "limit": 40, "precision": "fp32", "backend": backend}
    assert batchrec.submit(source, output=str(out), model=model, **settings).exit_code == 4
    assert sound(out) == 40
    rows = batchrec.open(str(out)).predictions().to_table()
    assert "ok" not in rows.column("status").to_pylist()
    assert rows.column("error_code").to_pylist().count("prediction_failed") > 30
    assert rows.column("score").null_count == rows.column("label").null_count == 40


def test_another_definition_is_refused_with_what_differs(archive: Path, finished: Path) -> None:
    with pytest.raises(OutputError, match=r"top_k was 5, is now 3") as refused:
        batchrec.submit(str(archive / "manifest.parquet"), output=str(finished), passthrough="broken", top_k=3)
    assert refused.value.exit_code == 3


@pytest.mark.parametrize("damaged", [b"{", b'{"identity": {"top_k": 9}}', b"[]", b"\xff", b"[" * 99_999])
def test_a_folder_that_defines_another_job_is_refused(archive: Path, tmp_path: Path, damaged: bytes) -> None:
    job = plan_job(JobSpec(source=(str(archive / "manifest.parquet"),), output=str(tmp_path / "out"), pool="inline"))
    store = open_store(job.spec.output, job.spec.store)
    layout = Layout(job.identity.job_id)
    store.create(layout.spec_key, damaged)
    with pytest.raises(OutputError, match=r"does not define this job.*`batchrec repair"):
        prepare(store, layout, job)
    store.delete(layout.spec_key)
    prepare(store, layout, job)


class Watched(ThisProcess):
    """Notes what stands in the output when its workers begin to start, and whether they were ended."""

    def __init__(self, out: Path) -> None:
        self.out, self.stood, self.ended = out, [""], False

    @contextmanager
    def starting(self, placement: Placement) -> Iterator[OpenPool]:
        self.stood = sorted(path.name for path in self.out.rglob("*"))
        try:
            with super().starting(placement) as open_pool:
                yield open_pool
        finally:
            self.ended = True


def test_workers_begin_to_start_before_the_folder_is_made_ready(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    site = Watched(out)
    spec = JobSpec(source=(str(archive / "manifest.parquet"),), output=str(out), limit=20, max_failure_rate=1)
    assert run_job(spec, site=site).exit_code == 0
    assert (site.stood, site.ended) == ([], True)


def test_what_was_started_ends_where_the_folder_cannot_be_made_ready(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(store: Store) -> None:
        raise OutputError("no room", found="none", advice="make some")

    monkeypatch.setattr("batchrec.job.probe", refuse)
    site = Watched(tmp_path / "out")
    with pytest.raises(OutputError, match="no room"):
        run_job(JobSpec(source=(str(archive / "manifest.parquet"),), output=str(site.out)), site=site)
    assert site.ended


def test_a_complete_job_starts_nothing(archive: Path, finished: Path) -> None:
    site = Watched(finished)
    spec = JobSpec(source=(str(archive / "manifest.parquet"),), output=str(finished), passthrough=("broken",))
    assert run_job(spec, site=site).exit_code == 0
    assert not site.ended


def test_a_changed_manifest_is_refused(archive: Path, tmp_path: Path) -> None:
    copy = tmp_path / "archive"
    shutil.copytree(archive, copy)
    batchrec.submit(str(copy / "manifest.parquet"), pool="inline", limit=20)
    table = pq.read_table(copy / "manifest.parquet")
    pq.write_table(table.slice(0, 100), copy / "manifest.parquet")
    with pytest.raises(OutputError, match=r"manifest: manifest\.parquet was \d+ bytes, is now \d+"):
        batchrec.submit(str(copy / "manifest.parquet"), pool="inline", limit=20)


def test_a_resume_keeps_the_boundaries_of_the_first_run(archive: Path, tmp_path: Path) -> None:
    settings = {"output": str(tmp_path / "out"), "pool": "inline", "max_failure_rate": 0.5}
    source = str(archive / "manifest.parquet")
    batchrec.submit(source, rows_per_shard=64, **settings)
    for sealed in [tmp_path / "out" / "_SUCCESS", *tmp_path.rglob("SEAL.json"), *tmp_path.rglob("errors.parquet")]:
        sealed.unlink()
    parts = sorted((tmp_path / "out" / "predictions").rglob("*.parquet"))
    assert len(parts) == 3
    parts[1].unlink()
    summary = batchrec.submit(source, rows_per_shard=16, **settings)
    assert (summary.num_shards, summary.shards_done_before) == (3, 2)
    assert sound(tmp_path / "out") == 160


def test_odd_rows_of_a_manifest_each_end_once(archive: Path, tmp_path: Path) -> None:
    good = (
        pq.read_table(archive / "manifest.parquet")
        .filter(pa.compute.field("broken").is_null())
        .column("uri")[0]
        .as_py()
    )
    uris = [
        good,
        good,
        None,
        "",
        "a\0b",
        "x" * 9000,
        "../outside.jpg",
        "https://example.com/a.jpg",
        "\n",
        "no/such.jpg",
        "é.jpg",
    ]
    pq.write_table(pa.table({"url": uris}), archive / "odd.parquet")
    batchrec.submit(str(archive / "odd.parquet"), output=str(tmp_path / "out"), pool="inline", max_failure_rate=1)
    codes = batchrec.open(str(tmp_path / "out")).predictions().to_table().column("error_code").to_pylist()
    assert codes[:3] == [None, None, "uri_missing"]
    assert set(codes[3:]) <= {"uri_missing", "uri_invalid", "uri_refused", "not_found"}
    assert (codes[6], codes[7], codes[9]) == ("uri_refused", "uri_refused", "not_found")
    assert sound(tmp_path / "out") == len(uris)


def test_duckdb_reads_the_predictions(finished: Path) -> None:
    query = f"SELECT count(*), count(label), count(error_code) FROM '{finished}/predictions/*/*.parquet'"
    total, labelled, failed = duckdb.sql(query).fetchall()[0]
    assert (total, labelled + failed) == (160, 160)


def test_the_report_is_kept_and_printed(finished: Path, run_cli: Cli) -> None:
    code, out, _ = run_cli("report", finished)
    assert code == 0
    assert "160" in out
    kept = json.loads((finished / "report.json").read_text())
    assert kept["num_ok"] + kept["num_failed"] == 160
    assert json.loads(run_cli("report", finished, "--json")[1]) == kept


def test_status_errors_and_verify_speak_json(finished: Path, run_cli: Cli) -> None:
    status = json.loads(run_cli("status", finished, "--json")[1])
    assert (status["complete"], status["rows"]) == (True, 160)
    by_code = json.loads(run_cli("errors", finished, "--by", "code", "--json")[1])
    assert sum(by_code.values()) == 160 - status["rows_ok"]
    assert json.loads(run_cli("verify", finished, "--json")[1])["faults"] == []


def test_a_sealed_output_that_lost_a_part_is_refused_and_not_called_complete(archive: Path, tmp_path: Path) -> None:
    settings = {"output": str(tmp_path / "out"), "pool": "inline", "max_failure_rate": 1.0}
    batchrec.submit(str(archive / "manifest.parquet"), rows_per_shard=32, **settings)
    next((tmp_path / "out" / "predictions").rglob("part-00000003.parquet")).unlink()
    with pytest.raises(OutputError, match=r"1 of 5 parts are not as sealed, the first is .*part-00000003"):
        batchrec.submit(str(archive / "manifest.parquet"), **settings)


def test_a_failure_rate_equal_to_the_limit_is_within_it(archive: Path, tmp_path: Path) -> None:
    uris = pq.read_table(archive / "manifest.parquet").filter(pa.compute.field("broken").is_null()).column("uri")
    table = pa.table({"uri": [*uris.to_pylist()[:19], "absent.jpg"]})
    pq.write_table(table, archive / "twenty.parquet")
    summary = batchrec.submit(str(archive / "twenty.parquet"), output=str(tmp_path / "out"), pool="inline")
    assert (summary.num_ok, summary.exit_code) == (19, 0)


def test_an_input_root_that_is_no_folder_is_refused(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(AccessError, match="nowhere"):
        batchrec.submit(archive / "manifest.parquet", output=str(tmp_path / "out"), input_roots=f"{tmp_path}/nowhere")
