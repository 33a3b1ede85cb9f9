"""Where workers fit: the cores and CUDA devices of one machine or of a cluster's nodes, found without torch."""

from __future__ import annotations

import ctypes
import importlib.util
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from batchrec.errors import Refused

CORES_PER_CPU_WORKER = 8
#: Cores of a CPU worker where no node is there yet: most machines have as many.
_CORES_UNSEEN = 4
#: What one more worker costs beside its cores (a model of its own, threads that wait), in cores.
_WORKER_COSTS_CORES = 0.25


@dataclass(frozen=True, slots=True)
class Node:
    """What one machine offers to workers: whole cores and CUDA devices."""

    num_cores: int
    num_gpus: int = 0


@dataclass(frozen=True, slots=True)
class Placement:
    """How many workers run, and on what.

    Attributes:
        device: ``cpu`` or ``cuda``.
        num_workers: One per CUDA device, or one per about eight cores.
        num_threads: Cores for each worker.
        note: Why CUDA devices that are there are left alone, for people; mostly empty.
    """

    device: str
    num_workers: int
    num_threads: int
    note: str = ""

    @property
    def num_gpus(self) -> int:
        """CUDA devices for each worker."""
        return int(self.device == "cuda")

    def room_on(self, nodes: Sequence[Node]) -> int:
        """Return how many such workers some nodes hold."""
        return sum(_room(node, self.num_threads, on_cuda=self.device == "cuda") for node in nodes)


def place(
    nodes: Sequence[Node],
    device: str,
    *,
    workers: int | None = None,
    cores_per_worker: int | None = None,
    largest: int = CORES_PER_CPU_WORKER,
) -> Placement:
    """Decide where workers run: one for each CUDA device, or CPU workers sized by the nodes' cores.

    Args:
        nodes: Machines that are there now; more may come.
        device: ``auto``, ``cpu`` or ``cuda``.
        workers: Number asked for, None to fill the nodes.
        cores_per_worker: Size asked for, None to choose.
        largest: Most cores a CPU worker is given by choice: machines that come later may be smaller.
    """
    on_cuda = device == "cuda" or (device == "auto" and any(node.num_gpus for node in nodes))
    if on_cuda:
        natural = min((node.num_cores // node.num_gpus for node in nodes if node.num_gpus), default=4)
    else:
        natural = _cores_per_worker(nodes, workers, largest)
    kind = Placement("cuda" if on_cuda else "cpu", 0, cores_per_worker or max(1, natural))
    return Placement(kind.device, workers or max(1, kind.room_on(nodes)), kind.num_threads)


def place_here(device: str, *, workers: int | None = None, cores_per_worker: int | None = None) -> Placement:
    """Decide where the workers of this machine run.

    Raises:
        Refused: CUDA is asked for and there is no such device, or none that torch can use.
    """
    here = Node(available_cores(), num_cuda_devices() if device != "cpu" else 0)
    trouble = cuda_trouble() if here.num_gpus else ""
    if device == "cuda" and not here.num_gpus:
        raise Refused("no CUDA device", found="no /dev/nvidia* that is visible", advice="use --device cpu")
    if device == "cuda" and trouble:
        raise Refused("torch cannot use the CUDA devices here", found=trouble, advice="mend that, or use --device cpu")
    device, note = ("cpu", f"no CUDA: {trouble}") if trouble else (device, "")
    largest = 2 * CORES_PER_CPU_WORKER - 1
    found = place([here], device, workers=workers, cores_per_worker=cores_per_worker, largest=largest)
    if cores_per_worker is None and workers is not None:
        # Whoever asks for more workers than there are cores, or GPUs, shares what there is.
        return Placement(found.device, workers, max(1, here.num_cores // workers), note)
    return replace(found, note=note)


def _cores_per_worker(nodes: Sequence[Node], workers: int | None, largest: int) -> int:
    """Return the size of CPU workers that leaves the fewest cores idle for the fewest workers."""
    sizes = range(largest, 0, -1)
    room = {size: sum(node.num_cores // size for node in nodes) for size in sizes}
    if not any(room.values()):
        return _CORES_UNSEEN
    if workers is not None:
        return next((size for size in sizes if room[size] >= workers), 1)
    return max(sizes, key=lambda size: room[size] * (size - _WORKER_COSTS_CORES))


def _room(node: Node, num_threads: int, *, on_cuda: bool) -> int:
    room = node.num_cores // num_threads
    return min(room, node.num_gpus) if on_cuda else room


def available_cores() -> int:
    """Return the whole cores a worker is sized by: a quota of 1.5 is worth two threads."""
    return max(1, math.ceil(usable_cores()))


def usable_cores() -> float:
    """Return the cores this process may use: its affinity, and the quota of its cgroup."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _cgroup_quota())


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


def cuda_trouble() -> str:
    """Return why torch cannot use the CUDA devices of this machine; empty where nothing speaks against it.

    Looks at files and the driver's version only: importing torch costs seconds.
    """
    spec = importlib.util.find_spec("torch")
    version = Path(spec.origin).with_name("version.py") if spec is not None and spec.origin else None
    built = version.read_text() if version is not None and version.is_file() else ""
    return _trouble(built, _driver_version())


def _trouble(built: str, driver: tuple[int, int] | None) -> str:
    """Compare what a build of torch says of itself with the CUDA version a driver is for."""
    said = dict(re.findall(r"^(\w+)(?:: [^=\n]+)? = '?([^'\n]*)'?$", built, re.MULTILINE))
    name = f"torch {said.get('__version__', '')}".strip()
    if said.get("cuda") == "None":
        return f"{name} is built without it"
    if driver is None:
        return "no driver (libcuda.so.1) is installed here"
    # Within one major version any driver runs what any minor one was built for.
    wanted = re.match(r"\d+", said.get("cuda", ""))
    if wanted and driver[0] < int(wanted[0]):
        return f"the driver is for CUDA {driver[0]}.{driver[1]}, {name} for {said['cuda']}"
    return ""


def _driver_version() -> tuple[int, int] | None:
    number = ctypes.c_int()
    try:
        failed = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(number))
    except (OSError, AttributeError):
        return None
    return None if failed else (number.value // 1000, number.value % 1000 // 10)
