"""A Ray of the run's own: what it goes without, what it starts beside, and what it leaves."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.ray


def test_a_ray_of_the_runs_own_has_no_api_server_and_its_agent_does_not_look_for_one(local_ray: None) -> None:
    from ray._private import ray_constants, worker

    node = worker._global_node
    assert {"raylet", "gcs_server"} <= set(node.all_processes)
    assert ray_constants.PROCESS_TYPE_DASHBOARD not in node.all_processes
    address = ray_constants.DASHBOARD_ADDRESS.encode()
    assert node.get_gcs_client().internal_kv_get(address, ray_constants.KV_NAMESPACE_DASHBOARD) == b"127.0.0.1:9"


def test_it_has_no_autoscaler(local_ray: None) -> None:
    from ray._private import ray_constants, worker

    assert ray_constants.PROCESS_TYPE_MONITOR not in worker._global_node.all_processes


def test_what_it_replaces_of_ray_is_others_again(local_ray: None) -> None:
    from ray._private import utils
    from ray._private.node import Node

    assert Node.start_api_server.__name__ == "start_api_server"
    assert Node.start_monitor.__name__ == "start_monitor"
    assert utils.get_dashboard_dependency_error.__name__ == "get_dashboard_dependency_error"


# In a process of its own, which has no Ray yet.
LIFE = """
import os, sys
import psutil
from batchrec.engine.devices import Placement
from batchrec.engine.ray_local import LocalRay
from batchrec.engine.sites import OwnRay

os.environ["RAY_AUTH_MODE"] = "token"
os.environ.pop("RAY_USAGE_STATS_ENABLED", None)
import ray

with OwnRay().starting(Placement("cpu", 1, 1)) as open_pool:
    assert not ray.is_initialized(), "it waits for its Ray before the pool is asked for"
    pool = open_pool(dict)
    assert ray.is_initialized()
    assert "ray.dashboard.optional_deps" not in sys.modules

    @ray.remote(num_cpus=1)
    def answer():
        return 42

    assert ray.get(answer.remote()) == 42
    children = psutil.Process().children(recursive=True)
    assert any("raylet" in child.name() for child in children), children
    second = LocalRay(1)
    try:
        second.wait()
        raise SystemExit("two Rays in one process")
    except RuntimeError:
        second.close()
    assert ray.get(answer.remote()) == 42, "one that could not start ended another"
assert not ray.is_initialized()
psutil.wait_procs(children, timeout=20)
assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
assert os.environ["RAY_AUTH_MODE"] == "token" and "RAY_USAGE_STATS_ENABLED" not in os.environ
LocalRay(1).close()  # ended before it stood
assert not ray.is_initialized()
"""


def test_it_starts_beside_other_work_and_leaves_no_process_setting_or_word() -> None:
    life = subprocess.run([sys.executable, "-c", LIFE], capture_output=True, text=True, timeout=300)
    assert (life.returncode, life.stdout, life.stderr) == (0, "", "")
