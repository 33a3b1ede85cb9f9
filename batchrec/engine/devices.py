"""What this machine offers: cores and CUDA devices, found without importing torch."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

from batchrec.errors import Refused

CORES_PER_CPU_WORKER = 8


@dataclass(frozen=True, slots=True)
class Placement:
    """How many workers run, and on what.

    Attributes:
        device: ``cpu`` or ``cuda``.
        num_workers: One per CUDA device, or one per eight cores.
        num_threads: Cores for each worker.
    """

    device: str
    num_workers: int
    num_threads: int


def place(device: str, workers: int | None) -> Placement:
    """Decide where the workers of this machine run.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.
        workers: Number asked for, None to choose.

    Raises:
        Refused: CUDA is asked for and there is no such device.
    """
    cores, num_cuda = available_cores(), num_cuda_devices()
    if device == "cuda" and not num_cuda:
        raise Refused("no CUDA device", found="no /dev/nvidia* that is visible", advice="use --device cpu")
    on_cuda = num_cuda > 0 and device != "cpu"
    natural = num_cuda if on_cuda else max(1, cores // CORES_PER_CPU_WORKER)
    num_workers = workers or natural
    return Placement("cuda" if on_cuda else "cpu", num_workers, max(1, cores // num_workers))


def available_cores() -> int:
    """Return the cores this process may use: its affinity, and the quota of its cgroup."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, _cgroup_quota())))


def _cgroup_quota() -> float:
    for path, parse in (("/sys/fs/cgroup/cpu.max", _quota_v2), ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", _quota_v1)):
        if Path(path).exists():
            return parse(Path(path))
    return math.inf


def _quota_v2(path: Path) -> float:
    quota, period = path.read_text().split()
    return math.inf if quota == "max" else int(quota) / int(period)


def _quota_v1(path: Path) -> float:
    quota = int(path.read_text())
    return math.inf if quota <= 0 else quota / int((path.parent / "cpu.cfs_period_us").read_text())


def num_cuda_devices() -> int:
    """Return how many CUDA devices this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    present = sum(bool(re.fullmatch(r"nvidia\d+", name.name)) for name in Path("/dev").glob("nvidia*"))
    if visible is None:
        return present
    return min(present, len([name for name in visible.split(",") if name.strip() not in ("", "-1")]))
