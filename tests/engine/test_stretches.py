"""The order of dispatch: neighbours to one worker, workers far from each other, and nobody idle at the end."""

from __future__ import annotations

from collections import defaultdict, deque
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from batchrec.engine.stretches import Stretches


def stretches(num_shards: int, done: frozenset[int] = frozenset(), seed: int = 0) -> Stretches:
    return Stretches(num_shards, lambda index: index not in done, length=8, seed=seed)


def handed_out(num_shards: int, num_workers: int, seed: int = 0) -> dict[int, list[int]]:
    """Let equally fast workers take turns until nothing waits."""
    waiting, taken = stretches(num_shards, seed=seed), defaultdict(list)
    while waiting:
        for worker in range(num_workers):
            if (shard := waiting.take(worker)) is not None:
                taken[worker].append(shard)
    return taken


def test_a_worker_goes_through_neighbours() -> None:
    for shards in handed_out(num_shards=4096, num_workers=16).values():
        steps = [after - before for before, after in pairwise(shards)]
        assert sum(step == 1 for step in steps) >= 0.85 * len(steps)


def test_workers_at_work_at_once_are_spread_over_the_manifest() -> None:
    taken = handed_out(num_shards=4096, num_workers=32)
    for turn in range(0, 100, 10):
        at_once = [shards[turn] for shards in taken.values()]
        tenths = [sum(tenth <= 10 * shard / 4096 < tenth + 1 for shard in at_once) for tenth in range(10)]
        assert max(tenths) <= 10
        assert sum(count > 0 for count in tenths) >= 7


def test_the_order_is_the_same_in_every_run() -> None:
    assert handed_out(1000, 7) == handed_out(1000, 7)
    assert handed_out(1000, 7) != handed_out(1000, 7, seed=1)


def test_a_slow_worker_keeps_nothing_from_the_others() -> None:
    waiting = stretches(16)
    first = waiting.take(worker=0)
    others = [waiting.take(worker=1) for _ in range(15)]
    assert sorted([first, *others]) == list(range(16))
    assert waiting.take(worker=0) is None


def test_workers_that_share_a_stretch_go_through_it_in_order() -> None:
    waiting = stretches(8)
    assert [waiting.take(worker) for worker in (0, 1, 0, 1, 2, 0, 2, 1)] == list(range(8))


@given(
    st.integers(0, 60),
    st.frozensets(st.integers(0, 59)),
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["keep", "first", "last"])), max_size=150),
)
def test_every_shard_is_handed_out_as_often_as_it_was_put(
    num_shards: int, done: frozenset[int], turns: list[tuple[int, str]]
) -> None:
    waiting = stretches(num_shards, done)
    owed = set(range(num_shards)) - done
    firsts: deque[int] = deque()
    for worker, fate in turns:
        assert len(waiting) == len(owed)
        shard = waiting.take(worker)
        if shard is None:
            assert not owed
            continue
        assert shard == firsts.popleft() if firsts else shard in owed
        owed.remove(shard)
        if fate == "keep":
            continue
        owed.add(shard)
        if fate == "first":
            waiting.appendleft(shard)
            firsts.appendleft(shard)
        else:
            waiting.append(shard)
