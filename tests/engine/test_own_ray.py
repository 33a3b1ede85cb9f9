"""What a Ray of the run's own is made of."""

from __future__ import annotations


def test_a_ray_of_the_runs_own_goes_without_the_api_server_that_only_counts_usage(local_ray: None) -> None:
    from ray._private import worker
    from ray._private.node import Node

    running = set(worker._global_node.all_processes)
    assert {"raylet", "gcs_server"} <= running
    assert "dashboard" not in running
    assert Node.start_api_server.__name__ == "start_api_server"  # others' Rays have theirs
