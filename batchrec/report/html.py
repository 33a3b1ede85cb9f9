"""The report as one page that needs nothing else: no script, no network, nothing beside the file.

What it says comes from manifests, servers and models. Every value goes through :func:`batchrec.redacting.shown` and is
escaped by the template engine; the page's own policy lets a browser load and run nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from batchrec.records import LabelCount
from batchrec.redacting import shown
from batchrec.report.binding import Binding
from batchrec.report.repeating import Making
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

_FIRST_LABELS, _MOST_LABELS = 20, 1_000
_TONES = {0: "good", 4: "over"}


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece of a bar.

    Attributes:
        name: Word of the legend, and the colour's.
        value: For people.
        width: Percent of the bar.
    """

    name: str
    value: str
    width: float


def render_page(summary: RunSummary, labels: Sequence[LabelCount], making: Making, *, notes: Sequence[str] = ()) -> str:
    """Return the report of a run as an HTML page.

    Args:
        summary: The run.
        labels: Of the whole job, the commonest first.
        making: How the job was made.
        notes: Lines to say beside the counts.
    """
    bound = binding(summary) if summary.stats.num_rows else None
    return _template().render(
        tone=_TONES.get(summary.exit_code, "bad"),
        verdict=verdict_of(summary),
        about=(("model", summary.model), ("output", summary.output)),
        tiles=tuple(_tiles(summary)),
        rows=_rows(summary),
        notes=(*_notes(summary), *notes),
        bound=bound,
        timeline=_timeline(summary) if bound else (),
        cores=_cores(bound) if bound else (),
        stages=tuple(_stages(summary, bound)) if bound else (),
        expected=tuple(expected(summary)) if bound else (),
        workers=tuple(workers(summary)),
        errors=tuple(_errors(summary)),
        num_labels=count(len(labels), "label"),
        labels=tuple(_labels(labels, summary.num_ok)),
        first_labels=_FIRST_LABELS,
        labels_left_out=max(0, len(labels) - _MOST_LABELS),
        command=making.command,
        job_id=summary.job_id,
        made=(("job", summary.job_id), *making.facts),
        next_commands=tuple(next_commands(summary)),
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("batchrec.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_fit,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("report.html.j2")


def _fit(value: Any) -> Any:
    return value if isinstance(value, int | float) else shown(str(value))


def _tiles(summary: RunSummary) -> Iterator[tuple[str, str, str]]:
    num_rows = max(1, summary.num_rows)
    before = f", {summary.shards_done_before:,} of them from earlier runs" if summary.shards_done_before else ""
    yield "images", f"{summary.num_rows:,}", count(summary.num_shards, "shard") + before
    yield "recognised", f"{summary.num_ok:,}", percent(summary.num_ok / num_rows)
    limit = f"{percent(summary.num_failed / num_rows)}, limit {percent(summary.max_failure_rate)}"
    yield "failed", f"{summary.num_failed:,}", limit
    if summary.stats.num_rows:
        steady = f"{summary.steady_images_per_s:,.1f} from first to last row"
        yield "images/s", f"{summary.images_per_s:,.1f}", steady


def _rows(summary: RunSummary) -> tuple[Piece, ...]:
    counts = {"recognised": summary.num_ok, "failed": summary.num_failed}
    return tuple(Piece(name, f"{number:,}", 100 * number / max(1, summary.num_rows)) for name, number in counts.items())


def _notes(summary: RunSummary) -> Iterator[str]:
    if not summary.stats.num_rows:
        yield "The latest run found the job complete and read no image: it says nothing of speed."
    elif summary.shards_done_before:
        done = summary.num_shards - summary.shards_done_before
        yield f"Speed and stages are those of the latest run, which did {done:,} of {summary.num_shards:,} shards."


def _timeline(summary: RunSummary) -> tuple[Piece, ...]:
    """Divide the run's wall time: until the first row, to the last one, and what came after."""
    spans = {"start": summary.start_s, "rows": summary.steady_s}
    spans["end"] = max(0.0, summary.wall_s - sum(spans.values()))
    whole = max(sum(spans.values()), 1e-9)
    return tuple(Piece(name, seconds(span), 100 * span / whole) for name, span in spans.items())


def _cores(bound: Binding) -> tuple[Piece, ...]:
    return tuple(Piece(name, percent(share), 100 * share) for name, share in bound.core_shares.items())


def _stages(summary: RunSummary, bound: Binding) -> Iterator[Piece]:
    """Yield the stages: how full each was, or of a run too short to say, its part of all thread-seconds."""
    stage_s = summary.stats.stage_s
    whole = max(sum(stage_s.values()), 1e-9)
    for name in STAGES:
        share = bound.busy.get(name, stage_s[name] / whole)
        kind = "busy" if bound.busy else "of all"
        yield Piece(name, f"{stage_s[name]:,.1f} thread-s, {percent(share)} {kind}", 100 * min(1.0, share))


def _errors(summary: RunSummary) -> Iterator[dict[str, Any]]:
    for code, error in sorted(summary.errors.items(), key=lambda item: -item[1].count):
        yield {
            "code": code,
            "count": f"{error.count:,}",
            "width": 100 * error.count / max(1, summary.num_failed),
            "advice": advice_for(code),
            "uri": shortened(error.example_uri) or "(no URI)",
            "detail": shortened(error.detail),
        }


def _labels(labels: Sequence[LabelCount], num_ok: int) -> Iterator[dict[str, Any]]:
    most = labels[0].num_images if labels else 1
    for each in labels[:_MOST_LABELS]:
        yield {
            "label": shortened(each.label),
            "count": f"{each.num_images:,}",
            "share": f"{100 * each.num_images / max(1, num_ok):.1f} %",
            "width": 100 * each.num_images / most,
            "score": f"{each.mean_score:.3f}",
        }
