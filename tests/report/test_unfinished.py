"""What a run that ended early says."""

from __future__ import annotations

from collections import Counter

from batchrec.report.binding import Threads
from batchrec.report.unfinished import unfinished_lines
from batchrec.stats import RunProgress, ShardStats

THREADS = Threads(fetch=4, decode=2, predict=2, cores=2)


def lines_of(progress: RunProgress, span_s: float = 10.0) -> list[str]:
    return list(
        unfinished_lines(progress, num_rows=2000, num_rows_before=256, span_s=span_s, threads=THREADS, on_gpu=False)
    )


def test_a_run_that_ended_early_says_what_stands_how_fast_it_was_and_what_failed() -> None:
    stats = ShardStats(
        num_ok=500, num_errors=Counter({"not_found": 11, "timeout": 1}), decode_s=6.0, predict_s=13.0, write_s=0.2
    )
    assert lines_of(RunProgress(num_ok=600, num_failed=12, num_shards_done=2, stats=stats)) == [
        "so far  768 of 2,000 images are published; 100 images of unpublished shards will be done again",
        "speed   50.0 images/s published over 10.0 s",
        "limit   CPU-bound: predict 65 %, decode 30 %, write 1 %",
        "failed  11 not_found, 1 timeout",
    ]


def test_a_run_that_published_nothing_says_so_alone() -> None:
    assert lines_of(RunProgress()) == ["so far  256 of 2,000 images are published"]
    assert len(lines_of(RunProgress(num_ok=7))) == 1


def test_only_the_commonest_codes_are_named() -> None:
    codes = Counter({f"code_{number}": number + 1 for number in range(9)})
    failed = lines_of(RunProgress(stats=ShardStats(num_errors=codes)))[-1]
    assert failed == "failed  9 code_8, 8 code_7, 7 code_6, 6 code_5, 5 code_4, ..."
