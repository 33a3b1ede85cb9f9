"""Rows to shards."""

from __future__ import annotations

import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrec.errors import OutputError
from batchrec.manifest.planning import Plan, plan_shards, rows_per_shard

rows_by_file = st.lists(st.integers(0, 5_000), max_size=12)
sizes = st.integers(1, 4_096)
limits = st.none() | st.integers(1, 40_000)


@given(rows_by_file, sizes, limits)
def test_every_row_is_in_exactly_one_shard_and_no_shard_crosses_a_file(files, size, limit):
    plan = plan_shards(files, size, limit)
    wanted = [(file, row) for file, rows in enumerate(files) for row in range(rows)][:limit]
    planned = [(s.file, row) for s in plan for row in range(s.first_row, s.first_row + s.num_rows)]
    assert planned == wanted
    assert plan.num_rows == len(wanted)


@given(rows_by_file, sizes, limits)
def test_shards_are_numbered_and_positioned_in_order(files, size, limit):
    position = 0
    for index, shard in enumerate(plan_shards(files, size, limit)):
        assert (shard.index, shard.first_position) == (index, position)
        assert 1 <= shard.num_rows <= size
        position += shard.num_rows


@given(rows_by_file, sizes, limits)
def test_a_plan_survives_parquet_and_pickle(files, size, limit):
    plan = plan_shards(files, size, limit)
    for copy in (Plan.from_parquet(plan.to_parquet()), pickle.loads(pickle.dumps(plan))):
        assert copy == plan
        assert list(copy) == list(plan)
        assert (copy.rows_per_shard, copy.num_rows) == (plan.rows_per_shard, plan.num_rows)


@given(st.integers(0, 10**10))
def test_rows_per_shard_is_a_power_of_two_within_bounds(num_rows):
    size = rows_per_shard(num_rows)
    assert size & (size - 1) == 0
    assert 256 <= size <= 16_384
    assert size == 16_384 or num_rows <= 2_000 * size


@pytest.mark.parametrize(
    ("num_rows", "size"), [(1, 256), (3_649, 256), (512_000, 256), (512_001, 512), (10**7, 8_192), (10**8, 16_384)]
)
def test_rows_per_shard_follows_the_size_of_the_manifest(num_rows, size):
    assert rows_per_shard(num_rows) == size


def test_a_plan_of_a_billion_rows_is_small_and_quick_to_index():
    plan = plan_shards([10**8] * 10, 16_384, None)
    assert len(plan) == 61_040
    assert plan[-1].first_position + plan[-1].num_rows == 10**9
    assert len(pickle.dumps(plan)) < 3 * 2**20


def test_a_plan_refuses_an_index_outside():
    plan = plan_shards([10], 4, None)
    assert plan[-1] == plan[2]
    for index in (3, -4):
        with pytest.raises(IndexError, match="of 3"):
            plan[index]


def test_plans_that_cut_elsewhere_are_not_equal():
    assert plan_shards([10], 4, None) != plan_shards([10], 5, None)
    assert plan_shards([10], 16, None) == plan_shards([10], 32, None)
    assert plan_shards([10], 4, None) != "a plan"


def test_plans_of_the_same_rows_are_told_from_those_of_others():
    plan = plan_shards([25, 0, 25], 10, None)
    assert plan.cuts_rows_of(plan_shards([25, 0, 25], 7, None))
    for others in ([25, 25], [24, 0, 26], [25, 0, 25, 1], [50], []):
        assert not plan.cuts_rows_of(plan_shards(others, 10, None))
    assert plan_shards([], 10, None).cuts_rows_of(plan_shards([0], 10, None))


def test_a_shard_needs_a_row():
    with pytest.raises(ValueError, match="at least 1"):
        plan_shards([10], 0, None)


@pytest.mark.parametrize("data", [b"", b"PAR1", b"not a plan at all"])
def test_bytes_that_are_no_plan_are_refused(data):
    with pytest.raises(OutputError, match="plan kept in the output folder"):
        Plan.from_parquet(data)


def test_a_plan_that_loses_or_repeats_a_row_is_refused():
    table = pq.read_table(pa.BufferReader(plan_shards([10, 7], 4, None).to_parquet()))
    gap = table.set_column(2, "first_row", pa.array([0, 5, 8, 0, 4]))
    position = table.set_column(4, "first_position", pa.array([0, 4, 8, 11, 14]))
    for broken in (table.slice(1), table.take([0, 2, 1, 3, 4]), gap, position):
        sink = pa.BufferOutputStream()
        pq.write_table(broken, sink)
        with pytest.raises(OutputError, match=r"gap|numbered"):
            Plan.from_parquet(bytes(sink.getvalue()))
