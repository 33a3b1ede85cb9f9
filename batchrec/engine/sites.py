"""Where a job's workers run: in this process, on a Ray of the run's own, or on a cluster that is there already."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from batchrec.engine.devices import Placement, available_cores, place, place_here
from batchrec.engine.help_pool import LOTS_PER_HELPER, SLAB_BYTES
from batchrec.engine.inline_pool import InlinePool, Runner
from batchrec.engine.pool import Pool
from batchrec.spec import JobSpec


class Site(Protocol):
    """A place for workers.

    Attributes:
        spans_machines: Whether workers may run where this process's disk cannot be seen.
    """

    spans_machines: bool

    def place(self, spec: JobSpec) -> Placement:
        """Decide how many workers run, and on what."""

    def open_pool(self, placement: Placement, make_worker: Callable[[], Runner]) -> AbstractContextManager[Pool]:
        """Open the pool, and close whatever was started for it afterwards."""


class ThisProcess:
    """Workers on threads of this process, without Ray."""

    spans_machines = False

    def place(self, spec: JobSpec) -> Placement:
        """See :class:`Site`."""
        return place_here(spec.device, workers=1)

    @contextmanager
    def open_pool(self, placement: Placement, make_worker: Callable[[], Runner]) -> Iterator[Pool]:
        """See :class:`Site`."""
        yield InlinePool(make_worker)


class OwnRay:
    """Workers on a Ray that is started for the run on this machine, whatever RAY_ADDRESS says."""

    spans_machines = False

    def place(self, spec: JobSpec) -> Placement:
        """See :class:`Site`."""
        return place_here(spec.device, workers=spec.workers, cores_per_worker=spec.cores_per_worker)

    @contextmanager
    def open_pool(self, placement: Placement, make_worker: Callable[[], Runner]) -> Iterator[Pool]:
        """See :class:`Site`."""
        from batchrec.engine.ray_connection import missing_of_own_ray, own_ray
        from batchrec.engine.ray_pool import RayPool

        # Cores the workers leave free are there for decode helpers.
        num_cores = placement.num_threads * placement.num_workers
        num_free = max(0, available_cores() - num_cores) if placement.device != "cpu" else 0
        with own_ray(max(available_cores(), num_cores), num_free * LOTS_PER_HELPER * SLAB_BYTES):
            yield RayPool(make_worker, placement, missing=missing_of_own_ray)


class RayCluster:
    """Workers on the nodes of a cluster this process is connected to, or part of."""

    spans_machines = True

    def place(self, spec: JobSpec) -> Placement:
        """See :class:`Site`.

        Raises:
            Refused: There is no cluster here.
        """
        from batchrec.engine.ray_connection import cluster_nodes, join_ray

        join_ray()
        return place(cluster_nodes(), spec.device, workers=spec.workers, cores_per_worker=spec.cores_per_worker)

    @contextmanager
    def open_pool(self, placement: Placement, make_worker: Callable[[], Runner]) -> Iterator[Pool]:
        """See :class:`Site`."""
        from batchrec.engine.ray_pool import RayPool

        yield RayPool(make_worker, placement)


def site_of(spec: JobSpec) -> Site:
    """Return where a job runs that was submitted in this process."""
    if spec.pool == "inline":
        return ThisProcess()
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        return RayCluster()
    return OwnRay()
