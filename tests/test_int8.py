"""Jobs in int8: quantised by images of their own, one model for all workers and runs, refused where it is another."""

from __future__ import annotations

import json
import shutil
import signal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import batchrec
from batchrec import benching
from batchrec.engine import calibrating, int8_record
from batchrec.engine.calibrating import refuse_disagreement, split
from batchrec.engine.identity import bind
from batchrec.errors import AccessLost, ErrorCode, ImageError, ModelError, Refused, UsageError
from batchrec.learning.drawing import draw_archive
from batchrec.manifest.planning import plan_shards
from batchrec.manifest.reading import open_manifest
from batchrec.manifest.sampling import sampled_uris
from batchrec.models import resolve_model
from batchrec.models.backends import open_backend, quantising, quantising_child, resolve_precision
from batchrec.models.quantised import Quantised, read_graph, write_graph
from batchrec.models.weights import sha256_of
from batchrec.output.layout import Layout
from batchrec.output.verifying import verify
from batchrec.pipeline.decoding import Decoder
from batchrec.pipeline.sampling import ImageSample, read_sample
from batchrec.planning import plan_job
from batchrec.records import Agreement
from batchrec.report.planned import plan_lines
from batchrec.report.summary import RunSummary
from batchrec.report.terminal import render
from batchrec.spec import ImageLimits, JobSpec, StoreOptions
from batchrec.storage import ImageReader, UriPolicy, open_store

needs_nncf = pytest.mark.skipif(find_spec("nncf") is None, reason="NNCF is not installed: pip install 'batchrec[int8]'")


@pytest.fixture(autouse=True)
def small_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many images as a test has time for."""
    monkeypatch.setattr(calibrating, "NUM_CALIBRATED", 32)
    monkeypatch.setattr(calibrating, "NUM_CHECKED", 48)
    monkeypatch.setattr(calibrating, "LEAST_CHECKED", 20)


@pytest.fixture(scope="module")
def garments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of 96 drawn images and some rows that have none."""
    folder = tmp_path_factory.mktemp("int8") / "archive"
    drawn = pq.read_table(draw_archive(folder, num_images=96, seed=5))
    uris = drawn.column("uri").to_pylist()
    uris[7:7] = ["absent-1.jpg", uris[0], None]
    pq.write_table(pa.table({"uri": uris}), folder / "manifest.parquet")
    return folder / "manifest.parquet"


def submitted(manifest: Path, out: Path, **settings: Any) -> RunSummary:
    fixed: dict[str, Any] = {"pool": "inline", "max_failure_rate": 1.0, "rows_per_shard": 32, "precision": "int8"}
    return batchrec.submit(manifest, output=str(out), **{**fixed, **settings})


def labels(out: Path) -> list[str | None]:
    return batchrec.open(str(out)).predictions().to_table().sort_by("row").column("label").to_pylist()


@pytest.fixture(scope="module")
def quantised_job(garments: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunSummary]:
    """A complete job in int8; what it quantised stays in this session's cache."""
    out = tmp_path_factory.mktemp("int8") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrating, "NUM_CALIBRATED", 32)
        patch.setattr(calibrating, "NUM_CHECKED", 48)
        patch.setattr(calibrating, "LEAST_CHECKED", 20)
        return out, submitted(garments, out)


@needs_nncf
def test_plan_and_report_say_how_often_the_model_agrees(quantised_job: tuple[Path, RunSummary], garments: Path) -> None:
    out, summary = quantised_job
    assert summary.agreement is not None
    assert summary.agreement.num_checked == 48
    assert summary.agreement.num_agreeing >= 47
    assert {worker.precision for worker in summary.workers} == {"int8"}
    assert RunSummary.from_json(json.loads(json.dumps(summary.to_json()))).agreement == summary.agreement
    assert f"gives {summary.agreement}" in " ".join(render(summary).split())
    spec = JobSpec(source=(str(garments),), output=str(out), pool="inline", precision="int8")
    assert f"int8       gives {summary.agreement}" in plan_lines(plan_job(spec).facts())


@needs_nncf
def test_a_job_in_int8_gives_the_labels_of_full_precision(
    quantised_job: tuple[Path, RunSummary], garments: Path, tmp_path: Path
) -> None:
    submitted(garments, tmp_path / "fp32", precision="fp32")
    pairs = list(zip(labels(quantised_job[0]), labels(tmp_path / "fp32"), strict=True))
    assert sum(a == b for a, b in pairs) >= len(pairs) - 2
    opened = batchrec.open(str(quantised_job[0]))
    assert verify(opened.store, opened.layout, list(plan_shards([99], 32, None))).faults == ()


