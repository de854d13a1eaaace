"""A Ray cluster of two nodes with one core each, on this machine."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from dnachunker.foundations.ray_tasks import start_in_time

# No token, no usage reports, no warning about GPUs.
QUIET = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


@contextlib.contextmanager
def two_ray_nodes(**variables: str) -> Iterator[tuple[Any, Any]]:
    """A context manager that gives the cluster and its second node.

    Args:
        variables: environment variables of both nodes, and of this process inside the context.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**QUIET, **variables}.items():
            patch.setenv(name, value)
        from ray.cluster_utils import Cluster

        def start() -> tuple[Any, Any]:
            cluster, sizes = Cluster(), {"num_cpus": 1, "object_store_memory": 80 << 20}
            cluster.add_node(wait=False, include_dashboard=False, **sizes)
            second = cluster.add_node(wait=False, **sizes)
            cluster.wait_for_nodes(timeout=180)
            return cluster, second

        cluster, second = start_in_time(start, asked_by="two nodes")
        try:
            yield cluster, second
        finally:
            cluster.shutdown()
