"""Decode helpers as Ray actors, owned by the worker they help: when it goes, they go."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError, RayTaskError

from batchrec.engine.help_pool import (
    LOTS_PER_HELPER,
    Helper,
    HelperEvent,
    HelperLost,
    HelperReady,
    HelperTold,
    LotDecoded,
)
from batchrec.own_process import begin_actor
from batchrec.records import InHand

if TYPE_CHECKING:
    from batchrec.pipeline.lending import Slab


class RayHelp:
    """Helpers on any node of the connected Ray, one core each; see :class:`batchrec.engine.help_pool.HelpPool`."""

    def __init__(self) -> None:
        self.yields = False
        # A thread for each lot, and one that answers while they work.
        self._actor_class = ray.remote(
            num_cpus=1, num_gpus=0, max_restarts=0, max_task_retries=0, max_concurrency=LOTS_PER_HELPER + 1
        )(_HelperActor)
        self._handles: dict[int, Any] = {}
        self._num_started = 0
        self._waiting: dict[Any, tuple[int, Callable[[Any], HelperEvent]]] = {}

    def room(self) -> int:
        """See :class:`batchrec.engine.help_pool.HelpPool`."""
        return int(ray.available_resources().get("CPU", 0))

    def start(self, make_helper: Callable[[], Helper]) -> int:
        """See :class:`batchrec.engine.help_pool.HelpPool`."""
        number, self._num_started = self._num_started, self._num_started + 1
        handle = self._handles[number] = self._actor_class.remote(make_helper)
        self._waiting[handle.start.remote()] = number, lambda _: HelperReady(number)
        return number

    def send(self, helper: int, lot: int, uris: Sequence[str | None]) -> None:
        """See :class:`batchrec.engine.help_pool.HelpPool`."""
        self._waiting[self._handles[helper].decode.remote(uris)] = helper, partial(LotDecoded, helper, lot)

    def ask(self, helper: int) -> None:
        """See :class:`batchrec.engine.help_pool.HelpPool`."""
        self._waiting[self._handles[helper].in_hand.remote()] = helper, partial(HelperTold, helper)

    def wait(self, timeout_s: float) -> list[HelperEvent]:
        """See :class:`batchrec.engine.help_pool.HelpPool`."""
        if not self._waiting:
            time.sleep(timeout_s)
            return []
        ready, _ = ray.wait(list(self._waiting), timeout=timeout_s)
        return [self._event(reference) for reference in ready]

    def stop(self, helper: int) -> None:
        """See :class:`batchrec.engine.help_pool.HelpPool`."""
        ray.kill(self._handles.pop(helper), no_restart=True)
        self._waiting = {reference: owner for reference, owner in self._waiting.items() if owner[0] != helper}

    def _event(self, reference: Any) -> HelperEvent:
        helper, event = self._waiting.pop(reference)
        try:
            return event(ray.get(reference))
        except RayTaskError as error:
            return HelperLost(helper, str(error.cause), died=False)
        except RayError as error:
            return HelperLost(helper, type(error).__name__, died=True)


class _HelperActor:
    """The actor around a helper."""

    def __init__(self, make_helper: Callable[[], Helper]) -> None:
        begin_actor()
        self._helper = make_helper()

    def start(self) -> None:
        self._helper.start()

    def decode(self, uris: Sequence[str | None]) -> Slab:
        return self._helper.decode(uris)

    def in_hand(self) -> tuple[InHand, ...]:
        return self._helper.in_hand()
