"""The report a run ends with, on the terminal."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

from batchrec.report.summary import RunSummary, binding, percent
from batchrec.report.wording import (
    advice_for,
    count,
    expected,
    next_commands,
    seconds,
    shortened,
    verdict_of,
    workers,
)
from batchrec.stats import STAGES

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

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
    console.print(Text(verdict_of(summary), style=style))
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
        yield from expected(summary)
    yield from workers(summary)


def _counts(summary: RunSummary) -> str:
    failed = f"{summary.num_failed:,} failed ({percent(summary.num_failed / max(1, summary.num_rows))})"
    before = f", {summary.shards_done_before:,} of them from earlier runs" if summary.shards_done_before else ""
    return f"{summary.num_ok:,} ok, {failed}, of {summary.num_rows:,}; {count(summary.num_shards, 'shard')}{before}"


def _speed(summary: RunSummary) -> str:
    return (
        f"{summary.images_per_s:,.1f} images/s over {seconds(summary.wall_s)}; "
        f"{summary.steady_images_per_s:,.1f} from first to last row ({seconds(summary.steady_s)}), "
        f"which came after {seconds(summary.start_s)}"
    )


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
        detail = f" ({shortened(error.detail)})" if error.detail else ""
        table.add_row(Text(f"{error.count:,}", justify="right"), Text(f"{code}: {advice_for(code)}"))
        table.add_row(Text(""), Text(f"e.g. {shortened(error.example_uri) or '(no URI)'}{detail}", style="dim"))
    console.print(table)


def _print_next(console: Console, summary: RunSummary) -> None:
    from rich.text import Text

    console.print()
    console.print(Text("Next", style="bold"))
    for command in next_commands(summary):
        # Not wrapped: a command broken over two lines cannot be copied.
        console.print(Text(f"  {command}"), soft_wrap=True)


def _grid() -> Table:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    return table
