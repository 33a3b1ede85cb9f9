"""Time and memory of resuming a job of 100 million rows, nearly all of whose parts stand, up to its first dispatch.

    python benchmarks/resume.py FOLDER [--rows 100000000] [--missing 4] [--rounds 3]

Writes the manifest of plan_100m.py below FOLDER and an output with a part for nearly every shard (real ones, of one row
each: a resume lists parts and opens none), unless both are there. Then each round runs the job in a fresh process up to
the first shard it hands out, and prints as JSON when that was, counted from the start of the process, and the peak
memory of that process, the coordinator. Everything on the way is the real thing but the workers.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from plan_100m import run_step

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def write_output(manifest: Path, output: Path, missing: int) -> None:
    """Begin the job and put a part for each shard but the last ones, as if a run had done them."""
    import pyarrow as pa

    from batchrec.errors import ErrorCode
    from batchrec.job import part_facts, run_job
    from batchrec.manifest.rows import Rows
    from batchrec.output.layout import Layout
    from batchrec.output.parts import encode_part
    from batchrec.output.rows import failed_rows
    from batchrec.planning import Job
    from batchrec.records import Attempt

    jobs: list[Job] = []
    with suppress(Dispatched):
        run_job(spec_of(manifest, output), site=NoSite(), on_plan=jobs.append)
    job = jobs[0]
    layout = Layout(job.identity.job_id)
    one = Rows(["a.jpg"], pa.array(["0"]), pa.table({"none": [0]}).select([]))
    for shard in list(job.plan)[: len(job.plan) - missing]:
        attempt = Attempt(shard, 1, f"bench-{shard.index}")
        rows = failed_rows(one, attempt, ErrorCode.NOT_FOUND, "nothing is there")
        identity = {"job_id": layout.job_id, "shard": shard.index, "attempt_id": attempt.attempt_id}
        path = output / layout.part_key(shard.index)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_part(rows, facts=part_facts(job), **identity))


def spec_of(manifest: Path, output: Path):
    from batchrec.spec import JobSpec

    return JobSpec(source=(str(manifest),), output=str(output), pool="inline", device="cpu", precision="fp32")


class Dispatched(Exception):
    """The first shard was handed out."""


class NoWorkers:
    """A pool whose one worker is ready at once, and which ends the run at the first shard."""

    shards_per_worker = 2

    def __init__(self) -> None:
        self._num_started = 0

    def start_workers(self, num_workers: int) -> None:
        self._num_started += num_workers

    def wait(self, timeout_s: float) -> list:
        from batchrec.engine.pool import WorkerReady
        from batchrec.records import WorkerFacts

        return [WorkerReady(0, WorkerFacts("host", 1, "cpu", "none", "fp32", 1, "no model", 0.0))]

    def dispatch(self, worker: int, attempt: object) -> NoReturn:
        raise Dispatched

    def live_counts(self) -> dict:
        return {}

    def room(self) -> int:
        return 1

    def close(self) -> None: ...


class NoSite:
    """Where there are no workers."""

    spans_machines = False

    def place(self, spec: object):
        from batchrec.engine.devices import Placement

        return Placement("cpu", 1, 1)

    @contextmanager
    def starting(self, placement: object) -> Iterator[Callable[[object], NoWorkers]]:
        yield lambda make_worker: NoWorkers()


def since_start_s() -> float:
    """Seconds since this process began."""
    started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started / _TICKS_PER_S


def resume(manifest: Path, output: Path) -> None:
    """Run the job until its first dispatch and print what it took."""
    from batchrec.job import run_job

    facts: dict[str, float] = {"imported_s": since_start_s()}

    def planned(job) -> None:
        facts.update(planned_s=since_start_s(), rows=job.plan.num_rows, shards=len(job.plan), standing=job.num_done)

    try:
        run_job(spec_of(manifest, output), site=NoSite(), on_plan=planned)
    except Dispatched:
        facts["dispatched_s"] = since_start_s()
    facts["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({name: round(value, 2) for name, value in facts.items()}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--missing", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--step", choices=("write", "resume"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    asked.files, asked.row_group_rows = 1, 1_000_000
    manifest = asked.folder / f"manifest-{asked.rows}-{asked.files}-{asked.row_group_rows}"
    output = asked.folder / f"output-{asked.rows}-{asked.missing}"
    if asked.step == "write":
        write_output(manifest, output, asked.missing)
    elif asked.step == "resume":
        resume(manifest, output)
    else:
        if not manifest.exists():
            run_step("write", manifest, asked)
        # Each in a process of its own: peak memory is inherited from a parent that was large.
        numbers = ["--rows", str(asked.rows), "--missing", str(asked.missing)]
        steps = ["write"] * (not output.exists()) + ["resume"] * asked.rounds
        for step in steps:
            subprocess.run([sys.executable, __file__, str(asked.folder), "--step", step, *numbers], check=True)


if __name__ == "__main__":
    main()
