"""Which backend is faster here: a short measurement, remembered."""

from __future__ import annotations

import datetime
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from batchrec.models.backends import Backend

_SECONDS: Final = 0.5


def images_per_s(backend: Backend, side: int, seconds: float = _SECONDS) -> float:
    """Measure a backend alone, with as many callers as it profits from.

    Args:
        backend: What to measure; called twice beforehand to warm up.
        side: Pixels of an image's side.
        seconds: How long each caller goes on; at least two batches each.
    """
    noise = backend.new_slab()
    noise[:] = np.random.default_rng(0).integers(0, 256, (backend.batch_size, side, side, 3), dtype=np.uint8)
    with ThreadPoolExecutor(backend.concurrency) as callers:
        list(callers.map(backend.predict, [noise] * 2 * backend.concurrency))
        start = time.perf_counter()
        batches = sum(callers.map(lambda _: _repeat(backend, noise, start + seconds), range(backend.concurrency)))
        return batches * backend.batch_size / (time.perf_counter() - start)


def trial_line(winner: str, precision: str, rates: dict[str, float]) -> str:
    """Say what was measured, in one printable line."""
    others = ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items() if name != winner)
    beside = f" ({others})" if others else ""
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    return f"{winner} {precision}, {rates[winner]:.0f} images/s alone{beside}, tried {today}"


def _repeat(backend: Backend, images: NDArray[np.uint8], until: float) -> int:
    batches = 0
    while batches < 2 or time.perf_counter() < until:
        backend.predict(images)
        batches += 1
    return batches
