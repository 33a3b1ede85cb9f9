"""What a machine allows."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrec.report.limit import FetchTerm, ModelTerm, Terms, WriteTerm, cores_without_model, limit_of

FAST_DISK = FetchTerm("local disk", 10_000, 0.0004, 4, 110_000, core_s=0.0001)
ON_CPU = ModelTerm("openvino", "cpu", "bf16", 32, 500)
ON_CUDA = ModelTerm("torch-cuda", "cuda:0", "bf16", 256, 4_000)
WRITE = WriteTerm(50_000, core_s=0.0)
TWO_CORES = Terms(num_cores=2, fetch=FAST_DISK, decode_core_s=0.0019, model=ON_CPU, write=WRITE)
GPU = replace(TWO_CORES, num_cores=8, model=ON_CUDA, transfer_images_per_s=20_000.0)

seconds = st.floats(1e-7, 10)
rates = st.floats(0.1, 1e6)
all_terms = st.builds(
    Terms,
    num_cores=st.floats(0.5, 64),
    fetch=st.builds(FetchTerm, st.just("s3"), rates, seconds, st.integers(1, 64), rates, seconds),
    decode_core_s=seconds,
    model=st.builds(ModelTerm, st.just("any"), st.sampled_from(["cpu", "cuda:0"]), st.just("fp32"), st.just(32), rates),
    write=st.builds(WriteTerm, rates, seconds),
    transfer_images_per_s=st.none() | rates,
)
cores = st.floats(0.5, 256)
workers = st.integers(1, 64)


def test_terms_that_share_cores_add():
    limit = limit_of(TWO_CORES, num_cores=2, num_workers=1)
    assert limit.images_per_s == pytest.approx(2 / (0.0001 + 0.0019 + 2 / 500))
    assert limit.binds == "cpu"
    assert limit.sentence == "CPU-bound: model 67 %, decode 32 %, fetch 2 %"


def test_a_model_on_a_device_costs_no_cores():
    limit = limit_of(GPU, num_cores=8, num_workers=1)
    assert limit.bounds["cpu"] == pytest.approx(8 / 0.002)
    assert limit.bounds["model"] == 4_000
    assert limit.core_shares["model"] == 0


def test_a_starved_device_wants_cores_and_a_slow_one_another_device():
    starved = limit_of(replace(GPU, decode_core_s=0.004), num_cores=8, num_workers=1)
    slow = replace(GPU, model=replace(ON_CUDA, images_per_s=900))
    assert starved.binds == "cpu"
    assert limit_of(slow, num_cores=8, num_workers=1).sentence.startswith("model-bound: ")
    assert limit_of(slow, num_cores=8, num_workers=2).images_per_s == 1_800


def test_a_slow_source_binds_whatever_the_cores_allow():
    slow = replace(TWO_CORES, fetch=replace(FAST_DISK, images_per_s=40))
    assert limit_of(slow, num_cores=2, num_workers=1).binds == "fetch"
    assert limit_of(slow, num_cores=64, num_workers=1).images_per_s == 40


def test_a_device_takes_the_model_off_the_cores():
    assert cores_without_model(TWO_CORES, 2) == pytest.approx(1_000)


@given(terms=all_terms, num_cores=cores, more=st.floats(0, 64), num_workers=workers)
def test_more_cores_or_workers_never_allow_less(terms, num_cores, more, num_workers):
    limit = limit_of(terms, num_cores=num_cores, num_workers=num_workers)
    assert limit_of(terms, num_cores=num_cores + more, num_workers=num_workers).images_per_s >= limit.images_per_s
    assert limit_of(terms, num_cores=num_cores, num_workers=num_workers + 1).images_per_s >= limit.images_per_s


@given(terms=all_terms, num_cores=cores, num_workers=workers)
def test_the_limit_is_the_least_bound_and_another_core_gains_at_most_its_share(terms, num_cores, num_workers):
    limit = limit_of(terms, num_cores=num_cores, num_workers=num_workers)
    more = limit_of(terms, num_cores=num_cores + 1, num_workers=num_workers)
    assert limit.images_per_s == min(limit.bounds.values()) == limit.bounds[limit.binds]
    assert more.images_per_s <= limit.images_per_s * (1 + 1 / num_cores) * (1 + 1e-9)
    assert limit.sentence


@given(terms=all_terms, num_cores=cores, stage=st.sampled_from(["fetch", "decode_core_s", "write"]))
def test_a_term_that_grows_never_allows_more_and_shares_add_up(terms, num_cores, stage):
    worse = {
        "fetch": replace(terms, fetch=replace(terms.fetch, core_s=2 * terms.fetch.core_s)),
        "decode_core_s": replace(terms, decode_core_s=2 * terms.decode_core_s),
        "write": replace(terms, write=replace(terms.write, core_s=2 * terms.write.core_s)),
    }[stage]
    limit = limit_of(terms, num_cores=num_cores, num_workers=1)
    assert limit_of(worse, num_cores=num_cores, num_workers=1).images_per_s <= limit.images_per_s
    assert sum(limit.core_shares.values()) == pytest.approx(1)


@given(terms=all_terms, disturbed=all_terms)
def test_the_better_of_two_measurements_lets_cores_do_no_less_and_stores_no_more(terms, disturbed):
    model = replace(terms.model, images_per_s=disturbed.model.images_per_s)
    again = replace(disturbed, model=model, num_cores=terms.num_cores)
    first, second, both = (
        limit_of(each, num_cores=8, num_workers=1).bounds for each in (terms, again, terms.at_best(again))
    )
    assert both["cpu"] >= max(first["cpu"], second["cpu"]) * (1 - 1e-9)
    assert (both["fetch"], both["write"]) == (first["fetch"], first["write"])  # the second may read from a cache
    assert terms.at_best(terms) == terms


@given(terms=all_terms, num_cores=cores)
def test_no_term_of_the_cores_alone_allows_less_than_all_together(terms, num_cores):
    limit = limit_of(terms, num_cores=num_cores, num_workers=1)
    for core_s in terms.core_s.values():
        assert limit.bounds["cpu"] * core_s <= num_cores * (1 + 1e-9)
