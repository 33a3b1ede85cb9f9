"""The Ray this process is connected to: one of the run's own, or a cluster, and what its nodes offer."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import psutil
import ray
from ray.exceptions import RayError

from batchrec.engine.devices import Node
from batchrec.errors import Refused

# What an untouched local Ray would do by itself: ask about tokens, count usage at a distant host,
# start idle workers.
_LOCAL_ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_OBJECT_STORE_BYTES = 100 * 2**20
#: Without these Ray ends its driver, after up to a minute, with a log line and exit code 1.
_VITAL = ("raylet", "gcs_server")
#: Signals that ask a process to end.
ENDING = (signal.SIGTERM, signal.SIGHUP)
#: An address where nobody answers: that of the API server might be another Ray's.
_NOBODY = b"127.0.0.1:9"
#: Resource of the node that is the head.
_HEAD = "node:__internal_head__"


@contextmanager
def own_ray(num_cpus: int, slabs_bytes: int = 0) -> Iterator[None]:
    """Use a Ray of the run's own, started for it and stopped after it.

    Args:
        num_cpus: Cores it may give away.
        slabs_bytes: What decode helpers may have under way in its object store.
    """
    before = {name: os.environ.get(name) for name in _LOCAL_ENVIRONMENT}
    start_local_ray(num_cpus, slabs_bytes)
    try:
        yield
    finally:
        ray.shutdown()
        for name, value in before.items():
            # This process may connect to another cluster next, one with tokens.
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def start_local_ray(num_cpus: int, slabs_bytes: int = 0) -> None:
    """Start a Ray of this process's own on this machine, whatever RAY_ADDRESS says."""
    os.environ.update(_LOCAL_ENVIRONMENT)
    with _own_signals(), _deaf_children(), _no_api_server():
        ray.init(
            address="local",
            num_cpus=num_cpus,
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES + slabs_bytes,
            configure_logging=False,
            log_to_driver=True,
        )
    _shorten_its_end()


@contextmanager
def _no_api_server() -> Iterator[None]:
    """Start a Ray without its API server, which counts usage where there is no dashboard; Ray waits seconds for it."""
    from ray._private.node import Node

    start = getattr(Node, "start_api_server", None)  # no public name says so
    if start is not None:
        Node.start_api_server = _say_nobody_is_there
    try:
        yield
    finally:
        if start is not None:
            Node.start_api_server = start


def _say_nobody_is_there(node: Any, **_: Any) -> None:
    """Leave what an API server would: without its address Ray's agent looks for it, and logs an error, every second."""
    from ray._private import ray_constants

    node._webui_url = ""  # as Ray has it where there is no dashboard
    address, namespace = ray_constants.DASHBOARD_ADDRESS.encode(), ray_constants.KV_NAMESPACE_DASHBOARD
    node.get_gcs_client().internal_kv_put(address, _NOBODY, True, namespace)


def _shorten_its_end() -> None:
    """Keep ``ray.shutdown`` from waiting, a second for each process.

    The autoscaler's monitor goes at once, for a Ray of one machine has nothing to scale; the others are killed at the
    end, since they do not hear what would ask them first.
    """
    from ray._private import worker

    with suppress(AttributeError, KeyError):  # no name here is public
        node = worker._global_node
        node.kill_monitor(check_alive=False)
        raylet = node.all_processes["raylet"][0].process
        node.kill_all_processes = partial(_kill_at_once, node.kill_all_processes, raylet.pid)


def _kill_at_once(kill: Callable[..., None], raylet: int, **asked: bool) -> None:
    """Kill Ray's processes, and those of its raylet, some of which would look for it a minute."""
    try:
        below = psutil.Process(raylet).children(recursive=True)
    except psutil.NoSuchProcess:
        below = []
    kill(**{**asked, "allow_graceful": False})
    for process in below:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def missing_of_own_ray() -> str:
    """Name the processes of this process's own Ray that are dead and that it cannot do without."""
    from ray._private import worker

    node = worker._global_node  # no public name tells of it
    dead = [name for name, _ in node.dead_processes()] if node is not None else []
    return ", ".join(name for name in dead if name in _VITAL)


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
    """Keep our handler of SIGTERM: Ray puts one there that prints a stack and ends the process on the spot."""
    on_terminate = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_terminate)


@contextmanager
def _deaf_children() -> Iterator[None]:
    """Start processes that do not hear what asks this one to stop: whoever asks a whole group would end its Ray first.

    They are killed when this process ends. Ray does the same for SIGINT.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
