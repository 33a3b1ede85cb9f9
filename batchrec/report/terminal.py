"""The report a run ends with, on the terminal."""

from __future__ import annotations

import io
import shlex
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

from batchrec.errors import CODES, ErrorCode
from batchrec.report.progress import duration
from batchrec.report.summary import RunSummary, binding, comparison, percent
from batchrec.stats import STAGES

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_MAX_EXAMPLE = 200
_PLAIN_WIDTH = 100


def print_report(summary: RunSummary, file: TextIO) -> None:
    """Print the report of a run; in colour on a terminal only."""
    color = file.isatty()
    text = render(summary, width=shutil.get_terminal_size().columns if color else _PLAIN_WIDTH, color=color)
    encoding = getattr(file, "encoding", None) or "utf-8"
    file.write(text.encode(encoding, "replace").decode(encoding))
    file.flush()


def render(summary: RunSummary, width: int = _PLAIN_WIDTH, *, color: bool = False) -> str:
    """Return the report of a run as text; commands are never broken over lines.

    Args:
        summary: The run.
        width: Columns to fill at most.
        color: Whether to mark it up with ANSI escapes.
    """
    from rich.console import Console
    from rich.text import Text

    target = io.StringIO()
    console = Console(
        file=target, width=max(width, 20), force_terminal=color, color_system="standard" if color else None,
        highlight=False, markup=False, emoji=False, legacy_windows=False,
    )  # fmt: skip
    style = "bold green" if summary.exit_code == 0 else "bold yellow" if summary.exit_code == 4 else "bold red"
    verdict = summary.verdict[:1].upper() + summary.verdict[1:]
    console.print(Text(verdict, style=style))
    _print_facts(console, summary)
    _print_errors(console, summary)
    _print_next(console, summary)
    return "\n".join(line.rstrip() for line in target.getvalue().splitlines()) + "\n"


def _print_facts(console: Console, summary: RunSummary) -> None:
    from rich.text import Text

    table = _grid()
    for name, value in _facts(summary):
        table.add_row(Text(name, style="dim"), Text(value))
    console.print(table)


def _facts(summary: RunSummary) -> Iterator[tuple[str, str]]:
    yield "output", summary.output
    yield "model", summary.model
    yield "images", _counts(summary)
    if summary.stats.num_rows:
        yield "speed", _speed(summary)
        yield "stages", _stages(summary)
        found = binding(summary)
        yield "limit", found.sentence + (f"; what would help: {found.advice}" if found.advice else "")
        yield from _expected(summary)
    for worker in dict.fromkeys(
        f"{each.backend} {each.precision} on {each.device}, batch {each.batch_size}" for each in summary.workers
    ):
        yield "worker", worker
    if summary.agreement:
        yield "int8", f"gives {summary.agreement}"
    if summary.attempts_failed or summary.workers_lost:
        failed, lost = _count(summary.attempts_failed, "attempt"), _count(summary.workers_lost, "worker")
        yield "trouble", f"{failed} failed, {lost} lost"


def _expected(summary: RunSummary) -> Iterator[tuple[str, str]]:
    """Yield how near a run came to the limit and to its prediction, where both were measured on this machine."""
    expectation, found = summary.expectation, comparison(summary)
    if expectation is None or found is None:
        return
    limit = f"{expectation.limit_images_per_s:,.1f} images/s this machine allows"
    yield "reached", f"{found.achieved_over_limit:.2f} of the {limit}, measured {expectation.measured_at}"
    yield (
        "expected",
        f"{_seconds(found.predicted_s)}, predicted / measured {found.predicted_over_measured_s:.2f}; "
        f"{expectation.images_per_s:,.1f} images/s, {found.predicted_over_measured_rate:.2f}",
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _counts(summary: RunSummary) -> str:
    failed = f"{summary.num_failed:,} failed ({percent(summary.num_failed / max(1, summary.num_rows))})"
    before = f", {summary.shards_done_before:,} of them from earlier runs" if summary.shards_done_before else ""
    return f"{summary.num_ok:,} ok, {failed}, of {summary.num_rows:,}; {_count(summary.num_shards, 'shard')}{before}"


def _speed(summary: RunSummary) -> str:
    return (
        f"{summary.images_per_s:,.1f} images/s over {_seconds(summary.wall_s)}; "
        f"{summary.steady_images_per_s:,.1f} from first to last row ({_seconds(summary.steady_s)}), "
        f"which came after {_seconds(summary.start_s)}"
    )


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else duration(seconds)


def _stages(summary: RunSummary) -> str:
    stage_s, busy = summary.stats.stage_s, binding(summary).busy
    shares = {name: f", {busy[name]:.0%} busy".replace("%", " %") if name in busy else "" for name in STAGES}
    return "; ".join(f"{name} {stage_s[name]:,.1f} thread-s{shares[name]}" for name in STAGES)


def _print_errors(console: Console, summary: RunSummary) -> None:
    from rich.text import Text

    if not summary.errors:
        return
    console.print()
    console.print(Text("Failed images", style="bold"))
    table = _grid()
    for code, error in sorted(summary.errors.items(), key=lambda item: -item[1].count):
        detail = f" ({_shortened(error.detail)})" if error.detail else ""
        table.add_row(Text(f"{error.count:,}", justify="right"), Text(f"{code}: {_advice(code)}"))
        table.add_row(Text(""), Text(f"e.g. {_shortened(error.example_uri) or '(no URI)'}{detail}", style="dim"))
    console.print(table)


def _advice(code: str) -> str:
    try:
        return CODES[ErrorCode(code)].advice
    except ValueError:
        return "a code this version does not know"


def _shortened(text: str) -> str:
    half = _MAX_EXAMPLE // 2
    return text if len(text) <= _MAX_EXAMPLE else f"{text[:half]} [...] {text[-half:]}"


def _print_next(console: Console, summary: RunSummary) -> None:
    from rich.text import Text

    console.print()
    console.print(Text("Next", style="bold"))
    for command in _next_commands(summary):
        # Not wrapped: a command broken over two lines cannot be copied.
        console.print(Text(f"  {command}"), soft_wrap=True)


def _next_commands(summary: RunSummary) -> Iterator[str]:
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


def _grid() -> Table:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    return table