@needs_nncf
def test_a_resume_runs_the_model_that_stands_and_quantises_none(
    quantised_job: tuple[Path, RunSummary], garments: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(quantised_job[0], out)
    for lost in (out / "_SUCCESS", *out.rglob("SEAL.json"), *out.rglob("errors.parquet"), *out.rglob("part-00000001*")):
        lost.unlink()
    monkeypatch.setenv("BATCHREC_CACHE", str(tmp_path / "another machine"))
    monkeypatch.setattr(quantising, "_quantised_graph", pytest.fail)
    summary = submitted(garments, out)
    assert summary.agreement == quantised_job[1].agreement
    assert summary.shards_done_before == 3
    assert labels(out) == labels(quantised_job[0])


@needs_nncf
def test_a_retry_runs_the_model_of_its_parent(
    quantised_job: tuple[Path, RunSummary], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from batchrec.engine.retrying import prepare_retry
    from batchrec.job import run_job

    parent, child = tmp_path / "out", tmp_path / "child"
    shutil.copytree(quantised_job[0], parent)
    monkeypatch.setattr(quantising, "_quantised_graph", pytest.fail)
    retry = prepare_retry(batchrec.open(str(parent)), codes=["not_found"], sets=["pool=inline"], target=str(child))
    assert retry is not None
    assert run_job(retry.spec, model=retry.model).agreement == quantised_job[1].agreement


@needs_nncf
def test_a_retry_in_full_precision_runs_the_full_model(quantised_job: tuple[Path, RunSummary], tmp_path: Path) -> None:
    from batchrec.engine.retrying import prepare_retry

    parent = tmp_path / "out"
    shutil.copytree(quantised_job[0], parent)
    retry = prepare_retry(batchrec.open(str(parent)), codes=["not_found"], sets=["precision=fp32"])
    assert retry is not None
    assert retry.model.quantised is None
    assert plan_job(retry.spec, model=retry.model).agreement is None


@needs_nncf
def test_a_model_that_is_another_one_in_int8_is_refused_with_both_numbers(
    quantised_job: tuple[Path, RunSummary], garments: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrating, "LEAST_AGREEMENT", 1.01)
    with pytest.raises(ModelError, match=r"of 48 sampled images, \d+\.\d+%, where 101% are asked for\); use --precis"):
        submitted(garments, tmp_path / "out")
    submitted(garments, tmp_path / "out", precision="fp32")  # the folder was not bound to the job that was refused


def test_the_limit_of_agreement_is_99_in_100() -> None:
    model = resolve_model("apparel")
    refuse_disagreement(model, Agreement(500, 495))
    with pytest.raises(ModelError, match="in int8 apparel is another model") as refused:
        refuse_disagreement(model, Agreement(500, 494))
    assert "494 of 500 sampled images, 98.80%, where 99% are asked for" in str(refused.value)
    assert refused.value.exit_code == 3


@needs_nncf
def test_too_few_images_to_tell_are_refused_before_the_folder_is_taken(garments: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"needs 34 different .*found: 8, and 2 of the rows looked at have none"):
        submitted(garments, tmp_path / "out", limit=11)
    assert not (tmp_path / "out" / "_batchrec" / "OUTPUT.json").exists()


def test_without_nncf_int8_names_what_to_install(
    garments: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantising, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"NNCF.*pip install 'batchrec\[int8\]'"):
        submitted(garments, tmp_path / "out")


def test_int8_is_for_openvino_on_a_cpu() -> None:
    with pytest.raises(UsageError, match="only openvino computes in int8"):
        JobSpec(source=("m",), output="o", precision="int8", backend="torch-eager")
    with pytest.raises(Refused, match="int8 is for CPUs"):
        resolve_precision("int8", "cuda")
    model = resolve_model("apparel")
    settings: dict[str, Any] = {"device": "cpu", "batch_size": 1, "num_threads": 1, "top_k": 1}
    with pytest.raises(ModelError, match="does not compute in int8"):
        open_backend(model, precision="int8", backend="torch-eager", **settings)


def test_of_two_coordinators_both_run_the_model_of_the_first(tmp_path: Path) -> None:
    store, layout = open_store(str(tmp_path / "out"), StoreOptions()), Layout("ab" * 32)
    first, second = (_written(tmp_path / f"{name}.int8.zip", name) for name in ("first", "second"))
    assert int8_record.keep_quantised(store, layout, first) == first
    found = int8_record.keep_quantised(store, layout, second)
    assert (found.sha256, found.agreement) == (first.sha256, first.agreement)
    assert read_graph(Path(found.path)) == (b"first", b"weights")


def _written(path: Path, graph: str) -> Quantised:
    write_graph(path, graph.encode(), b"weights")
    return Quantised(str(path), sha256_of(path), Agreement(500, 500 - len(graph)))


def test_a_record_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    store, layout = open_store(str(tmp_path / "out"), StoreOptions()), Layout("ab" * 32)
    assert int8_record.standing_quantised(store, layout) is None
    store.create(layout.quantised_key, b'{"sha256": "0"}')
    with pytest.raises(Refused, match=r"int8.json cannot be read"):
        int8_record.standing_quantised(store, layout)


def test_a_sample_comes_from_all_over_the_manifest_and_is_the_same_each_time(tmp_path: Path) -> None:
    path = tmp_path / "manifest.parquet"
    pq.write_table(pa.table({"uri": [f"{row}.jpg" for row in range(40_000)]}), path, row_group_size=3_000)
    spec = JobSpec(source=(str(path),), output=str(tmp_path / "out"))
    manifest, plan = open_manifest(spec), plan_shards([40_000], 256, None)
    uris = sampled_uris(manifest, plan, spec.store, 512)
    assert uris == sampled_uris(manifest, plan, spec.store, 512)
    rows = [int(uri.removesuffix(".jpg")) for uri in uris if uri]
    assert len(set(rows)) == len(rows) == 512
    assert max(b - a for a, b in zip([0, *rows], [*rows, 40_000], strict=True)) < 1_000
    few = plan_shards([40_000], 256, 300)
    assert sampled_uris(manifest, few, spec.store, 512) == [f"{row}.jpg" for row in range(300)]


def test_what_cannot_be_had_is_passed_over_and_what_comes_twice_is_taken_once(garments: Path) -> None:
    uris = pq.read_table(garments).column("uri").to_pylist()
    reader = ImageReader(UriPolicy(str(garments.parent), (), (), ()), StoreOptions(), 2**20)
    decoder = Decoder(resolve_model("apparel").preprocess, ImageLimits())
    found = read_sample(uris, reader, decoder, wanted=30, num_threads=2)
    assert len(found.pixels) == 30
    assert [fault.code for fault in found.faults] == [ErrorCode.NOT_FOUND, ErrorCode.URI_MISSING]
    assert len({pixels.tobytes() for pixels in found.pixels}) == 30
    reader.close()


def test_no_image_both_calibrates_and_checks() -> None:
    import numpy as np

    pixels = [np.full((2, 2, 3), index, np.uint8) for index in range(80)]
    calibration, check = split(ImageSample(pixels, []))
    assert (len(calibration), len(check)) == (32, 48)
    assert sorted([*calibration[:, 0, 0, 0], *check[:, 0, 0, 0]]) == list(range(80))
    with pytest.raises(ModelError, match="needs 34 different images"):
        split(ImageSample(pixels[:20], [ImageError(ErrorCode.NOT_FOUND)] * 3))


@pytest.mark.parametrize(("num_denied", "kind"), [(13, ModelError), (14, AccessLost)])
def test_images_that_the_run_may_not_read_are_no_fault_of_the_model(num_denied: int, kind: type[Exception]) -> None:
    import numpy as np

    faults = [ImageError(ErrorCode.NOT_FOUND), *[ImageError(ErrorCode.ACCESS_DENIED)] * num_denied]
    with pytest.raises(kind, match=r"needs 34 different images .*access_denied"):
        split(ImageSample([np.zeros((2, 2, 3), np.uint8)] * 20, faults))


def test_what_quantises_ends_by_itself_where_nobody_waits_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    alarms: list[int] = []
    monkeypatch.setattr(signal, "alarm", alarms.append)
    monkeypatch.setattr(quantising_child, "import_openvino", lambda: 1 // 0)  # what comes next takes minutes
    with pytest.raises(ZeroDivisionError):
        quantising_child.main(Path("nowhere"))
    assert alarms == [901]


def test_a_resumed_job_is_measured_with_the_model_that_lies_beside_its_output(
    garments: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = JobSpec(source=(str(garments),), output=str(tmp_path / "out"), pool="inline", precision="int8")
    store, job = open_store(spec.output, spec.store), plan_job(spec)
    bind(store, job.identity)
    made = int8_record.keep_quantised(store, Layout(job.identity.job_id), _written(tmp_path / "a.int8.zip", "graph"))
    Path(made.path).unlink()
    monkeypatch.setattr(benching, "measure", lambda job, scratch: job)
    quantised = benching.measure_plan(plan_job(spec)).model.quantised
    assert read_graph(Path(quantised.path)) == (b"graph", b"weights")


@needs_nncf
def test_the_same_model_serves_batches_of_another_size(
    quantised_job: tuple[Path, RunSummary], garments: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted(garments, tmp_path / "out", batch_size=5)
    assert pc.equal(*(pa.array(labels(out)) for out in (tmp_path / "out", quantised_job[0]))).false_count == 0
