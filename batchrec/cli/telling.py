"""The observer behind the live line of `batchrec submit`."""

from __future__ import annotations

from typing import TextIO

from batchrec.records import WorkerFacts
from batchrec.report.progress import Progress


class TerminalObserver:
    """Shows how a run goes; says nothing before :meth:`begin`.

    Args:
        stream: Where to; a terminal gets a live line, anything else plain lines.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._progress: Progress | None = None

    def begin(self, num_rows: int, num_done: int) -> None:
        """Start the line, once the size of the job is known."""
        self._progress = Progress(num_rows, num_done, stream=self._stream)

    def worker_ready(self, facts: WorkerFacts) -> None:
        """See :class:`batchrec.engine.coordinator.Observer`."""
        self.say(f"worker on {facts.host} ready in {facts.start_s:.1f} s: {facts.trial}, batches of {facts.batch_size}")

    def say(self, message: str) -> None:
        """See :class:`batchrec.engine.coordinator.Observer`."""
        if self._progress is not None:
            self._progress.message(message)

    def tick(self, *, num_ok: int, num_failed: int, num_shards_done: int) -> None:
        """See :class:`batchrec.engine.coordinator.Observer`."""
        if self._progress is not None:
            self._progress.update(num_ok, num_failed, num_shards_done)

    def close(self) -> None:
        """End the line."""
        if self._progress is not None:
            self._progress.close()
