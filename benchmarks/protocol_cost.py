"""What the exactly-once protocol costs: its share of a whole job's CPU and wall time.

    python benchmarks/protocol_cost.py [--images 8000] [--model random:resnet18] [--rounds 3]

The job runs in this process, so all its CPU time is this process's. Every call of the protocol is timed on the thread
that makes it: the probes, the claim and its beats, what is bound and looked up, the digest of each part, its publishing
(a plain write would cost a part of that) and the seal, with reading back every footer. Before and after the work these
calls are waited for, so their wall time counts; during it they run beside the images, so only their CPU time does.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from material import archive_of, model_string

import batchrec
from batchrec import job, planning
from batchrec.engine import claims, worker
from batchrec.output import parts

#: Where each call of the protocol is looked up by those who make it, and whether the job waits for it.
CALLS: tuple[tuple[str, Any, str, bool], ...] = (
    ("probe", job, "probe", True),
    ("probe by worker", worker, "probe", True),
    ("bind", job, "_bind", True),
    ("look up", planning, "bound_identity", True),
    ("look up", planning, "standing_plan", True),
    ("look up", job, "standing_parts", True),
    ("claim", job, "claim", True),
    ("claim", claims.Claim, "release", True),
    ("beat", claims.Claim, "_beat_on", False),
    ("digest", parts, "table_sha256", False),
    ("publish", worker, "publish_part", False),
    ("seal", job, "seal", True),
)


class Timed:
    """Adds up what calls take; what a timed call calls belongs to it."""

    def __init__(self) -> None:
        self.cpu_s: Counter[str] = Counter()
        self.waited_s: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._inside = threading.local()

    def wrap(self, owner: ModuleType | type, attribute: str, name: str, *, waited_for: bool) -> None:
        setattr(owner, attribute, self._timed(getattr(owner, attribute), name, waited_for))

    def _timed(self, call: Callable[..., Any], name: str, waited_for: bool) -> Callable[..., Any]:
        @functools.wraps(call)
        def timed(*arguments: Any, **named: Any) -> Any:
            if getattr(self._inside, "name", None):
                return call(*arguments, **named)
            self._inside.name = name
            cpu, wall = time.thread_time(), time.perf_counter()
            try:
                return call(*arguments, **named)
            finally:
                self._inside.name = None
                with self._lock:
                    self.cpu_s[name] += time.thread_time() - cpu
                    self.waited_s[name] += (time.perf_counter() - wall) * waited_for

        return timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=8000)
    parser.add_argument("--size", default="500x375")
    parser.add_argument("--model", default="random:resnet18")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    timed = Timed()
    for name, owner, attribute, waited_for in CALLS:
        timed.wrap(owner, attribute, name, waited_for=waited_for)
    shares: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as scratch:
        manifest = archive_of(Path(scratch) / "archive", arguments.images, arguments.size, num_drawn=1000)
        model = model_string(arguments.model, Path(scratch))
        for number in range(arguments.rounds):
            timed.cpu_s.clear()
            timed.waited_s.clear()
            cpu, wall = time.process_time(), time.perf_counter()
            batchrec.submit(manifest, output=f"{scratch}/out{number}", model=model, pool="inline")
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            shares.append((timed.cpu_s.total() / cpu, timed.waited_s.total() / wall))
            each = ", ".join(f"{name} {1000 * spent:.0f}" for name, spent in timed.cpu_s.most_common())
            print(f"round {number}: job {cpu:.1f} s CPU, {wall:.1f} s wall; ms of CPU: {each}")
            waits = ", ".join(f"{name} {1000 * spent:.0f}" for name, spent in timed.waited_s.most_common() if spent)
            print(f"  ms waited for: {waits}", flush=True)
    of_cpu, of_wall = (statistics.median(each) for each in zip(*shares, strict=True))
    print(f"median: the protocol takes {of_cpu:.2%} of the CPU time and {of_wall:.2%} of the wall time")


if __name__ == "__main__":
    main()
