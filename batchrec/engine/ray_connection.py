"""The Ray this process is connected to, and what its nodes offer."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import ray
from ray.exceptions import RayError

from batchrec.engine.devices import Node
from batchrec.errors import Refused

#: Signals that ask a process to end.
ENDING = (signal.SIGTERM, signal.SIGHUP)
#: Resource of the node that is the head.
_HEAD = "node:__internal_head__"


def join_ray() -> None:
    """Connect this process to the cluster it is part of, unless it is connected already.

    Raises:
        Refused: There is none.
    """
    if ray.is_initialized():
        return
    try:
        with _own_signals():
            ray.init(address="auto", configure_logging=False, log_to_driver=True)
    except (ConnectionError, RuntimeError, RayError) as error:
        raise Refused(
            "no Ray cluster is running here",
            found=(str(error).splitlines() or [type(error).__name__])[0],
            advice="`batchrec submit` starts one of its own, or goes to one with --address",
        ) from error


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep our handler of SIGTERM: Ray sets one on the main thread that prints a stack and ends the process."""
    on_terminate = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_terminate)


def cluster_nodes() -> list[Node]:
    """Return what the living nodes of the connected cluster offer to workers.

    A head with ``num-cpus: 0`` offers nothing; the coordinator, kept off it, then holds a core of another node.
    """
    here = ray.get_runtime_context().get_node_id()
    return [_offer(node["Resources"], node["NodeID"] == here) for node in ray.nodes() if node["Alive"]]


def _offer(resources: Mapping[str, float], is_here: bool) -> Node:
    held = int(is_here and _HEAD not in resources)
    return Node(max(0, int(resources.get("CPU", 0)) - held), int(resources.get("GPU", 0)))


def num_pending_nodes() -> int:
    """Return how many nodes an autoscaler is bringing; 0 where there is none, or it does not say."""
    from ray.autoscaler.v2.sdk import get_cluster_status

    try:
        status = get_cluster_status(ray.get_runtime_context().gcs_address)
    except (RayError, RuntimeError, OSError, ValueError):
        return 0
    return len(status.pending_nodes) + int(sum(launch.count for launch in status.pending_launches))
