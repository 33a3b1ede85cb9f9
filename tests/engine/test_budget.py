"""When a run ends because too much fails: table, stories and properties of both judges."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec.engine.budget import (
    MAX_ACCESS_LOST_IN_A_ROW,
    PROBATION_SHARDS,
    WINDOW_SHARDS,
    AccessWindow,
    FailureBudget,
)
from batchrec.engine.counting import RunCounts
from batchrec.engine.pool import LiveCounts
from batchrec.errors import AccessLost, ErrorCode, StorageLost, TooManyFailed
from batchrec.stats import ShardStats

DENIED, MISSING = ErrorCode.ACCESS_DENIED.value, ErrorCode.NOT_FOUND.value
NUM_ROWS = 256
REFUSED = AccessLost("200 of 256 images of a shard could not be had: access_denied", advice="grant access")


def shard(num_denied: int, num_rows: int = NUM_ROWS, code: str = DENIED) -> ShardStats:
    return ShardStats(num_rows - num_denied, Counter({code: num_denied}) if num_denied else Counter())


def run(num_ok: int, num_errors: dict[str, int]) -> RunCounts:
    return RunCounts(stats=ShardStats(num_ok, Counter(num_errors)))


def take(window: AccessWindow, num_denied: int, num_rows: int = NUM_ROWS) -> None:
    """What becomes of a shard: published, or refused by its worker."""
    if 2 * num_denied >= num_rows:
        window.failed(num_rows, REFUSED)
    else:
        window.published(shard(num_denied, num_rows))


def num_taken(window: AccessWindow, *fates: int) -> int:
    """Shards until the run ends, of endless repetitions of some numbers of denied rows; 1,000 when it does not."""
    for number in range(1, 1001):
        try:
            take(window, fates[number % len(fates)])
        except AccessLost:
            return number
    return 1000


@pytest.mark.parametrize(
    ("rate", "num_ok", "num_failed", "ends"),
    [
        (0.05, 0, 199, False),  # probation
        (0.05, 0, 200, True),
        (0.05, 190, 10, False),  # at the limit is not over it
        (0.05, 189, 11, True),
        (0.0, 10_000, 0, False),
        (0.0, 10_000, 1, True),
        (1.0, 0, 10_000, False),
    ],
)
def test_a_run_ends_where_more_of_its_images_failed_than_allowed(
    rate: float, num_ok: int, num_failed: int, ends: bool
) -> None:
    try:
        FailureBudget(rate).judge(run(num_ok, {MISSING: num_failed}), {})
    except TooManyFailed:
        assert ends
    else:
        assert not ends


def test_the_verdict_has_the_counts_the_commonest_code_and_what_to_do() -> None:
    with pytest.raises(TooManyFailed) as ended:
        live = {0: LiveCounts(339, 31, num_errors={"corrupt": 6, MISSING: 25})}
        FailureBudget(0.05).judge(run(600, {MISSING: 30}), live)
    assert ended.value.exit_code == 6
    assert str(ended.value) == (
        "61 of 1,000 images failed so far, over the limit of 5 % (found: not_found, 30 times); nothing is stored "
        "under this URI: compare the manifest with the archive; the same command resumes; without "
        "--fail-fast it goes on"
    )


def test_without_a_limit_nothing_ends_a_run() -> None:
    FailureBudget().judge(run(0, {MISSING: 10**9}), {})


@given(seed=st.integers(0, 2**32), images_per_prefix=st.sampled_from([1, 10, 40]), num_rows=st.sampled_from([256, 512]))
@settings(max_examples=40, deadline=None)
def test_an_archive_of_which_a_tenth_of_the_prefixes_is_denied_ends_as_rows(
    seed: int, images_per_prefix: int, num_rows: int
) -> None:
    rng, window = random.Random(seed), AccessWindow()
    for _ in range(300):
        prefixes = [rng.random() < 0.1 for _ in range(num_rows // images_per_prefix)]
        take(window, images_per_prefix * sum(prefixes), num_rows)


@given(num_before=st.integers(0, 60), num_denied=st.integers(0, NUM_ROWS // 10))
def test_credentials_that_are_revoked_end_the_run_within_three_shards(num_before: int, num_denied: int) -> None:
    window = AccessWindow()
    for _ in range(num_before):
        take(window, num_denied)
    assert num_taken(window, NUM_ROWS) == MAX_ACCESS_LOST_IN_A_ROW


@given(num_before=st.integers(0, 60))
def test_what_is_denied_thinly_in_every_shard_ends_the_run_within_a_window(num_before: int) -> None:
    window = AccessWindow()
    for _ in range(num_before):
        take(window, 0)
    assert num_taken(window, int(0.4 * NUM_ROWS)) <= WINDOW_SHARDS


def test_what_is_denied_thinly_from_the_first_shard_ends_the_run_after_its_probation() -> None:
    assert num_taken(AccessWindow(), int(0.4 * NUM_ROWS)) == PROBATION_SHARDS
    assert num_taken(AccessWindow(), int(0.3 * NUM_ROWS)) == 1000


def test_one_machine_of_two_without_access_ends_the_run() -> None:
    assert num_taken(AccessWindow(), NUM_ROWS, 0) == PROBATION_SHARDS


def test_only_systemic_codes_count() -> None:
    window = AccessWindow()
    for _ in range(100):
        window.published(shard(NUM_ROWS, code=MISSING))
        window.failed(NUM_ROWS, StorageLost("the store is away"))


def test_a_few_denied_images_in_tiny_shards_do_not_end_a_run() -> None:
    window = AccessWindow()
    for _ in range(20):
        window.published(shard(1, 3))
        window.published(shard(0, 1))
        window.published(shard(0, 1))


def test_the_verdict_names_the_code_and_that_the_same_command_resumes() -> None:
    window = AccessWindow()
    with pytest.raises(AccessLost) as ended:
        for _ in range(PROBATION_SHARDS):
            window.published(shard(100))
    assert str(ended.value) == (
        "1,000 of 2,560 images of the last 10 shards could not be had (found: mostly access_denied); "
        "grant read access to this object; the same command resumes"
    )
