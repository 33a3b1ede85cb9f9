"""A collector gathers one shard's rows as they come back, and closes with the last of them."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Collection, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from batchrec.errors import ErrorCode, ImageError
from batchrec.models.backends import Scores
from batchrec.pipeline.decoding import ImageFacts
from batchrec.records import EmbeddingSpec
from batchrec.stats import ShardStats
from batchrec.storage import Reserve


@dataclass(frozen=True, slots=True)
class ShardPredictions:
    """What the pipeline found of one shard; arrays have one entry for each row, zero where it failed.

    Attributes:
        top_labels: Indices of the best labels, int32 (rows, k).
        top_scores: Their softmax probabilities, float32 (rows, k), descending.
        entropy: Of the softmax, float32 (rows,), in nats.
        width: Of the upright image, int32 (rows,), in pixels; zero if unknown.
        height: As ``width``.
        num_bytes: Size of the encoded image, int64 (rows,).
        errors: Why a row has no prediction, by row.
        stats: Counters and stage times.
        first_row_at: When the first image was taken up, in Unix seconds.
        last_row_at: When the last image ended, in Unix seconds.
        embeddings: float16 or float32 (rows, dimension); None where the job keeps none.
    """

    top_labels: np.ndarray
    top_scores: np.ndarray
    entropy: np.ndarray
    width: np.ndarray
    height: np.ndarray
    num_bytes: np.ndarray
    errors: dict[int, ImageError]
    stats: ShardStats
    first_row_at: float
    last_row_at: float
    embeddings: np.ndarray | None = None


class Images(Protocol):
    """Images of a shard that need not be looked for by their URIs."""

    def read(self, row: int, reserve: Reserve) -> bytes | None:
        """Return an image, with room for it reserved first; None where there is none."""


class Collector:
    """Gathers one shard's rows, in whatever order they come.

    Args:
        uris: Images of the shard, in manifest order.
        top_k: Labels kept for each image.
        embedding: What is kept of each image's embedding.
        shard: Index of the shard, for people and notes.
        apart: Rows to be decoded in another process.
        images: Those that need not be looked for by their URIs.

    Attributes:
        uris: As given.
        shard: As given.
        apart: As given; those that came under suspicion since are added.
        images: As given.
        future: Resolves with the last row, or with the error that ended the shard.
    """

    def __init__(
        self,
        uris: Sequence[str | None],
        top_k: int,
        embedding: EmbeddingSpec | None = None,
        *,
        shard: int = -1,
        apart: Collection[int] = (),
        images: Images | None = None,
    ) -> None:
        num_rows = len(uris)
        self.uris, self.shard, self.apart, self.images = uris, shard, apart, images
        self.future: Future[ShardPredictions] = Future()
        self._lock = threading.Lock()
        self._num_missing = num_rows
        self._top_labels = np.zeros((num_rows, top_k), np.int32)
        self._top_scores = np.zeros((num_rows, top_k), np.float32)
        self._entropy = np.zeros(num_rows, np.float32)
        self._embeddings: np.ndarray | None = None
        if embedding is not None:
            self._embeddings = np.zeros((num_rows, embedding.dimension), embedding.dtype)
        self._width = np.zeros(num_rows, np.int32)
        self._height = np.zeros(num_rows, np.int32)
        self._num_bytes = np.zeros(num_rows, np.int64)
        self._errors: dict[int, ImageError] = {}
        self._fetch_s = self._fetch_full_s = self._decode_s = self._predict_s = 0.0
        self._num_batches = self._num_on_device = 0
        self._first_row_at: float | None = None

    def fetched(self, row: int, num_bytes: int, fetch_s: float, num_allowed: int = 1) -> None:
        """Note a fetch, successful (``num_bytes`` > 0) or not, and how many were allowed at once."""
        with self._lock:
            self._num_bytes[row] = num_bytes
            self._fetch_s += fetch_s
            self._fetch_full_s += fetch_s / num_allowed
            if self._first_row_at is None:
                self._first_row_at = time.time() - fetch_s

    def decoded(self, row: int, facts: ImageFacts, decode_s: float, *, on_device: bool = False) -> None:
        """Note an image on its way to the model, and whether no core worked for it."""
        with self._lock:
            self._width[row], self._height[row] = facts.width, facts.height
            self._decode_s += decode_s
            self._num_on_device += on_device

    def fail(self, row: int, error: ImageError, decode_s: float = 0.0) -> None:
        """Note that a row ends without a prediction."""
        with self._lock:
            self._errors[row] = error
            self._decode_s += decode_s
        self._end(1)

    def predicted(self, rows: list[int], scores: Scores, first_slot: int, predict_s: float) -> None:
        """Note the predictions in consecutive slots of one batch, one for each of ``rows``.

        A row for which the model answered no numbers ends without a prediction.
        """
        slots = slice(first_slot, first_slot + len(rows))
        numbers = scores.are_numbers()[slots]
        unfit = [] if numbers.all() else [row for row, fit in zip(rows, numbers, strict=True) if not fit]
        with self._lock:
            self._top_labels[rows] = scores.top_labels[slots]
            self._top_scores[rows] = scores.top_scores[slots]
            self._entropy[rows] = scores.entropy[slots]
            if self._embeddings is not None:
                assert scores.embeddings is not None, "the backend was opened without embeddings"
                self._embeddings[rows] = _fitting(scores.embeddings[slots], self._embeddings.dtype)
            for row in unfit:
                self._blank(row)
            self._predict_s += predict_s
            self._num_batches += 1
        self._end(len(rows))

    def _blank(self, row: int) -> None:
        self._errors[row] = ImageError(ErrorCode.PREDICTION_FAILED)
        for found in (self._top_labels, self._top_scores, self._entropy, self._embeddings):
            if found is not None:
                found[row] = 0

    def abort(self, error: BaseException) -> None:
        """End the shard with an error that is not an image's; rows still under way no longer count."""
        with self._lock:
            if not self.future.done():
                self.future.set_exception(error)

    def _end(self, num_rows: int) -> None:
        """Note that so many rows more have ended."""
        with self._lock:
            self._num_missing -= num_rows
            last = not self._num_missing
        if last:
            self._close()

    def _close(self) -> None:
        stats = ShardStats(
            num_ok=len(self.uris) - len(self._errors),
            num_errors=Counter(error.code.value for error in self._errors.values()),
            read_bytes=int(self._num_bytes.sum()),
            num_batches=self._num_batches,
            num_on_device=self._num_on_device,
            fetch_s=self._fetch_s,
            fetch_full_s=self._fetch_full_s,
            decode_s=self._decode_s,
            predict_s=self._predict_s,
        )
        arrays = (self._top_labels, self._top_scores, self._entropy, self._width, self._height, self._num_bytes)
        with self._lock:
            if not self.future.done():
                now = time.time()
                first = self._first_row_at or now
                found = ShardPredictions(*arrays, self._errors, stats, first, now, self._embeddings)
                self.future.set_result(found)


def _fitting(values: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    # What float16 cannot hold becomes its largest number: an infinite one would spoil every distance.
    largest = np.finfo(dtype).max
    fitting: np.ndarray = np.clip(values, -largest, largest)
    return fitting
