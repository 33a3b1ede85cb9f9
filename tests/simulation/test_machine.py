"""A state machine that Hypothesis drives: it chooses what happens, and when, and shrinks what fails."""

from __future__ import annotations

import random
from collections.abc import Callable

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.simulation import histories, work
from tests.simulation.ending import settle
from tests.simulation.faults import OF_CREATES, Fault
from tests.simulation.world import HOSTS, World

Choice = st.integers(0, 1 << 16)
_ACTS = tuple(dict.fromkeys(act for act in histories.ACTS if act is not histories.start))


class Job(RuleBasedStateMachine):
    """One folder and everything that may happen to it; ends like an undisturbed one, whatever did."""

    world: World

    @initialize(seed=Choice, poison=st.sampled_from(("", "", "", "raise", "kill", "gone")))
    def begin(self, seed: int, poison: str) -> None:
        self.world = World(seed, poison=poison)
        self.world.start()

    @precondition(lambda self: len(self.world.living()) < 3)
    @rule(
        job=st.sampled_from((*work.JOBS[:1] * 5, *work.JOBS)),
        host=st.sampled_from(HOSTS),
        takeover=st.booleans(),
        rows=st.sampled_from(work.ROWS_PER_SHARD),
    )
    def another_coordinator_starts(self, job: str, host: str, takeover: bool, rows: int) -> None:
        self.world.start(job, host=host, takeover=takeover, rows_per_shard=rows)

    @rule(steps=st.integers(1, 40))
    def all_go_on(self, steps: int) -> None:
        self.world.go_on(steps)

    @rule(fault=st.sampled_from(OF_CREATES), steps=st.integers(1, 20))
    def a_request_is_disturbed(self, fault: Fault, steps: int) -> None:
        self.world.stormy = True
        self.world.armed.append(fault)
        self.world.go_on(steps)

    @rule(act=st.sampled_from(_ACTS), choice=Choice)
    def something_happens(self, act: Callable[[World, random.Random], None], choice: int) -> None:
        act(self.world, random.Random(choice))

    def teardown(self) -> None:
        if hasattr(self, "world"):
            try:
                settle(self.world)
            finally:
                self.world.close()


TestJob = Job.TestCase
TestJob.settings = settings(
    max_examples=2000,
    stateful_step_count=50,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
