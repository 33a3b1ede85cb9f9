"""The observer behind the live line of `batchrec submit`."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TextIO

from batchrec.records import WorkerFacts
from batchrec.report.binding import Threads, weigh
from batchrec.report.progress import Progress
from batchrec.report.unfinished import unfinished_lines
from batchrec.stats import RunProgress, ShardStats


class ReaderGone(Exception):
    """Whoever read our output closed the pipe (`| head`): nothing is left to say."""


def silence(stream: TextIO) -> None:
    """Let what is still written to a stream, also at exit, go nowhere."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class TerminalObserver:
    """Shows how a run goes, from :meth:`begin` on with a live line.

    Args:
        stream: Where to; a terminal gets a live line, anything else plain lines.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._progress: Progress | None = None
        self._num_rows = self._num_done = 0
        self._latest = RunProgress()
        self._workers: list[WorkerFacts] = []
        self._working_since: float | None = None

    def begin(self, lines: list[str], num_rows: int, num_done: int) -> None:
        """Print the plan and start the line, once the size of the job is known.

        Args:
            lines: The plan.
            num_rows: Rows of the job.
            num_done: Those of them that earlier runs finished.
        """
        self._print(lines)
        self._num_rows, self._num_done = num_rows, num_done
        self._progress = Progress(num_rows, num_done, stream=self._stream)

    def worker_ready(self, facts: WorkerFacts) -> None:
        """See :class:`batchrec.engine.coordinator.Observer`."""
        self._workers.append(facts)
        self._working_since = self._working_since or time.monotonic()
        self.say(f"worker on {facts.host} ready in {facts.start_s:.1f} s: {facts.trial}, batches of {facts.batch_size}")

    def say(self, message: str) -> None:
        """See :class:`batchrec.engine.coordinator.Observer`."""
        if self._progress is None:
            self._print([message])
        else:
            self._progress.message(message)

    def _print(self, lines: list[str]) -> None:
        # A reader of stderr that goes away must not end the run.
        with contextlib.suppress(OSError, ValueError):
            self._stream.writelines(f"{line}\n" for line in lines)
            self._stream.flush()

    def tick(self, progress: RunProgress) -> None:
        """See :class:`batchrec.engine.coordinator.Observer`."""
        self._latest = progress
        if self._progress is not None:
            bound_by = self._bound_by(progress.stats)
            self._progress.update(progress.num_ok, progress.num_failed, progress.num_shards_done, bound_by)

    def _bound_by(self, stats: ShardStats) -> str:
        kind = weigh(stats, self._span_s(), Threads.of(self._workers, stats), on_gpu=self._on_gpu()).kind
        return "" if kind == "unclear" else f"{kind}-bound"

    def _span_s(self) -> float:
        return 0.0 if self._working_since is None else time.monotonic() - self._working_since

    def _on_gpu(self) -> bool:
        return any(facts.device != "cpu" for facts in self._workers)

    def close(self, *, ended_early: bool = False) -> None:
        """End the line.

        Args:
            ended_early: Whether no report comes, so that what stands is said here.
        """
        if self._progress is None:
            return
        self._progress.close()
        if not ended_early or self._working_since is None:
            return
        for line in unfinished_lines(
            self._latest,
            num_rows=self._num_rows,
            num_rows_before=self._num_done,
            span_s=self._span_s(),
            threads=Threads.of(self._workers, self._latest.stats),
            on_gpu=self._on_gpu(),
        ):
            self._progress.message(line)
