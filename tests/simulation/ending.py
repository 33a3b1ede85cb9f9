"""Judges how a run ended, and a history once everything has calmed down."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, BinaryIO

from batchrec.engine.claims import highest_claim
from batchrec.engine.identity import bound_identity
from batchrec.errors import (
    AccessError,
    BatchrecError,
    DeadlineReached,
    ErrorCode,
    OutputError,
    Resumable,
    Superseded,
)
from batchrec.manifest.planning import Plan
from batchrec.output.layout import SUCCESS_KEY, Layout
from batchrec.output.parts import encode_part
from batchrec.output.rows import prediction_rows
from batchrec.output.verifying import verify
from batchrec.records import Attempt, Shard
from batchrec.report.summary import RunSummary
from batchrec.storage import KeyMissing, ObjectInfo
from tests.output import making
from tests.simulation import work
from tests.simulation.auditing import footer_of
from tests.simulation.faults import Violation
from tests.simulation.scheduling import Process
from tests.simulation.storing import URL, Bucket

if TYPE_CHECKING:
    from tests.simulation.world import World

_CHANGES = (".beat", ".log", "progress.json", "report.json")


class CalmStore:
    """The bucket as it lies there, for whoever looks at it afterwards."""

    url = URL

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def create(self, key: str, data: bytes) -> None:
        raise AssertionError("who looks does not write")

    overwrite = create

    def delete(self, key: str) -> None:
        raise AssertionError("who looks does not delete")

    def read(self, key: str) -> bytes:
        if key not in self._bucket.objects:
            raise KeyMissing(key)
        return self._bucket.objects[key].data

    def open(self, key: str) -> BinaryIO:
        return io.BytesIO(self.read(key))

    def info(self, key: str) -> ObjectInfo:
        self.read(key)
        return self._bucket.info(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return (self._bucket.info(key) for key in sorted(self._bucket.objects) if key.startswith(prefix))

    def top(self) -> tuple[str, ...]:
        return ()


def judge_end(world: World, process: Process, end: RunSummary | BatchrecError | None) -> None:
    """Judge how a coordinator says that it ended."""
    if process.epoch != world.audit.epoch:
        return  # its folder is gone, or another's: it may find anything
    fault = _fault_of_summary(world, process, end) if isinstance(end, RunSummary) else _fault_of_error(world, process)
    if fault:
        world.scheduler.fail(f"{process.name} ended wrongly: {fault}: {end}")


def _fault_of_summary(world: World, process: Process, end: RunSummary) -> str:
    run, layout = world.audit.runs[process], Layout(world.audit.runs[process].job_id)
    worked = any(pool.owner is process for pool in world.pools)
    plan = world.plan(layout)
    if SUCCESS_KEY not in world.bucket.objects:
        return "it is called complete without _SUCCESS"
    if end.num_shards != len(plan) or end.num_rows != work.NUM_ROWS:
        return f"{end.num_shards} shards and {end.num_rows} rows of {len(plan)} and {work.NUM_ROWS}"
    if worked and end.shards_done_before != len(run.done_listed):
        return f"{end.shards_done_before} shards done before, of which {len(run.done_listed)} stood"
    mine = [rows for shard, rows in enumerate(plan) if shard not in run.done_listed and not run.past_a_cap(shard)]
    if worked and end.stats.num_rows != sum(mine):
        return f"it counts {end.stats.num_rows} rows of its own where there are {sum(mine)}"
    return ""


def _fault_of_error(world: World, process: Process) -> str:
    run, error = world.audit.runs[process], world.ends[process]
    calm, layout = CalmStore(world.bucket), Layout(run.job_id)
    if isinstance(error, Superseded):
        held = [key for key in world.bucket.objects if key.startswith(layout.drivers_prefix)]
        return "" if len(held) > 1 and highest_claim(calm, layout) > 1 else "nobody took over"
    if isinstance(error, Resumable | DeadlineReached):
        return ""
    if isinstance(error, AccessError):
        return "" if run.met_denial else "nobody denied it anything"
    if isinstance(error, OutputError):
        return _fault_of_refusal(world, process, str(error))
    return "of no kind that may be"


def _fault_of_refusal(world: World, process: Process, said: str) -> str:
    run, bound = world.audit.runs[process], world.audit.bound_job_id()
    if "being run already" in said:
        others = [each for each in world.coordinators if each is not process and each.died_at >= process.born_at]
        named = [f"process {each.pid} on {each.host}" for each in others if world.audit.runs[each].job == run.job]
        return "" if any(name in said for name in named) else "nobody else runs it"
    if "holds other things already" in said:
        # It looked for a binding, was held up, and meanwhile another coordinator bound the folder and finished; or a
        # zombie of a job that had the folder before it was emptied left a part there.
        others = world.audit.epoch > 0 and "predictions/job=" in said and Layout(run.job_id).parts_prefix not in said
        return "" if bound or others else "the folder held nothing else"
    if "another job" in said:
        return "" if bound != run.job_id else "the folder is its own"
    if "not a part of this job" in said or "not the part this job wrote" in said:
        return "" if world.audit.garbage_ever else "nothing foreign was there"
    return "for no good reason"


def settle(world: World) -> None:
    """Let everything calm down, run the job once more undisturbed, and check every invariant.

    Raises:
        Violation: One does not hold.
    """
    world.say("--- from here on nothing is disturbed")
    world.fault_rate, world.armed, world.expired, world.chatty = 0.0, [], False, False
    world.poison = "" if world.poison == "gone" else world.poison
    sleepers = [process for process in world.living() if process.stopped_until > world.scheduler.now]
    for process in sleepers:
        process.stopped_until = float("inf")
    world.until(lambda: all(process in sleepers for process in world.living()), seconds=1e6)
    if set(world.living()) - set(sleepers):
        raise Violation("a coordinator nobody disturbs does not end")
    world.tidy()
    job = _job_of(world)
    world.make_room(Layout(work.job_id(work.spec(job, rows_per_shard=2, takeover=False))))
    layout = Layout(_resume(world, job))
    before = _standing(world)
    for process in sleepers:
        process.stopped_until = world.scheduler.now
    world.until(lambda: False, seconds=1e6)
    after = _standing(world)
    changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    if wrong := [key for key in changed if key in before or (_owned(key, layout) and "/drivers/" not in key)]:
        raise Violation(f"the sealed output changed afterwards: {', '.join(sorted(wrong))}")
    check(world, layout)
    if world.rng.random() < 0.25:  # it costs as much as all else here, and is the same each time
        _resume(world, job, sealed=True)


def _resume(world: World, job: str, *, sealed: bool = False) -> str:
    pools = len(world.pools)
    process = world.start(job, host="carl", rows_per_shard=world.rng.choice(work.ROWS_PER_SHARD))
    world.until(lambda: not process.alive, seconds=1e6)
    end = world.ends.get(process)
    if not isinstance(end, RunSummary):
        raise Violation(f"an undisturbed run does not complete the job: {end!r}")
    if sealed and len(world.pools) > pools:
        raise Violation("a sealed job was run again")
    return world.audit.runs[process].job_id


def _job_of(world: World) -> str:
    bound = bound_identity(CalmStore(world.bucket))
    ids = {work.job_id(work.spec(job, rows_per_shard=2, takeover=False)): job for job in work.JOBS}
    return ids[bound.job_id] if bound else work.JOBS[0]


def _owned(key: str, layout: Layout) -> bool:
    return key.startswith((layout.private_prefix, layout.parts_prefix, "_SUCCESS", "_batchrec/OUTPUT.json", "errors/"))


def _standing(world: World) -> dict[str, bytes]:
    return {key: held.data for key, held in world.bucket.objects.items() if not key.endswith(_CHANGES)}


def check(world: World, layout: Layout) -> None:
    """Check a complete output with the project's own checker, and its rows against those of an undisturbed run.

    Raises:
        Violation: It does not hold.
    """
    calm = CalmStore(world.bucket)
    plan = list(Plan.from_parquet(calm.read(layout.plan_key)))
    found = verify(calm, layout, plan)
    # What zombies of a job that had the folder before leave there is foreign, and reported as such.
    faults = [fault for fault in found.faults if world.audit.epoch == 0 or "is no part of this job" not in fault]
    if faults or not found.complete or found.num_rows != work.NUM_ROWS:
        raise Violation(f"verify: complete={found.complete}, {found.num_rows} rows, {faults}")
    for shard in plan:
        footer = footer_of(calm.read(layout.part_key(shard.index)))
        assert footer is not None, "verify read it"
        given_up = dict(footer.num_errors) == {ErrorCode.SHARD_FAILED.value: shard.num_rows}
        if not given_up and footer.rows_sha256 != expected_rows(shard):
            raise Violation(f"shard {shard.index} has other rows than an undisturbed run")


@cache
def expected_rows(shard: Shard) -> str:
    """Return the digest of a shard's rows when nothing disturbs it."""
    rows = work.SimulatedRows().read(shard)
    table = prediction_rows(rows, making.predictions(shard), Attempt(shard, 1, ""), making.LABELS)
    data = encode_part(table, job_id="00", shard=shard.index, attempt_id="", facts={})
    footer = footer_of(data)
    assert footer is not None, "it was just written"
    return footer.rows_sha256
