"""What held a run back."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrec.report.binding import Threads, weigh
from batchrec.report.summary import binding
from batchrec.stats import ShardStats
from tests.engine.simulation import FACTS

TWO_CORES = Threads(fetch=8, decode=2, predict=1, cores=2)
GPU_NODE = Threads(fetch=32, decode=8, predict=1, cores=8)


def found(threads=TWO_CORES, on_gpu=False, span_s=10.0, **stage_s):
    return weigh(ShardStats(num_ok=1_000, **stage_s), span_s, threads, on_gpu=on_gpu)


def test_a_busy_model_on_busy_cores_is_cpu_bound_and_wants_a_gpu():
    it = found(predict_s=8.8, decode_s=2.2, fetch_s=1)
    assert (it.kind, it.sentence) == ("cpu", "CPU-bound: predict 88 %, decode 11 %")
    assert it.advice == "a GPU, or more cores"


def test_a_busy_decoder_on_busy_cores_wants_cores():
    it = found(predict_s=2.0, decode_s=15.0)
    assert it.sentence == "CPU-bound: decode 75 %, predict 20 %"
    assert it.advice == "more cores"


def test_reads_are_held_against_as_many_as_were_allowed_while_they_ran():
    workers = [replace(FACTS, num_fetching=32)] * 2
    # Two workers that were busy for half of the time, one read in 64 each.
    stats = ShardStats(num_ok=1_000, fetch_s=640, fetch_full_s=10)
    assert Threads.of(workers, stats).fetch == 128
    assert weigh(stats, 10.0, Threads.of(workers, stats), on_gpu=True).busy["fetch"] == 0.5
    assert Threads.of(workers, ShardStats()).fetch == 64


def test_reads_that_never_rest_while_cores_do_are_fetch_bound():
    it = found(fetch_s=76, decode_s=3, predict_s=2)
    assert it.kind == "fetch"
    assert it.sentence == "fetch-bound (waiting on the store): reads in flight 95 % of the time, cores 65 % idle"


def test_waiting_on_the_store_is_not_called_binding_when_the_cores_are_used_up():
    assert found(fetch_s=80, decode_s=4, predict_s=8).kind == "cpu"


def test_a_gpu_at_work_is_predict_bound_and_costs_no_cores():
    it = found(GPU_NODE, on_gpu=True, predict_s=9.5, decode_s=40, fetch_s=20)
    assert it.kind == "predict"
    assert it.sentence == "predict-bound: the GPU was at work 95 % of the time, cores 50 % idle"
    assert it.core_shares["predict"] == 0
    assert it.advice == "a faster or a second GPU"


def test_a_starved_gpu_is_bound_by_its_cores():
    it = found(GPU_NODE, on_gpu=True, predict_s=1, decode_s=78)
    assert it.sentence == "CPU-bound: decode 98 %"
    assert it.advice == "more cores"


def test_too_few_decoding_threads_are_named():
    it = found(Threads(fetch=32, decode=2, predict=1, cores=16), on_gpu=True, predict_s=2, decode_s=19)
    assert (it.kind, it.advice) == ("decode", "more decoding threads")


def test_a_store_slow_to_write_is_named():
    assert found(GPU_NODE, on_gpu=True, write_s=9, decode_s=3).kind == "write"


def test_one_narrow_forward_pass_is_predict_bound_without_a_gpu():
    it = found(Threads(fetch=4, decode=4, predict=8, cores=8), predict_s=40, decode_s=2)
    assert it.kind == "unclear"
    assert it.sentence == "no stage was full: predict came nearest with 50 %, cores 48 % idle"
    assert it.advice == ""


@pytest.mark.parametrize("stats", [ShardStats(), ShardStats(num_ok=5, predict_s=0.3)])
def test_nothing_is_claimed_of_a_run_too_short(stats):
    assert weigh(stats, 0.5, TWO_CORES, on_gpu=False).kind == "unclear"


def test_a_run_that_mostly_started_says_so(make_summary):
    it = binding(make_summary(start_s=8.0, steady_s=2.0, wall_s=10.0))
    assert it.kind == "start"
    assert it.sentence == "start-bound: 8.0 s until the first row are 80 % of the run"
    assert binding(make_summary()).kind == "cpu"


seconds = st.floats(0, 1e5)


@given(
    stats=st.builds(
        ShardStats, num_ok=st.integers(0, 9), fetch_s=seconds, decode_s=seconds, predict_s=seconds, write_s=seconds
    ),
    span_s=seconds,
    threads=st.builds(Threads, *[st.integers(0, 64)] * 3, st.floats(0, 256)),
    on_gpu=st.booleans(),
)
def test_shares_always_add_up_and_slots_are_never_more_than_full(stats, span_s, threads, on_gpu):
    it = weigh(stats, span_s, threads, on_gpu=on_gpu)
    if it.core_shares:
        assert sum(it.core_shares.values()) == pytest.approx(1)
    assert all(0 <= share <= 1 for share in (*it.core_shares.values(), *it.busy.values()))
    assert it.sentence
