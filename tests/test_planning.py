"""What is decided when a job begins stays decided, wherever it is resumed."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchrec.engine.devices import Placement
from batchrec.engine.identity import bind
from batchrec.engine.sites import ThisProcess
from batchrec.errors import ModelError, OutputError
from batchrec.job import worker_job
from batchrec.manifest.planning import plan_shards
from batchrec.models.backends import hardware
from batchrec.output.layout import Layout
from batchrec.planning import plan_job
from batchrec.spec import JobSpec, StoreOptions
from batchrec.storage import open_store


class GpusElsewhere(ThisProcess):
    """A cluster with GPUs, planned from a machine without."""

    def place(self, spec: JobSpec) -> Placement:
        return Placement("cuda", 8, 4)


@pytest.fixture
def spec(archive: Path, tmp_path: Path) -> JobSpec:
    return JobSpec(source=(str(archive / "manifest.parquet"),), output=str(tmp_path / "out"), pool="inline")


@pytest.mark.parametrize(("asked", "expected"), [("auto", "bf16"), ("fp16", "fp16"), ("fp32", "fp32")])
def test_a_job_for_gpus_is_planned_on_a_machine_without(spec: JobSpec, asked: str, expected: str) -> None:
    job = plan_job(spec.replace(precision=asked), site=GpusElsewhere())
    assert (job.precision, job.placement.device) == (expected, "cuda")


def test_a_folder_whose_plan_cuts_other_files_is_refused(spec: JobSpec) -> None:
    job, store = plan_job(spec), open_store(spec.output, spec.store)
    layout, rows = Layout(job.identity.job_id), job.plan.num_rows
    bind(store, job.identity)
    store.create(layout.plan_key, plan_shards([1, rows - 1], 256, None).to_parquet())
    with pytest.raises(OutputError, match="as many rows, of other files"):
        plan_job(spec)


def test_a_job_resumed_on_another_kind_of_cpu_keeps_its_arithmetic(
    spec: JobSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "cpu_has_bf16", lambda: True)
    begun = plan_job(spec)
    bind(open_store(spec.output, StoreOptions()), begun.identity)
    monkeypatch.setattr(hardware, "cpu_has_bf16", lambda: False)
    assert plan_job(spec).identity == begun.identity
    assert plan_job(spec.replace(output=f"{spec.output}-other")).precision == "fp32"


@pytest.mark.parametrize(("begun", "resumed"), [("fp16", ThisProcess()), ("int8", GpusElsewhere())])
def test_a_job_is_not_resumed_on_a_device_that_cannot_compute_as_it_began(
    spec: JobSpec, begun: str, resumed: ThisProcess
) -> None:
    elsewhere = {"fp16": GpusElsewhere(), "int8": ThisProcess()}[begun]
    job = plan_job(spec.replace(precision=begun, device="cpu" if begun == "int8" else "auto"), site=elsewhere)
    bind(open_store(spec.output, StoreOptions()), job.identity)
    with pytest.raises(ModelError, match=f"{begun} is for"):
        plan_job(spec.replace(device="cpu" if begun == "fp16" else "auto"), site=resumed)


def test_nvjpeg_is_refused_where_workers_run_on_the_cpu(spec: JobSpec) -> None:
    with pytest.raises(ModelError, match="nvJPEG decodes on a CUDA device"):
        plan_job(spec.replace(decoding="nvjpeg", device="cpu"))
    job = plan_job(spec.replace(decoding="nvjpeg"), site=GpusElsewhere())
    assert worker_job(job, open_store(spec.output, spec.store)).nvjpeg
    assert job.identity.fields["decoding"] == "nvjpeg"
