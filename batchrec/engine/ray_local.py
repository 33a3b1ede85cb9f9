"""A Ray of the run's own on this machine: as little of it as a run needs, started beside other work, ended at once."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import psutil
import ray

from batchrec.engine.ray_connection import ENDING

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
#: An address where nobody answers: that of the API server might be another Ray's.
_NOBODY = b"127.0.0.1:9"
#: Held while Ray's own names are replaced, so that no thread takes another's stand-in for the original.
_starting = threading.Lock()


class LocalRay:
    """A Ray of the run's own, started on a thread beside whatever its owner does meanwhile.

    The thread lives as long as the Ray: the kernel kills Ray's processes when the thread that started them ends.

    Args:
        num_cpus: Cores it may give away.
        slabs_bytes: What decode helpers may have under way in its object store.
    """

    def __init__(self, num_cpus: int, slabs_bytes: int = 0) -> None:
        self._environment = {name: os.environ.get(name) for name in _LOCAL_ENVIRONMENT}
        os.environ.update(_LOCAL_ENVIRONMENT)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batchrec-ray")
        self._started = self._thread.submit(_start, num_cpus, slabs_bytes)

    def wait(self) -> None:
        """Wait until it stands; raises what kept it from that."""
        self._started.result()

    def close(self) -> None:
        """End it, as soon as it stands; where it could not be started there may be another's, which is left alone."""
        try:
            with self._thread as thread:
                ended = thread.submit(self._end)
            ended.result()
        finally:
            for name, value in self._environment.items():
                # This process may connect to another cluster next, one with tokens.
                os.environ.pop(name, None) if value is None else os.environ.update({name: value})

    def _end(self) -> None:
        if self._started.exception() is None:
            ray.shutdown()


def _start(num_cpus: int, slabs_bytes: int) -> None:
    """Start a Ray on this machine, whatever RAY_ADDRESS says."""
    with _starting, _deaf_children(), _bare(), _nothing_said_of_threads():
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
def _bare() -> Iterator[None]:
    """Start a Ray without what only others' have a use for, and for which its start would wait, or share its cores.

    No name here is public. Where one that is replaced is gone, Ray starts with what it stood for.
    """
    from ray._private import utils
    from ray._private.node import Node

    with ExitStack() as replaced:
        # It counts usage where there is no dashboard.
        replaced.enter_context(_replaced(Node, "start_api_server", _say_nobody_is_there))
        # It adds machines to a cluster.
        replaced.enter_context(_replaced(Node, "start_monitor", _do_nothing))
        # It imports all that Ray's agent is about to import, to see whether it is installed. We require it.
        replaced.enter_context(_replaced(utils, "get_dashboard_dependency_error", _do_nothing))
        yield


@contextmanager
def _replaced(owner: Any, name: str, stand_in: Callable[..., None]) -> Iterator[None]:
    original = getattr(owner, name, None)
    if original is None:
        yield
        return
    setattr(owner, name, stand_in)
    try:
        yield
    finally:
        setattr(owner, name, original)


def _do_nothing(*_: Any, **__: Any) -> None:
    pass


def _say_nobody_is_there(node: Any, *_: Any, **__: Any) -> None:
    """Leave what an API server would: without its address Ray's agent looks for it, and logs an error, every second."""
    from ray._private import ray_constants

    node._webui_url = ""  # as Ray has it where there is no dashboard
    address, namespace = ray_constants.DASHBOARD_ADDRESS.encode(), ray_constants.KV_NAMESPACE_DASHBOARD
    node.get_gcs_client().internal_kv_put(address, _NOBODY, True, namespace)


@contextmanager
def _nothing_said_of_threads() -> Iterator[None]:
    """Keep Ray from warning that it sets no handler of SIGTERM off the main thread: we have one."""
    logger = logging.getLogger("ray._private.worker")
    logger.addFilter(_says_something_else)
    try:
        yield
    finally:
        logger.removeFilter(_says_something_else)


def _says_something_else(record: logging.LogRecord) -> bool:
    return "SIGTERM handler is not set" not in record.getMessage()


def _shorten_its_end() -> None:
    """Keep ``ray.shutdown`` from waiting, a second for each process, for those that do not hear what would ask them."""
    from ray._private import worker

    with suppress(AttributeError, KeyError):  # no name here is public
        node = worker._global_node
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


@contextmanager
def _deaf_children() -> Iterator[None]:
    """Start processes that do not hear what asks this one to stop: whoever asks a whole group would end its Ray first.

    They are killed when the thread that starts them ends. Ray does the same for SIGINT.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
