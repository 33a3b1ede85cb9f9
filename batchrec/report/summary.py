"""What a run did, as one frozen value: for the terminal report, report.json and whoever asks later."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, get_type_hints

from batchrec.errors import OutputError
from batchrec.kinds import fits
from batchrec.records import Agreement, WorkerFacts
from batchrec.redacting import shown
from batchrec.report.binding import Binding, Threads, weigh
from batchrec.report.expectation import Comparison, Expectation
from batchrec.stats import ShardStats

__all__ = ["Binding", "ErrorExample", "RunSummary", "Threads", "binding", "comparison", "rate", "state_verdict"]

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class ErrorExample:
    """One error code of a run; its texts lose credentials and control characters on the way in.

    Attributes:
        count: Rows with this code.
        example_uri: URI of one of them.
        detail: What that row says.
    """

    count: int
    example_uri: str
    detail: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "example_uri", shown(self.example_uri))
        object.__setattr__(self, "detail", shown(self.detail))


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """What one run of a job did.

    Counts of rows and shards are those of the whole job; times, rates and ``stats`` are of this run
    alone, which a resumed job tells apart by ``shards_done_before``.

    Attributes:
        job_id: Identity of the job.
        output: Folder of the job.
        model: Model string.
        num_rows: Rows of the job.
        num_ok: Rows with a prediction.
        errors: Rows without one, by error code.
        num_shards: Shards of the job.
        shards_done_before: Shards that earlier runs published.
        wall_s: Seconds from the command to the report.
        start_s: Seconds from the command to the first row.
        steady_s: Seconds from the first to the last row.
        images_per_s: Images with a prediction by second of ``wall_s``; see :func:`rate`.
        steady_images_per_s: The same by second of ``steady_s``.
        stats: Counters and thread-seconds of all attempts of this run.
        workers: What the workers found when they started.
        attempts_failed: Attempts that raised.
        workers_lost: Workers that vanished.
        exit_code: What the command exits with.
        verdict: One sentence; see :func:`state_verdict`.
        threads: Slots of each stage and cores, over all workers.
        max_failure_rate: Share of failed rows the job was allowed.
        attempts_lost: Attempts in flight on those workers.
        expectation: What was measured for the job on this machine before it ran; None where nothing was.
        agreement: How often the quantised model of a job in int8 answers as the full one; None for other jobs.
    """

    job_id: str
    output: str
    model: str
    num_rows: int
    num_ok: int
    errors: dict[str, ErrorExample]
    num_shards: int
    shards_done_before: int
    wall_s: float
    start_s: float
    steady_s: float
    images_per_s: float
    steady_images_per_s: float
    stats: ShardStats
    workers: tuple[WorkerFacts, ...]
    attempts_failed: int
    workers_lost: int
    exit_code: int
    verdict: str
    threads: Threads
    max_failure_rate: float = 0.05
    attempts_lost: int = 0
    expectation: Expectation | None = None
    agreement: Agreement | None = None

    def __post_init__(self) -> None:
        for name in ("output", "model", "verdict"):
            object.__setattr__(self, name, shown(getattr(self, name)))

    @property
    def num_failed(self) -> int:
        """Rows that ended without a prediction."""
        return sum(error.count for error in self.errors.values())

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``report.json``."""
        content = dataclasses.asdict(self)
        content["stats"] = _stats_to_json(self.stats)
        content["workers"] = [dataclasses.asdict(worker) for worker in self.workers]
        content["errors"] = {str(code): dataclasses.asdict(error) for code, error in self.errors.items()}
        compared = comparison(self)
        derived = {
            "num_failed": self.num_failed,
            "binding": binding(self).to_json(),
            "comparison": compared and dataclasses.asdict(compared),
        }
        return {"schema_version": SCHEMA_VERSION, **content, **derived}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` gave; fields this version does not know are left out.

        Raises:
            OutputError: It is of another schema version, or a field is missing or of a wrong kind.
        """
        if (version := content.get("schema_version")) != SCHEMA_VERSION:
            advice = "read it with the batchrec that wrote it, or run the job again to rewrite it"
            raise OutputError("report.json is of another version", found=f"schema_version {version!r}", advice=advice)
        try:
            known = _known(cls, content)
            known["stats"] = _stats_from_json(content["stats"])
            known["workers"] = tuple(WorkerFacts(**_known(WorkerFacts, worker)) for worker in content["workers"])
            known["threads"] = Threads(**_known(Threads, content["threads"]))
            if (expectation := content.get("expectation")) is not None:
                known["expectation"] = Expectation(**_known(Expectation, expectation))
            agreement = content.get("agreement")
            known["agreement"] = agreement and Agreement(**_known(Agreement, agreement))
            errors = content["errors"].items()
            known["errors"] = {code: ErrorExample(**_known(ErrorExample, error)) for code, error in errors}
            return cls(**known)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            advice = "run the job's command again to rewrite it"
            raise OutputError("report.json cannot be used", found=str(error), advice=advice) from error


def binding(summary: RunSummary) -> Binding:
    """Say what bound a run, and what would help."""
    on_gpu = any(worker.device.startswith("cuda") for worker in summary.workers)
    found = weigh(summary.stats, summary.steady_s, summary.threads, on_gpu=on_gpu)
    if summary.stats.num_rows and summary.start_s > summary.steady_s:
        share = summary.start_s / max(summary.wall_s, summary.start_s)
        sentence = f"start-bound: {summary.start_s:.1f} s until the first row are {share:.0%} of the run"
        advice = "more images in one job; starting costs the same for any number"
        return dataclasses.replace(found, kind="start", sentence=sentence.replace("%", " %"), advice=advice)
    return found


def comparison(summary: RunSummary) -> Comparison | None:
    """Hold a run against what was expected of it; None where nothing was, or it was too short to tell."""
    if summary.expectation is None:
        return None
    return summary.expectation.against(
        num_ok=summary.stats.num_ok,
        num_rows=summary.stats.num_rows,
        steady_s=summary.steady_s,
        wall_s=summary.wall_s,
    )


def rate(num_images: int, seconds: float) -> float:
    """Return images per second; 0 where no time passed. Count only images with a prediction."""
    return num_images / seconds if seconds > 0 else 0.0


def state_verdict(
    exit_code: int, *, num_rows: int, num_ok: int, num_failed: int, limit: float, reason: str = ""
) -> str:
    """Return the sentence a run ends with.

    Args:
        exit_code: What the command exits with.
        num_rows: Rows of the job.
        num_ok: Rows with a prediction.
        num_failed: Rows without one.
        limit: ``--max-failure-rate``.
        reason: Why the run ended early.
    """
    share = f"({percent(num_failed / max(1, num_rows))}; limit {percent(limit)})"
    if exit_code == 0 and not num_failed:
        return f"complete: all {num_rows:,} images recognised"
    if exit_code == 0:
        return f"complete: {num_ok:,} of {num_rows:,} images recognised, {num_failed:,} failed {share}"
    if exit_code == 4:
        return f"complete, but over the failure limit: {num_failed:,} of {num_rows:,} failed {share}"
    ended = {5: "interrupted", 6: "stopped", 130: "interrupted from the keyboard", 143: "terminated"}
    why = f": {reason}" if reason else ""
    if exit_code not in ended:
        return f"failed{why} (exit {exit_code})"
    done = f"{num_ok + num_failed:,} of {num_rows:,} images are done"
    return f"{ended[exit_code]}{why}; {done}, the same command resumes"


def percent(share: float) -> str:
    """Return a share as percent; small ones keep two digits that mean something."""
    return f"{share * 100:.2g} %" if share < 0.1 else f"{share * 100:.3g} %"


def _known(kind: type[Any], content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a class that are there, plain ones being of their kind; others are read by who asks."""
    hints = get_type_hints(kind)
    known = {name: value for name, value in content.items() if name in hints}
    for name, value in known.items():
        if not fits(value, hints[name]):
            raise TypeError(f"{name} is {str(value)[:40]!r}")
    return known


def _stats_to_json(stats: ShardStats) -> dict[str, Any]:
    content = {each.name: getattr(stats, each.name) for each in dataclasses.fields(ShardStats)}
    return content | {"num_errors": {str(code): count for code, count in stats.num_errors.items()}}


def _stats_from_json(content: Mapping[str, Any]) -> ShardStats:
    return ShardStats(**(_known(ShardStats, content) | {"num_errors": Counter(content["num_errors"])}))
