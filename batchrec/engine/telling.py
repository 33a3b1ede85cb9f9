"""Observers of a run: a quiet one, and one that also keeps what `batchrec status` and `logs` show."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable

from batchrec.engine.coordinator import Observer
from batchrec.output.advising import advise_bytes
from batchrec.output.layout import Layout
from batchrec.records import WorkerFacts
from batchrec.redacting import shown
from batchrec.stats import RunProgress
from batchrec.storage import Store

WRITE_EVERY_S = 10.0
#: Lines of a coordinator's own that its log in the output keeps.
MAX_LOG_LINES = 2_000
_CLOSING_S = 5.0


class Quiet:
    """Tells nobody."""

    def worker_ready(self, facts: WorkerFacts) -> None:
        """See :class:`batchrec.engine.coordinator.Observer`."""

    def say(self, message: str) -> None:
        """See :class:`batchrec.engine.coordinator.Observer`."""

    def tick(self, progress: RunProgress) -> None:
        """See :class:`batchrec.engine.coordinator.Observer`."""


class Journal:
    """Passes everything on, and keeps ``progress.json`` and the driver's log. Advisory: never read for correctness.

    Args:
        observer: Who else is told.
        store: The output folder.
        layout: Its keys.
        driver: Number of this coordinator's claim.
        num_rows: Rows of the job.
        num_shards: Shards of the job.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        observer: Observer,
        store: Store,
        layout: Layout,
        driver: int,
        num_rows: int,
        num_shards: int,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._observer, self._layout, self._driver = observer, layout, driver
        self._fixed = {"driver": driver, "num_rows": num_rows, "num_shards": num_shards}
        self._clock = clock
        self._written_at = self._kept_at = -WRITE_EVERY_S
        self._lines: deque[str] = deque(maxlen=MAX_LOG_LINES)
        self._has_unkept = False
        self._writer = _LatestWriter(store)

    def worker_ready(self, facts: WorkerFacts) -> None:
        """See :class:`batchrec.engine.coordinator.Observer`."""
        self._note(f"worker on {facts.host} ready: {facts.trial}")
        self._observer.worker_ready(facts)

    def say(self, message: str) -> None:
        """See :class:`batchrec.engine.coordinator.Observer`."""
        self._note(message)
        self._observer.say(message)

    def tick(self, progress: RunProgress) -> None:
        """See :class:`batchrec.engine.coordinator.Observer`."""
        self._observer.tick(progress)
        self._keep_log()
        if self._clock() - self._written_at < WRITE_EVERY_S:
            return
        self._written_at = self._clock()
        done = {
            "num_ok_this_run": progress.num_ok,
            "num_failed_this_run": progress.num_failed,
            "num_shards_done": progress.num_shards_done,
            "num_workers_ready": progress.workers.get("ready", 0),
        }
        self._writer.put(self._layout.progress_key, json.dumps({**self._fixed, **done}, indent=1).encode())

    def close(self) -> None:
        """Write what is left, if the store takes it within seconds."""
        self._keep_log(within_s=0.0)
        self._writer.close()

    def _note(self, line: str) -> None:
        # What workers raise quotes URIs, and everybody who may read the output reads this.
        line = shown(" ".join(line.splitlines()))
        self._lines.append(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {line}")
        self._has_unkept = True
        self._keep_log()  # at once if it can: a machine that dies soon must leave its first lines

    def _keep_log(self, within_s: float = WRITE_EVERY_S) -> None:
        if not self._has_unkept or self._clock() - self._kept_at < within_s:
            return
        self._has_unkept, self._kept_at = False, self._clock()
        text = "".join(f"{line}\n" for line in self._lines)
        self._writer.put(self._layout.log_key(self._driver), text.encode(errors="backslashreplace"))


class _LatestWriter:
    """Writes the latest value of each key from a thread of its own: a slow store must not hold up the run."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: dict[str, bytes] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._write_on, name="batchrec-journal", daemon=True)
        self._thread.start()

    def put(self, key: str, data: bytes) -> None:
        with self._changed:
            self._waiting[key] = data
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(_CLOSING_S)

    def _write_on(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                key, data = self._waiting.popitem()
            advise_bytes(self._store, key, data)
