"""A Ray of the run's own goes without its API server."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.ray


def test_a_ray_of_the_runs_own_has_no_api_server_and_its_agent_does_not_look_for_one(local_ray: None) -> None:
    from ray._private import ray_constants, worker
    from ray._private.node import Node

    node = worker._global_node
    assert {"raylet", "gcs_server"} <= set(node.all_processes)
    assert ray_constants.PROCESS_TYPE_DASHBOARD not in node.all_processes
    address = ray_constants.DASHBOARD_ADDRESS.encode()
    assert node.get_gcs_client().internal_kv_get(address, ray_constants.KV_NAMESPACE_DASHBOARD) == b"127.0.0.1:9"
    assert Node.start_api_server.__name__ == "start_api_server"  # others' Rays have theirs
