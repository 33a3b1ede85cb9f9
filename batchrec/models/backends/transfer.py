"""How fast batches reach a device: copies from page-locked memory, measured alone."""

from __future__ import annotations

import time
from typing import Final

_SECONDS: Final = 0.3
_AT_LEAST: Final = 4


def copied_bytes_per_s(device: str, num_bytes: int, seconds: float = _SECONDS) -> float:
    """Measure copies of so many bytes, one after the other, to a device that torch names.

    Args:
        device: ``cuda:0``; ``cpu`` copies within memory.
        num_bytes: Of one copy: a batch.
        seconds: How long to go on; at least four copies.
    """
    import torch

    on_cuda = device != "cpu"
    source = torch.zeros(num_bytes, dtype=torch.uint8, pin_memory=on_cuda)
    target = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
    target.copy_(source)
    began, num_copies = time.perf_counter(), 0
    while num_copies < _AT_LEAST or time.perf_counter() < began + seconds:
        target.copy_(source, non_blocking=on_cuda)
        if on_cuda:
            torch.cuda.synchronize(device)
        num_copies += 1
    return num_copies * num_bytes / (time.perf_counter() - began)
