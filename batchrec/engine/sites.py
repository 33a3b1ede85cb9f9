"""Where a job's workers run: in this process, on a Ray of the run's own, or on a cluster that is there already."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Protocol

from batchrec.engine.devices import Placement, available_cores, place, place_here
from batchrec.engine.help_pool import LOTS_PER_HELPER, SLAB_BYTES
from batchrec.engine.inline_pool import InlinePool, Runner
from batchrec.engine.pool import Pool
from batchrec.spec import JobSpec

if TYPE_CHECKING:
    from batchrec.engine.ray_local import LocalRay


OpenPool = Callable[[Callable[[], Runner]], Pool]


class Site(Protocol):
    """A place for workers.

    Attributes:
        spans_machines: Whether workers may run where this process's disk cannot be seen.
    """

    spans_machines: bool

    def place(self, spec: JobSpec) -> Placement:
        """Decide how many workers run, and on what."""

    def starting(self, placement: Placement) -> AbstractContextManager[OpenPool]:
        """Begin to start what a pool needs beside whatever is done meanwhile, and end it afterwards.

        What this returns waits until it is started, and opens the pool.
        """


class ThisProcess:
    """Workers on threads of this process, without Ray."""

    spans_machines = False

    def place(self, spec: JobSpec) -> Placement:
        """See :class:`Site`."""
        return place_here(spec.device, workers=1)

    @contextmanager
    def starting(self, placement: Placement) -> Iterator[OpenPool]:
        """See :class:`Site`."""
        yield InlinePool


class OwnRay:
    """Workers on a Ray that is started for the run on this machine, whatever RAY_ADDRESS says."""

    spans_machines = False

    def place(self, spec: JobSpec) -> Placement:
        """See :class:`Site`."""
        return place_here(spec.device, workers=spec.workers, cores_per_worker=spec.cores_per_worker)

    @contextmanager
    def starting(self, placement: Placement) -> Iterator[OpenPool]:
        """See :class:`Site`."""
        from batchrec.engine.ray_local import LocalRay

        # Cores the workers leave free are there for decode helpers.
        num_cores = placement.num_threads * placement.num_workers
        num_free = max(0, available_cores() - num_cores) if placement.device != "cpu" else 0
        with closing(LocalRay(max(available_cores(), num_cores), num_free * LOTS_PER_HELPER * SLAB_BYTES)) as local:
            yield partial(_open_on, local, placement)


def _open_on(local: LocalRay, placement: Placement, make_worker: Callable[[], Runner]) -> Pool:
    from batchrec.engine.ray_local import missing_of_own_ray
    from batchrec.engine.ray_pool import RayPool

    local.wait()
    return RayPool(make_worker, placement, missing=missing_of_own_ray)


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
    def starting(self, placement: Placement) -> Iterator[OpenPool]:
        """See :class:`Site`."""
        from batchrec.engine.ray_pool import RayPool

        yield lambda make_worker: RayPool(make_worker, placement)


def site_of(spec: JobSpec) -> Site:
    """Return where a job runs that was submitted in this process."""
    if spec.pool == "inline":
        return ThisProcess()
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        return RayCluster()
    return OwnRay()
