"""Ranks as workers of Ray Train: each Ray worker starts one rank as a process of its own and passes its end on.

A process, because a rank ends itself with an exit code that means something, which a Ray actor cannot do.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from failures import BadInput

from .commands import passed_variables
from .request import Request, say, worker_of
from .restart import Attempt, supervise
from .topology import most_telling


def launch(request: Request) -> int:
    """Run the job on the cluster, again after crashes; returns its exit code."""
    cluster = request.cluster
    if not cluster.gpus:
        raise BadInput("kind ray needs to know how many ranks a machine runs: --gpus G (and --nodes N)")
    nodes, ranks = cluster.nodes or 1, cluster.gpus
    request.require_divisible(nodes * ranks)
    on_gpus = os.environ.get("DS_ACCELERATOR", "cuda") == "cuda"
    resources = {"CPU": float(cluster.ray.cpus_per_rank), **({"GPU": 1.0} if on_gpus else {})}
    if request.dry_run:
        print(f"# Ray cluster {cluster.ray.address}: {nodes * ranks} workers with {resources} each, running")
        print(f"python -m {' '.join(worker_of(request.stored_config))}")
        return 0
    stored = request.prepare(request.run, nodes * ranks)
    environment = {**passed_variables(os.environ, cluster.pass_environment), **cluster.environment}
    job = {"worker": worker_of(stored.absolute()), "environment": environment, "workdir": request.workdir}
    _connect(cluster.ray.address)

    def attempt() -> Attempt:
        return Attempt(_train(job, nodes * ranks, resources))

    def wait(seconds: float) -> bool:
        time.sleep(seconds)
        return False

    # ending this process ends Ray's workers; the ranks notice that theirs is gone, save and leave
    return supervise(attempt, cluster.restart, say=say, wait=wait)


def _connect(address: str) -> None:
    import ray

    try:
        ray.init(address=address, log_to_driver=True, configure_logging=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise BadInput(f"cluster.ray.address={address}: no Ray cluster answers there") from error


def _train(job: Mapping[str, Any], workers: int, resources: Mapping[str, float]) -> int:
    """One attempt: the most telling exit code of all ranks."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    trainer = TorchTrainer(
        _rank,
        train_loop_config=dict(job),
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu="GPU" in resources, resources_per_worker=dict(resources)
        ),
        # restarts are decided here, by exit code, not by Ray: bad input must not be tried again
        run_config=RunConfig(failure_config=FailureConfig(max_failures=0)),
    )
    try:
        trainer.fit()
    except Exception as error:
        codes = [int(code) for code in _codes_in(str(error))]
        if not codes:
            say(f"Ray Train: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
        return most_telling(codes) if codes else 1
    return 0


class RankEnded(Exception):
    """A rank ended with a code other than 0; the message carries it through Ray."""

    def __init__(self, code: int) -> None:
        super().__init__(f"rank-exit-code={code};")


def _codes_in(message: str) -> Sequence[str]:
    return [part.partition(";")[0] for part in message.split("rank-exit-code=")[1:]]


def _rank(job: dict[str, Any]) -> None:
    """In a Ray worker: run one rank to its end."""
    import ray.train
    from ray.train.collective import broadcast_from_rank_zero

    context = ray.train.get_context()
    # Ray's own process group holds the port of MASTER_PORT; the ranks meet at another of rank 0's machine
    address, port = broadcast_from_rank_zero(_free_address() if context.get_world_rank() == 0 else None)
    environment = {
        **os.environ, **job["environment"], "PYTHONSAFEPATH": "1", "MASTER_ADDR": address, "MASTER_PORT": str(port),
        "RANK": str(context.get_world_rank()), "WORLD_SIZE": str(context.get_world_size()),
        "LOCAL_RANK": str(context.get_local_rank()), "LOCAL_SIZE": str(context.get_local_world_size()),
    }  # fmt: skip
    done = subprocess.run([sys.executable, "-m", *job["worker"]], env=environment, cwd=job["workdir"])
    if done.returncode:
        raise RankEnded(done.returncode)


def _free_address() -> tuple[str, int]:
    import ray.util

    with socket.socket() as probe:
        probe.bind(("", 0))
        return str(ray.util.get_node_ip_address()), int(probe.getsockname()[1])
