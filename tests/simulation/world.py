"""A folder, machines, processes and an operator: everything that happens to a job, drawn from one seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

from batchrec.engine.inline_pool import Runner
from batchrec.engine.pool import AttemptFailed, AttemptPublished, Event, WorkerLost
from batchrec.errors import BatchrecError, Resumable
from batchrec.job import run_job
from batchrec.manifest.definition import Manifest
from batchrec.manifest.planning import Plan
from batchrec.output.layout import PREDICTIONS_PREFIX, Layout
from batchrec.records import Attempt
from batchrec.report.summary import RunSummary
from batchrec.spec import JobSpec
from tests.simulation import seams, work
from tests.simulation.auditing import Audit, Run
from tests.simulation.ending import judge_end
from tests.simulation.faults import CRASHES, OF_CREATES, OF_OTHERS, Fault
from tests.simulation.pooling import SimulatedPool, SimulatedSite
from tests.simulation.scheduling import Crashed, Process, Scheduler
from tests.simulation.storing import Bucket, SimulatedStore

#: Of the faults drawn at random, one in so many that would crash does.
_CRASH_SHARE = 0.3
#: A beat and a tick: how long a coordinator nobody disturbs may not know that it was superseded.
_NOTICED_WITHIN_S = 16.0
HOSTS = ("anna", "bert")


class World:
    """One history.

    Args:
        seed: Decides everything that is not decided by whoever calls.
        fault_rate: Share of the requests that are disturbed.
        poison: What becomes of a worker that predicts the first image: ``raise``, ``kill``, ``gone`` or nothing.
        tell: Given every event, for printing.
    """

    def __init__(
        self,
        seed: int,
        *,
        fault_rate: float = 0.0,
        poison: str = "",
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self.rng = random.Random(seed)
        self.scheduler = Scheduler(self.rng)
        self.bucket = Bucket()
        self.audit = Audit(self.bucket, lambda: self.scheduler.now, self.scheduler.fail)
        self.store = SimulatedStore(self.bucket, self.scheduler, self)
        self.fault_rate, self.poison = fault_rate, poison
        self.armed: list[Fault] = []
        # Whether all commands cut the same shards. Only then may the folder be emptied: a worker that does not know
        # of it may publish a part of the plan before, which nothing but `verify` tells from one of the plan now.
        self.one_version = self.rng.random() < 0.5
        self.stormy = fault_rate > 0
        self.expired = False
        self.chatty = True
        self.coordinators: list[Process] = []
        self.pools: list[SimulatedPool] = []
        self.ends: dict[Process, RunSummary | BatchrecError | None] = {}
        self._tell = tell
        self._numbers = 0
        self._pids: dict[tuple[str, int], Process] = {}

    # What whoever writes a history may do.

    def start(
        self, job: str = "wanted", *, host: str = "anna", takeover: bool = False, rows_per_shard: int = 2
    ) -> Process:
        """Start a coordinator."""
        process = self._process(f"coordinator-{len(self.coordinators)}", host)
        rows_per_shard = work.ROWS_PER_SHARD[0] if self.one_version else rows_per_shard
        spec = work.spec(job, rows_per_shard=rows_per_shard, takeover=takeover)
        layout = Layout(work.job_id(spec))
        run = Run(job, layout.job_id, takeover, stood=self.standing(layout))
        self.audit.runs[process] = run
        self.coordinators.append(process)
        self.scheduler.spawn(process, "main", partial(self._live, process, spec))
        self.say(f"{process.name} starts job {job} on {host}, {rows_per_shard} rows a shard{' --takeover' * takeover}")
        return process

    def go_on(self, steps: int) -> None:
        """Let everybody run for so many steps."""
        with seams.inhabited(self):
            self.scheduler.run(steps=steps)

    def until(self, condition: Callable[[], bool], *, seconds: float = 1e12) -> None:
        """Let everybody run until something is so, or nobody has anything to do."""
        with seams.inhabited(self):
            self.scheduler.run(until=condition, seconds=seconds)

    def living(self) -> list[Process]:
        """Return the coordinators that have not ended, stopped ones too."""
        return [process for process in self.coordinators if process.alive]

    def kill(self, process: Process) -> None:
        """Kill -9."""
        self.say(f"{process.name} is killed")
        self.scheduler.kill(process)

    def stop(self, process: Process, seconds: float) -> None:
        """SIGSTOP, and SIGCONT so much later."""
        self.say(f"{process.name} is stopped for {seconds:.0f} s")
        process.stopped_until = self.scheduler.now + seconds

    def workers(self) -> list[tuple[SimulatedPool, int]]:
        """Return the workers of pools that are open."""
        return [
            (pool, number)
            for pool in self.pools
            if pool.owner.alive
            for number, worker in enumerate(pool.workers)
            if worker.process.alive
        ]

    def partition(self, pool: SimulatedPool, number: int) -> None:
        """Make a worker look lost that goes on: a zombie."""
        self.say(f"{pool.workers[number].process.name} looks lost")
        pool.lose(number, with_node=self.rng.random() < 0.5, delay_s=0.0)

    def is_sealing(self, process: Process) -> bool:
        """Whether a coordinator's workers are done."""
        layout = Layout(self.audit.runs[process].job_id)
        # What was littered counts: a coordinator goes by the names, until it reads what is there.
        done = [key for key in self.bucket.objects if layout.shard_of(key) is not None]
        return any(pool.owner is process and pool.closed for pool in self.pools) or (
            len(done) > 0 and len(done) >= len(self.plan(layout))
        )

    def jump_clock(self, seconds: float) -> None:
        """Set the store's clock to another time."""
        self.say(f"the store's clock jumps by {seconds:.0f} s")
        self.bucket.clock_offset_s += seconds

    def litter(self, shard: int, data: bytes) -> bool:
        """Put something under the name of a part; whether there was room."""
        bound = self.audit.bound_job_id()
        key = Layout(str(bound)).part_key(shard)
        if bound is None or key in self.bucket.objects or shard >= len(self.plan(Layout(bound))):
            return False
        self.say(f"somebody puts {len(data)} foreign bytes under {key}")
        self.audit.garbage.add(key)
        self.audit.garbage_ever = True
        self.bucket.put(key, data, self.scheduler.now)
        return True

    def make_room(self, layout: Layout) -> None:
        """Move away from a folder of no job the parts that zombies of others left, as the message advises."""
        parts = [key for key in self.bucket.objects if key.startswith(PREDICTIONS_PREFIX)]
        if self.audit.bound_job_id() is None:
            for key in (key for key in parts if not key.startswith(layout.parts_prefix)):
                self.say(f"somebody moves {key} away, which is another job's")
                self.bucket.objects.pop(key)

    def tidy(self) -> None:
        """Move away what was littered, as the messages advise."""
        for key in sorted(self.audit.garbage):
            self.say(f"somebody moves {key} away")
            self.bucket.objects.pop(key, None)
        self.audit.garbage.clear()

    def wipe(self) -> None:
        """Empty the folder, as an operator does who thinks that nobody uses it."""
        self.say("the folder is emptied")
        self.bucket.objects.clear()
        self.audit.wiped()

    def standing(self, layout: Layout) -> frozenset[int]:
        """Return the shards whose parts stand."""
        found = (layout.shard_of(key) for key in self.bucket.objects if key not in self.audit.garbage)
        return frozenset(shard for shard in found if shard is not None)

    def plan(self, layout: Layout) -> list[int]:
        """Return the plan that stands, as rows by shard."""
        held = self.bucket.objects.get(layout.plan_key)
        return [shard.num_rows for shard in Plan.from_parquet(held.data)] if held else []

    def say(self, line: str) -> None:
        """Print a line of the history, if it is printed."""
        if self._tell is not None:
            self._tell(f"{self.scheduler.now:9.2f}  {line}")

    def close(self) -> None:
        """Unwind whatever is left."""
        with seams.inhabited(self):
            self.chatty = False
            self.scheduler.clear()

    # What the code under test meets.

    def next_number(self) -> int:
        """Return a number that was not there before."""
        self._numbers += 1
        return self._numbers

    def pid_started(self, host: str, pid: int) -> int | None:
        """Return when a process started; None for one that is gone."""
        process = self._pids.get((host, pid))
        return pid if process is not None and process.alive else None

    def manifest_of(self, spec: JobSpec) -> Manifest:
        """Return the manifest a job names."""
        return work.manifest(spec.source[0])

    def predicting(self, first: int) -> str:
        """Take the time a shard takes, and say what becomes of it."""
        self.scheduler.pause(1 + 20 * self.rng.random())
        if first == 0 and self.poison == "kill":
            self.scheduler.kill(self.scheduler.process)
            raise Crashed
        return self.poison if first == 0 and self.poison else "expired" if self.expired else ""

    def asked(self, process: Process, operation: str, key: str) -> Fault | None:
        """Judge a request before it is made, and draw what becomes of it."""
        if operation == "create" and "/drivers/" in key:
            self.audit.claiming(process, key)
        fault = self._draw(operation)
        if fault is Fault.DENIED and process in self.audit.runs:
            self.audit.runs[process].met_denial = True
        if self._tell is not None:
            self.say(f"{process.name}: {operation} {key}" + (f"  -- {fault.value}" if fault else ""))
        return fault

    def created(self, process: Process, key: str, data: bytes) -> None:
        """See :class:`tests.simulation.storing.Watcher`."""
        self.audit.created(process, key, data)

    def overwritten(self, process: Process, key: str, data: bytes) -> None:
        """See :class:`tests.simulation.storing.Watcher`."""
        self.audit.overwritten(process, key, data)

    def deleted(self, process: Process, key: str) -> None:
        """See :class:`tests.simulation.storing.Watcher`."""
        self.scheduler.fail(f"{process.name} deleted {key}")

    def listed(self, process: Process, prefix: str, keys: list[str]) -> None:
        """Note what a coordinator finds done."""
        run = self.audit.runs[process]
        layout = Layout(run.job_id)
        if prefix == layout.parts_prefix and not any(pool.owner is process for pool in self.pools):
            run.done_listed = frozenset(s for key in keys if (s := layout.shard_of(key)) is not None)

    def new_worker(self, coordinator: Process) -> Process:
        """See :class:`tests.simulation.pooling.Fates`."""
        process = self._process(f"worker-{len(self._pids)} of {coordinator.name}", coordinator.host)
        process.epoch = coordinator.epoch
        self.audit.runs[process] = self.audit.runs[coordinator]
        return process

    def message_delays_s(self) -> list[float]:
        """Draw when a message comes, and whether it comes again."""
        if not self.chatty or self.rng.random() > 0.2:
            return [0.0]
        delay_s = self.rng.choice((0.0, 3.0, 60.0))
        return [delay_s, delay_s + self.rng.choice((0.0, 8.0, 30.0))]

    def outlives(self, worker: Process) -> bool:
        """Draw whether a worker goes on after its pool was closed."""
        return self.rng.random() < 0.5

    def dispatched(self, pool: SimulatedPool, worker: int, attempt: Attempt) -> None:
        """Judge what a coordinator hands out."""
        run, shard, held = self.audit.runs[pool.owner], attempt.shard.index, pool.in_flight[worker]
        self.say(f"{pool.owner.name} gives {attempt.attempt_id} to {pool.workers[worker].process.name}")
        elsewhere = [each.shard.index for held in pool.in_flight.values() for each in held.values()]
        if shard in run.stood and pool.owner.epoch == self.audit.epoch:
            self.scheduler.fail(f"shard {shard} stood already and is done again")
        if held and run.suspects & {shard, *(each.shard.index for each in held.values())}:
            self.scheduler.fail(f"shard {shard} is suspected of killing its worker and does not run alone")
        if run.past_a_cap(shard):
            self.scheduler.fail(f"shard {shard} is past its caps and handed out again")
        calm = not self.stormy and pool.owner.stopped_until < self.scheduler.now - _NOTICED_WITHIN_S
        if calm and self.audit.superseded_for_s(pool.owner) > _NOTICED_WITHIN_S:
            self.scheduler.fail(f"{pool.owner.name} was superseded long ago and hands out shard {shard}")
        if shard in elsewhere or len(held) >= pool.shards_per_worker:
            self.scheduler.fail(f"shard {shard} is in flight already, or its worker is full")

    def delivered(self, pool: SimulatedPool, event: Event) -> None:
        """Count what a coordinator is told, as it should count."""
        run = self.audit.runs[pool.owner]
        self.say(f"{pool.owner.name} hears {event}"[:160])
        if isinstance(event, WorkerLost):
            lost = {each.shard.index for each in pool.in_flight[event.worker].values()}
            pool.in_flight[event.worker].clear()
            if not event.with_node:
                run.suspects |= lost
                run.num_lost.update(lost)
                run.may_still_be_had -= lost
        elif isinstance(event, AttemptPublished | AttemptFailed):
            attempt = pool.in_flight[event.worker].pop(event.attempt.attempt_id, None)
            key = Layout(run.job_id).part_key(event.attempt.shard.index)
            # What was published before the folder was emptied is told truly, whatever was put there since.
            is_of_now = pool.owner.epoch == self.audit.epoch and isinstance(event, AttemptPublished)
            if is_of_now and key in self.audit.garbage and self.audit.foreign(key):
                self.scheduler.fail(f"{key} is foreign, and its shard is called published")
            if attempt is not None and isinstance(event, AttemptFailed):
                shard = attempt.shard.index
                run.num_failed[shard] += 1
                (run.may_still_be_had.add if isinstance(event.error, Resumable) else run.may_still_be_had.discard)(
                    shard
                )

    def _draw(self, operation: str) -> Fault | None:
        if self.armed:
            fault = self.armed.pop()
            return fault if operation == "create" or fault in OF_OTHERS else None
        if not self.fault_rate or self.rng.random() > self.fault_rate:
            return None
        fault = self.rng.choice(OF_CREATES if operation == "create" else OF_OTHERS)
        return None if fault in CRASHES and self.rng.random() > _CRASH_SHARE else fault

    def _process(self, name: str, host: str) -> Process:
        pid = 100 + len(self._pids)
        process = Process(name, host, pid, epoch=self.audit.epoch, born_at=self.scheduler.now)
        self._pids[host, pid] = process
        return process

    def _live(self, process: Process, spec: JobSpec) -> None:
        site = SimulatedSite(partial(self._open_pool, process))
        try:
            self.ends[process] = run_job(spec, site=site, model=work.MODEL)
        except BatchrecError as error:
            self.ends[process] = error
        self.say(f"{process.name} ends: {getattr(self.ends[process], 'verdict', self.ends[process])}")
        judge_end(self, process, self.ends[process])
        self.scheduler.kill(process)

    def _open_pool(self, owner: Process, make_worker: Callable[[], Runner]) -> SimulatedPool:
        pool = SimulatedPool(self.scheduler, self, make_worker, owner)
        self.pools.append(pool)
        return pool
