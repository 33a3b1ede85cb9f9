"""A whole job is struck at every one of its operations on the store in turn, and ends all the same."""

from __future__ import annotations

import pytest

from tests.simulation.ending import settle
from tests.simulation.faults import OF_OTHERS, Fault
from tests.simulation.world import World

#: Eight shards: a row each.
_SHARDS = 8


class StruckWorld(World):
    """One in which nothing happens but one fault.

    Args:
        at: The number of the request that meets it, counted from 1.
        fault: What becomes of that one.
    """

    def __init__(self, at: int, fault: Fault) -> None:
        super().__init__(seed=0)  # so that all is the same until then
        self.one_version = self.chatty = False
        self._at, self._fault = at, fault
        self.num_asked, self.creates = 0, list[int]()

    def _draw(self, operation: str) -> Fault | None:
        self.num_asked += 1
        if operation == "create":
            self.creates.append(self.num_asked)
        struck = self.num_asked == self._at
        return self._fault if struck and (operation == "create" or self._fault in OF_OTHERS) else None


def run(world: StruckWorld, coordinators: int) -> None:
    """Let the job be run by so many at once, of whom the second takes it over, until all ended."""
    for number in range(coordinators):
        world.start(host=("anna", "bert")[number], takeover=number > 0, rows_per_shard=1)
    world.until(lambda: not world.living(), seconds=1e6)


@pytest.mark.parametrize("coordinators", [1, 2])
@pytest.mark.parametrize("fault", [Fault.CRASH_BEFORE, Fault.CRASH_AFTER, Fault.CRASH_LATE, Fault.LOST_AFTER])
def test_a_job_struck_at_any_operation_ends_complete(fault: Fault, coordinators: int) -> None:
    watched = StruckWorld(0, fault)
    run(watched, coordinators)
    assert sum(key.startswith("predictions/") for key in watched.bucket.objects) == _SHARDS
    num_asked, creates = watched.num_asked, watched.creates
    settle(watched)
    watched.close()
    for at in creates if fault not in OF_OTHERS else range(1, num_asked + 1):
        world = StruckWorld(at, fault)
        run(world, coordinators)
        assert world.num_asked >= at, "it was struck"
        settle(world)
        world.close()
