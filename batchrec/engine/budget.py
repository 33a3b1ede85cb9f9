"""When a run is not worth going on: too many of its images fail, or it has lost its access. Pure: no I/O, no clock."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass

from batchrec.engine.counting import RunCounts
from batchrec.engine.pool import LiveCounts
from batchrec.errors import CODES, AccessLost, ErrorCode, TooManyFailed
from batchrec.stats import ShardStats

#: Images a run must have finished before ``--fail-fast`` judges it.
PROBATION_ROWS = 200
#: Shards in a row that met a systemic fault, with no part published between, before the run gives up.
MAX_ACCESS_LOST_IN_A_ROW = 3
#: Shards looked back on. Half of that many were seen before anything is judged, except those in a row.
WINDOW_SHARDS = 20
PROBATION_SHARDS = WINDOW_SHARDS // 2
#: Share of their rows under systemic codes that ends the run. An archive of which a tenth is denied ends as rows,
#: also where the denied tenth lies in clumps; a shard is refused from one half on.
MAX_SYSTEMIC_SHARE = 1 / 3
#: ... unless fewer rows than this are: where shards are tiny, a few denied images must not hold up a job for good.
_SYSTEMIC_ROWS = 8


class FailureBudget:
    """Ends a run of which more images failed than its job is allowed.

    Args:
        max_failure_rate: Share of images that may fail; 1 never ends a run.
    """

    def __init__(self, max_failure_rate: float = 1.0) -> None:
        self._max_failure_rate = max_failure_rate

    def judge(self, counts: RunCounts, live: Mapping[int, LiveCounts]) -> None:
        """Judge a run by the images it has finished.

        Args:
            counts: What it published.
            live: How far its workers are beyond that.

        Raises:
            TooManyFailed: The run is over its budget.
        """
        if self._max_failure_rate >= 1:
            return
        num_ok, num_failed = counts.rows(live)
        num_rows = num_ok + num_failed
        if num_rows < PROBATION_ROWS or num_failed <= self._max_failure_rate * num_rows:
            return
        code, count = counts.codes(live).most_common(1)[0]
        limit = f"{100 * self._max_failure_rate:g} %"
        raise TooManyFailed(
            f"{num_failed:,} of {num_rows:,} images failed so far, over the limit of {limit}",
            found=f"{code}, {count:,} times",
            advice=f"{CODES[ErrorCode(code)].advice}; the same command resumes; without --fail-fast it goes on",
        )


@dataclass(frozen=True, slots=True)
class _Ended:
    """One shard that was published, or failed."""

    num_rows: int
    num_systemic: int = 0
    found: str = ""
    advice: str = ""


class AccessWindow:
    """Ends a run that has lost its access, by the share of rows under systemic codes in the last shards.

    A worker refuses to publish a shard most of whose rows are, so that credentials which are revoked leave no error
    rows. This finds what is thinly spread: a part of the images denied in every shard, or one machine of several
    without access.
    """

    def __init__(self) -> None:
        self._ended: deque[_Ended] = deque(maxlen=WINDOW_SHARDS)
        self._num_failed_in_a_row = 0

    def published(self, stats: ShardStats) -> None:
        """Take in a shard whose part stands.

        Raises:
            AccessLost: Too many of the last shards' rows met systemic faults.
        """
        self._num_failed_in_a_row = 0
        systemic = Counter({code: n for code, n in stats.num_errors.items() if CODES[ErrorCode(code)].systemic})
        if systemic:
            code = ErrorCode(systemic.most_common(1)[0][0])
            self._take(_Ended(stats.num_rows, systemic.total(), f"mostly {code}", CODES[code].advice))
        else:
            self._take(_Ended(stats.num_rows))

    def failed(self, num_rows: int, error: Exception) -> None:
        """Take in a shard that was not published.

        Raises:
            AccessLost: It was one too many.
        """
        if not isinstance(error, AccessLost):
            return
        self._num_failed_in_a_row += 1
        if self._num_failed_in_a_row >= MAX_ACCESS_LOST_IN_A_ROW:
            raise error
        self._take(_Ended(num_rows, num_rows, error.cause, error.advice))

    def _take(self, ended: _Ended) -> None:
        self._ended.append(ended)
        num_rows = sum(each.num_rows for each in self._ended)
        num_systemic = sum(each.num_systemic for each in self._ended)
        over = num_systemic >= max(_SYSTEMIC_ROWS, MAX_SYSTEMIC_SHARE * num_rows)
        if not over or len(self._ended) < PROBATION_SHARDS:
            return
        worst = max(self._ended, key=lambda each: each.num_systemic)
        raise AccessLost(
            f"{num_systemic:,} of {num_rows:,} images of the last {len(self._ended)} shards could not be had",
            found=worst.found,
            advice=worst.advice if "resumes" in worst.advice else f"{worst.advice}; the same command resumes",
        )
