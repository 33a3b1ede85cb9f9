"""A measurement of a machine, for people and for programs."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from batchrec.report.expectation import Expectation
from batchrec.report.limit import FetchTerm, ModelTerm, Terms, WriteTerm
from batchrec.report.measurement import (
    Cores,
    Measurement,
    Untried,
    expected_facts,
    expected_lines,
    measurement_lines,
)

EXPECTATION = Expectation(
    limit_images_per_s=331, binds="CPU-bound: model 66 %", images_per_s=300, outside_s=6, measured_at="2026-11-26T23:45"
)
ON_CPU = ModelTerm("openvino", "cpu", "bf16", 32, 500)
TERMS = Terms(
    num_cores=2,
    fetch=FetchTerm("s3", 900, 0.021, 32, 112_640, core_s=0.0002),
    decode_core_s=0.0018,
    model=ON_CPU,
    write=WriteTerm(50_000, core_s=0.00002),
)


def measured(**changes: Any) -> Measurement:
    fields: dict[str, Any] = {
        "model": "apparel",
        "num_images": 256,
        "cores": Cores(2, 2, 1.98),
        "num_workers": 1,
        "cores_per_worker": 2,
        "terms": TERMS,
        "other_models": (replace(ON_CPU, backend="torch-eager", images_per_s=60),),
        "untried": (Untried("CUDA", "there is no such device here"),),
        "expectation": EXPECTATION,
    }
    return Measurement(**(fields | changes))


def facts(found: Measurement) -> dict[str, str]:
    return {line[:10].strip(): line[11:] for line in measurement_lines(found)}


def test_each_term_the_limit_and_what_would_help_are_told():
    told = facts(measured())
    assert told["cores"] == "2 of 2 may be used, 1.98 were to be had at once; 1 worker with 2 each"
    assert told["sample"] == "256 images, 110 KiB mean, model apparel"
    assert told["fetch"] == "900 images/s from s3, 21 ms each with 32 in flight, 0.2 ms of a core"
    assert told["decode"] == "556 images/s a core (1.8 ms)"
    assert told["model"] == "500 images/s with openvino bf16 on 2 cores, 32 a batch"
    assert told[""] == "60 images/s with torch-eager bf16 on 2 cores, 32 a batch"
    assert told["untried"] == "CUDA: there is no such device here"
    assert told["limit"] == "332 images/s; CPU-bound: model 66 %, decode 30 %, fetch 3 %"
    assert told["reached"] == "300 images/s by whole workers on the sample, 0.90 of it"
    assert told["one more"] == (
        "core: 498 images/s (+50 %); a CUDA device takes the model off the cores: up to 900 images/s"
    )


def test_cores_that_are_promised_but_not_to_be_had_are_named():
    assert "or a quota outside this process does" in facts(measured(cores=Cores(2, 2, 1.2)))["cores"]


def test_a_quota_of_a_fraction_of_a_core_is_the_limit_not_the_threads():
    assert measured(cores=Cores(8, 1.5, 1.5)).num_cores == 1.5


def test_another_device_shares_the_cores_there_are():
    cuda = replace(TERMS, model=ModelTerm("torch-cuda", "cuda:0", "bf16", 256, 700), transfer_images_per_s=9_000.0)
    found = measured(terms=cuda, untried=())
    told = facts(found)
    assert told["transfer"] == "9,000 images/s to the device"
    assert told["one more"].endswith("device: 990 images/s (+41 %)")
    assert found.to_json()["with_one_more_device"]["binds"] == "cpu"


def test_it_is_json_with_everything_derived():
    content = json.loads(json.dumps(measured().to_json()))
    assert content["limit"]["images_per_s"] == pytest.approx(332, abs=1)
    assert content["limit"]["sentence"].startswith("CPU-bound")
    assert content["terms"]["fetch"]["source"] == "s3"
    assert content["with_one_more_device"] is None


def test_a_job_is_told_its_time_and_its_cost():
    lines = expected_lines(measured(num_workers=4), 36_000, 2.5)
    assert lines == [
        "limit      331 images/s on this machine; CPU-bound: model 66 %",
        "expected   2:06: 36,000 images at 300 images/s, and 6.0 s to start and end",
        "cost       0.35 for 4 workers at 2.5 an hour each",
    ]
    assert expected_facts(measured(), 300, None) == {"images": 300, "seconds": 7.0, "cost": None}
    assert len(expected_lines(measured(), 300, None)) == 2
