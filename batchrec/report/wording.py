"""Words of a report that the terminal and the page share."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from batchrec.errors import CODES, ErrorCode
from batchrec.report.progress import duration
from batchrec.report.summary import RunSummary, comparison

_MAX_EXAMPLE = 200


def verdict_of(summary: RunSummary) -> str:
    """Return the verdict as a sentence that stands alone."""
    return summary.verdict[:1].upper() + summary.verdict[1:]


def expected(summary: RunSummary) -> Iterator[tuple[str, str]]:
    """Yield how near a run came to the limit and to its prediction, where both were measured on this machine."""
    expectation, found = summary.expectation, comparison(summary)
    if expectation is None or found is None:
        return
    limit = f"{expectation.limit_images_per_s:,.1f} images/s this machine allows"
    yield "reached", f"{found.achieved_over_limit:.2f} of the {limit}, measured {expectation.measured_at}"
    yield (
        "expected",
        f"{seconds(found.predicted_s)}, predicted / measured {found.predicted_over_measured_s:.2f}; "
        f"{expectation.images_per_s:,.1f} images/s, {found.predicted_over_measured_rate:.2f}",
    )


def workers(summary: RunSummary) -> Iterator[tuple[str, str]]:
    """Yield what ran the model, and what went wrong with it."""
    for worker in dict.fromkeys(
        f"{each.backend} {each.precision} on {each.device}, batch {each.batch_size}" for each in summary.workers
    ):
        yield "worker", worker
    if any(each.device_decodes for each in summary.workers):
        yield "nvjpeg", f"decoded {summary.stats.num_on_device:,} of {summary.stats.num_rows:,} images of this run"
    if summary.agreement:
        yield "int8", f"gives {summary.agreement}"
    if summary.attempts_failed or summary.workers_lost:
        failed, lost = count(summary.attempts_failed, "attempt"), count(summary.workers_lost, "worker")
        yield "trouble", f"{failed} failed, {lost} lost"


def next_commands(summary: RunSummary) -> Iterator[str]:
    """Yield what to type next; each can be pasted into a shell."""
    output = shlex.quote(summary.output)
    if summary.exit_code not in (0, 4):
        yield f"batchrec status {output}"
        return
    if summary.errors:
        yield f"batchrec errors {output}"
    yield f"batchrec verify {output}"
    parts = f"{summary.output.rstrip('/')}/predictions/*/*.parquet".replace("'", "''")
    query = f"SELECT label, count(*) AS images FROM '{parts}' WHERE status = 'ok' GROUP BY ALL ORDER BY images DESC"  # noqa: S608 - only printed
    unsafe = set('"$`\\!') & set(query)
    yield f"duckdb -c {shlex.quote(query)}" if unsafe else f'duckdb -c "{query}"'


def advice_for(code: str) -> str:
    """Return what to do about an error code."""
    try:
        return CODES[ErrorCode(code)].advice
    except ValueError:
        return "a code this version does not know"


def count(number: int, noun: str) -> str:
    """Return a number of things: ``1 shard``, ``2,000 shards``."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def seconds(value: float) -> str:
    """Return a time as ``4.2 s``, or from a minute on as ``1:02``."""
    return f"{value:.1f} s" if value < 60 else duration(value)


def shortened(text: str) -> str:
    """Return a text without its middle where it is long."""
    half = _MAX_EXAMPLE // 2
    return text if len(text) <= _MAX_EXAMPLE else f"{text[:half]} [...] {text[-half:]}"
