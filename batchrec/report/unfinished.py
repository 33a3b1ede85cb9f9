"""What a run that ended early leaves: a few lines, for the terminal and the coordinator's log."""

from __future__ import annotations

from collections.abc import Iterator

from batchrec.report.binding import Threads, weigh
from batchrec.stats import RunProgress

_MAX_CODES = 5


def unfinished_lines(
    progress: RunProgress, *, num_rows: int, num_rows_before: int, span_s: float, threads: Threads, on_gpu: bool
) -> Iterator[str]:
    """Say what stands, how fast the run was, what bound it and what failed so far.

    Args:
        progress: The last that was heard.
        num_rows: Rows of the job.
        num_rows_before: Those of them that earlier runs published.
        span_s: Seconds since the first worker was ready.
        threads: Slots of each stage and cores, over all workers.
        on_gpu: Whether the model runs beside the CPU.
    """
    stats = progress.stats
    stand = num_rows_before + stats.num_rows
    again = progress.num_ok + progress.num_failed - stats.num_rows
    rest = f"; {again:,} images of unpublished shards will be done again" if again > 0 else ""
    yield f"so far  {stand:,} of {num_rows:,} images are published{rest}"
    if not stats.num_rows or span_s <= 0:
        return
    yield f"speed   {stats.num_ok / span_s:,.1f} images/s published over {span_s:.1f} s"
    yield f"limit   {weigh(stats, span_s, threads, on_gpu=on_gpu).sentence}"
    if stats.num_errors:
        commonest = stats.num_errors.most_common(_MAX_CODES)
        more = ", ..." if len(stats.num_errors) > _MAX_CODES else ""
        yield "failed  " + ", ".join(f"{count:,} {code}" for code, count in commonest) + more
