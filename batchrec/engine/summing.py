"""From what a run counted and a seal holds to its report. Totals come from the seal, never from messages."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from batchrec.engine.counting import RunCounts
from batchrec.output.seal import Seal
from batchrec.records import Agreement
from batchrec.report.summary import ErrorExample, RunSummary, Threads, rate, state_verdict

EXIT_COMPLETE, EXIT_OVER_FAILURE_RATE = 0, 4


def summarise(
    sealed: Seal,
    counts: RunCounts,
    errors: pa.Table,
    *,
    output: str,
    model: str,
    agreement: Agreement | None = None,
    max_failure_rate: float,
    began_at: float,
    wall_s: float,
) -> RunSummary:
    """Return the report of a run that ended with a seal.

    Args:
        sealed: The whole job.
        counts: This run.
        errors: Rows without a prediction.
        output: Output folder as the user wrote it.
        model: Model as the user wrote it.
        agreement: Of the quantised model it ran as.
        max_failure_rate: The limit that is asked for now.
        began_at: When the command started, in Unix seconds.
        wall_s: Seconds since then, by a clock nobody sets.
    """
    num_failed = sealed.num_rows - sealed.num_ok
    exit_code = EXIT_OVER_FAILURE_RATE if sealed.failure_rate > max_failure_rate else EXIT_COMPLETE
    verdict = state_verdict(
        exit_code, num_rows=sealed.num_rows, num_ok=sealed.num_ok, num_failed=num_failed, limit=max_failure_rate
    )
    # Machines' clocks differ and are set, also in mid-run; no part of the run is longer than the run.
    steady_s = _within(wall_s, (counts.last_row_at or 0.0) - (counts.first_row_at or 0.0))
    return RunSummary(
        job_id=sealed.job_id,
        output=output,
        model=model,
        agreement=agreement,
        num_rows=sealed.num_rows,
        num_ok=sealed.num_ok,
        errors=_examples(errors),
        num_shards=len(sealed.parts),
        shards_done_before=len(sealed.parts) - counts.num_published - counts.num_given_up,
        wall_s=wall_s,
        start_s=_within(wall_s, counts.first_row_at - began_at) if counts.first_row_at else wall_s,
        steady_s=steady_s,
        images_per_s=rate(counts.stats.num_ok, wall_s),
        steady_images_per_s=rate(counts.stats.num_ok, steady_s),
        stats=counts.stats,
        workers=tuple(counts.workers),
        attempts_failed=counts.num_attempts_failed,
        workers_lost=counts.num_workers_lost,
        attempts_lost=counts.num_attempts_lost,
        exit_code=exit_code,
        verdict=verdict,
        threads=Threads.of(counts.workers[: counts.num_workers], counts.stats),
        max_failure_rate=max_failure_rate,
    )


def _within(wall_s: float, seconds: float) -> float:
    return min(max(seconds, 0.0), wall_s)


def _examples(errors: pa.Table) -> dict[str, ErrorExample]:
    codes = errors.column("error_code")
    examples = {}
    for count in pc.value_counts(codes).to_pylist():
        first = errors.slice(pc.index(codes, count["values"]).as_py(), 1).to_pylist()[0]
        examples[count["values"]] = ErrorExample(count["counts"], first["uri"] or "", first["error_detail"] or "")
    return dict(sorted(examples.items(), key=lambda item: -item[1].count))
