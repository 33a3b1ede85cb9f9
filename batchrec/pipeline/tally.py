"""How many images of one stream have ended, and how."""

from __future__ import annotations

import threading
from collections import Counter

from batchrec.errors import ErrorCode
from batchrec.stats import ShardStats


class Tally:
    """Counts images that ended, of shards that are published or not; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_ok, self._num_errors = 0, Counter[str]()
        self._device_s = 0.0

    def failed(self, code: ErrorCode) -> None:
        """Count an image that ended without a prediction."""
        with self._lock:
            self._num_errors[code.value] += 1

    def predicted(self, num_ok: int, num_unfit: int, device_s: float) -> None:
        """Count the images of a batch: those with a prediction, those for which the model gave no numbers."""
        with self._lock:
            self._num_ok += num_ok
            if num_unfit:
                self._num_errors[ErrorCode.PREDICTION_FAILED.value] += num_unfit
            self._device_s += device_s

    def count(self, stats: ShardStats) -> None:
        """Count the images of a shard that another worker did."""
        with self._lock:
            self._num_ok += stats.num_ok
            self._num_errors += stats.num_errors

    def uncount(self, stats: ShardStats) -> None:
        """Count the images of a shard no longer: it ended, and was not published."""
        with self._lock:
            self._num_ok -= stats.num_ok
            self._num_errors -= stats.num_errors

    def counts(self) -> tuple[int, Counter[str]]:
        """Return how many images have ended with a prediction, and how many without one by error code."""
        with self._lock:
            return self._num_ok, self._num_errors.copy()

    def device_s(self) -> float:
        """Return the seconds the model has been at work, over all forward passes that are through."""
        return self._device_s
