"""What lies on the submitter's disk is put beside the output once, or refused with the reason."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchrec.cluster import staging as staging_module
from batchrec.cluster.staging import prepare_staging, stage
from batchrec.engine.identity import identify
from batchrec.errors import ManifestError, OutputError
from batchrec.manifest.reading import RowReader, open_manifest
from batchrec.models.carrying import weights_here
from batchrec.models.zoo import BUNDLES, resolve_model
from batchrec.records import Shard
from batchrec.spec import JobSpec, StoreOptions
from batchrec.storage import open_store
from tests.cluster.conftest import write_manifest
from tests.s3_server import S3Server

OUT = "s3://photos/out"


def job(*source: object, **settings: object) -> JobSpec:
    return JobSpec(source=tuple(map(str, source)), output=OUT, **settings)  # type: ignore[arg-type]


def job_id(spec: JobSpec) -> str:
    return identify(spec, open_manifest(spec), resolve_model("apparel"), "fp32").job_id


def staged(spec: JobSpec) -> JobSpec:
    prepared = prepare_staging(spec, shared=False)
    stage(prepared, open_store(OUT, spec.store))
    return prepared.spec


def test_a_staged_manifest_is_the_same_job(bucket: S3Server, manifest: Path) -> None:
    spec = job(manifest)
    on_cluster = staged(spec)
    [key] = bucket.keys("photos")
    assert on_cluster.source == (f"s3://photos/{key}",)
    assert key.endswith("/manifest.parquet")
    assert job_id(on_cluster) == job_id(spec)
    assert open_manifest(on_cluster).root == str(manifest.parent)
    rows = RowReader(open_manifest(on_cluster), StoreOptions()).read(Shard(0, 0, 0, 3, 0))
    assert rows.uris[2] == "s3://photos/archive/2.jpg"


@pytest.mark.parametrize("source", ["input", "input/**/*.parquet", "input/b/*.parquet"])
def test_names_and_order_of_many_files_are_kept(
    source: str, bucket: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("a.parquet", "b/a.parquet", "b/c [1].parquet", "b.parquet")):
        write_manifest(tmp_path / "input" / name, number + 1)
    spec = job(source)
    names = [file.name for file in open_manifest(spec).files]
    on_cluster = staged(spec)
    assert [file.name for file in open_manifest(on_cluster).files] == names
    assert job_id(on_cluster) == job_id(spec)


def test_several_files_keep_the_order_they_were_named_in(bucket: S3Server, tmp_path: Path) -> None:
    paths = [write_manifest(tmp_path / f"{name}.parquet", ord(name)) for name in "ca"]
    spec = job(*paths)
    assert job_id(staged(spec)) == job_id(spec)


def test_staging_again_puts_nothing(bucket: S3Server, manifest: Path) -> None:
    spec = staged(job(manifest))
    num_puts = len(bucket.requests("PUT"))
    assert staged(job(manifest)) == spec
    assert len(bucket.requests("PUT")) == num_puts
    assert all(line.conditional for line in bucket.requests("PUT"))


def test_another_manifest_of_the_same_name_lies_beside_the_first(bucket: S3Server, manifest: Path) -> None:
    first = staged(job(manifest))
    write_manifest(manifest, 4)
    assert staged(job(manifest)) != first
    assert len(bucket.keys("photos")) == 2


def test_a_large_file_goes_in_pieces(bucket: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging_module, "MAX_SINGLE_BYTES", 1_000)
    path = tmp_path / "large.parquet"
    noise = [random.Random(row).randbytes(2**20) for row in range(20)]
    pq.write_table(pa.table({"uri": ["s3://photos/a.jpg"] * 20, "noise": noise}), path)
    staged(job(path))
    [key] = bucket.keys("photos")
    assert len(bucket.requests("PUT", key)) == 3
    assert bucket.get("photos", key) == path.read_bytes()
    num_requests = len(bucket.log)
    staged(job(path))
    assert {line.method for line in bucket.log[num_requests:]} == {"HEAD"}


@pytest.mark.parametrize("largest", [1_000_000, 0])
def test_a_file_that_changes_before_it_is_put_is_refused(
    largest: int, bucket: S3Server, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging_module, "MAX_SINGLE_BYTES", largest)
    prepared = prepare_staging(job(manifest), shared=False)
    write_manifest(manifest, 7)
    with pytest.raises(ManifestError, match="changed"):
        stage(prepared, open_store(OUT, StoreOptions()))
    assert bucket.keys("photos") == []


@pytest.mark.parametrize("uri", ["images/{}.jpg", "/mnt/images/{}.jpg", "file:///mnt/{}.jpg", "odd:{}.jpg"])
def test_images_on_this_disk_are_refused_before_any_put(uri: str, bucket: S3Server, tmp_path: Path) -> None:
    path = write_manifest(tmp_path / "m.parquet", 2, uri)
    with pytest.raises(ManifestError, match="which the cluster cannot read") as refused:
        prepare_staging(job(path), shared=False)
    assert "--shared-filesystem" in refused.value.advice
    assert bucket.log == []


def test_an_output_on_this_disk_is_refused_unless_the_filesystem_is_shared(manifest: Path, tmp_path: Path) -> None:
    spec = JobSpec(source=(str(manifest),), output=str(tmp_path / "out"))
    with pytest.raises(OutputError, match="on this machine's disk, which the cluster cannot reach") as refused:
        prepare_staging(spec, shared=False)
    assert "s3://" in refused.value.advice
    assert "--shared-filesystem" in refused.value.advice
    assert prepare_staging(spec, shared=True).spec == spec


def test_folders_of_this_machine_are_refused(bucket: S3Server, manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="--input-root"):
        prepare_staging(job(manifest, input_roots=(str(tmp_path),)), shared=False)


def test_on_a_shared_filesystem_paths_are_made_absolute_and_nothing_travels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bundle").mkdir()
    spec = JobSpec(source=("m.parquet", "s3://b/m.parquet"), output="out", input_roots=("in",), labels="l.txt")
    here = str(tmp_path)
    models = {
        "bundle": f"{here}/bundle",
        "file:w.pt+resnet18": f"file:{here}/w.pt+resnet18",
        "torchvision:resnet18@./w.pt": f"torchvision:resnet18@{here}/w.pt",
        "torchvision:resnet18@DEFAULT": "torchvision:resnet18@DEFAULT",
        "apparel": "apparel",
    }
    for model, absolute in models.items():
        prepared = prepare_staging(spec.replace(model=model), shared=True)
        assert prepared.spec.model == absolute
        assert (prepared.model, prepared.files) == (None, ())
    assert prepared.spec.source == (f"{here}/m.parquet", "s3://b/m.parquet")
    assert prepared.spec.output == f"{here}/out"
    assert prepared.spec.input_roots == (f"{here}/in",)
    assert prepared.spec.labels == f"{here}/l.txt"


def test_a_model_of_this_disk_travels_with_its_weights(bucket: S3Server, tmp_path: Path) -> None:
    shutil.copytree(BUNDLES / "apparel", tmp_path / "bundle")
    spec = job("s3://photos/m.parquet", model=str(tmp_path / "bundle"))
    prepared = prepare_staging(spec, shared=False)
    store = open_store(OUT, spec.store)
    stage(prepared, store)
    assert prepared.model is not None
    assert prepared.spec.source == spec.source
    shutil.rmtree(tmp_path / "bundle")
    found = weights_here(prepared.model, store)
    assert found.weights_sha256 == resolve_model("apparel").weights_sha256
    assert Path(found.weights_path).is_file()


def test_labels_of_this_disk_travel_within_the_record(bucket: S3Server, tmp_path: Path) -> None:
    labels = [f"label {number}" for number in range(resolve_model("apparel").num_outputs)]
    (tmp_path / "labels.txt").write_text("\n".join(labels))
    prepared = prepare_staging(job("s3://photos/m.parquet", labels=str(tmp_path / "labels.txt")), shared=False)
    assert prepared.model is not None
    assert list(prepared.model.labels) == labels
    assert prepared.spec.labels is None


def test_models_that_the_cluster_has_or_fetches_stay_words(bucket: S3Server) -> None:
    for model in ("apparel", "torchvision:resnet18"):
        assert prepare_staging(job("s3://photos/m.parquet", model=model), shared=False).model is None
