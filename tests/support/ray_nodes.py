"""A Ray cluster of two nodes with one core each, on this machine."""

import contextlib
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

# Without a token; and no warning about GPUs, no report to anybody.
QUIET = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
_STARTS = 4  # Ray gives a node half a minute to come up, whatever else the machine has to do


@contextlib.contextmanager
def two_ray_nodes(**variables: str) -> Iterator[tuple[Any, Any]]:
    """The cluster and its second node; `variables` are of the environment of both, and of this process meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**QUIET, **variables}.items():
            patch.setenv(name, value)
        from ray.cluster_utils import Cluster

        for left in reversed(range(_STARTS)):
            cluster = Cluster()
            others = set(psutil.Process().children(recursive=True))
            try:
                sizes = {"num_cpus": 1, "object_store_memory": 80 << 20}
                cluster.add_node(wait=False, include_dashboard=False, **sizes)
                second = cluster.add_node(wait=False, **sizes)
                cluster.wait_for_nodes(timeout=180)
                break
            except Exception as error:
                if not left or "time" not in str(error).lower():
                    raise
                with contextlib.suppress(Exception):
                    cluster.shutdown()
                for process in set(psutil.Process().children(recursive=True)) - others:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
        try:
            yield cluster, second
        finally:
            cluster.shutdown()
