"""Kind ray: each worker of Ray Train starts one rank as a separate process and reports its exit code.

A separate process is needed because a rank reports how it ended by its exit code, and a Ray actor has none.
"""

import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any, NoReturn

from dnachunker.cluster.argv import passed_variables
from dnachunker.cluster.request import Request, say, worker_of
from dnachunker.cluster.restart import Attempt, supervise
from dnachunker.cluster.stop_requests import StopRequests
from dnachunker.cluster.topology import job_exit_code
from dnachunker.foundations.failures import BadInput, one_line

_STOPPED = 130  # the code of shells for Ctrl-C: the ranks were ended and could not save


def launch(request: Request) -> int:
    """Train on the Ray cluster, and start again after a crash; returns the exit code.

    Raises:
        BadInput: no number of ranks, a number that does not divide the run's batches, no Ray cluster at the address, or
            a cluster that is too small.
    """
    cluster = request.cluster
    if not cluster.gpus:
        raise BadInput("kind ray needs --gpus G, the number of ranks on each machine (and --nodes N)")
    nodes, ranks = cluster.nodes or 1, cluster.gpus
    request.require_divisible(nodes * ranks)
    cpus = float(cluster.ray.cpus_per_rank)
    if request.dry_run:
        each = f"{cpus:g} CPUs each, and a GPU each if the cluster has GPUs"
        print(f"# Ray cluster {cluster.ray.address}: {nodes * ranks} workers with {each}, running")
        print(f"python -m {' '.join(worker_of(request.stored_config))}")
        return 0
    stored = request.prepare(request.run, nodes * ranks)
    environment = {**passed_variables(os.environ, cluster.pass_environment), **cluster.environment}
    job = {"worker": worker_of(stored.absolute()), "environment": environment, "workdir": request.workdir}
    resources = share_of_a_rank(_connect(cluster.ray.address), nodes * ranks, cpus, environment)
    with StopRequests() as stop:
        return supervise(
            lambda: _attempt(job, nodes * ranks, resources, stop), cluster.restart, say=say, wait=stop.wait
        )


def share_of_a_rank(
    available: Mapping[str, float], ranks: int, cpus: float, environment: Mapping[str, str]
) -> dict[str, float]:
    """The resources that each rank requests from Ray: CPUs, and one GPU if the cluster has any and the user allows it.

    Args:
        available: resources of the cluster, by Ray's name.
        cpus: CPU cores of each rank.
        environment: variables of the ranks; DS_ACCELERATOR=cpu means no GPUs.

    Raises:
        BadInput: the cluster has less than all ranks need. (Ray would wait for more resources for ever.)
    """
    on_gpus = environment.get("DS_ACCELERATOR", "cuda") == "cuda" and available.get("GPU", 0.0) > 0
    share = {"CPU": cpus, **({"GPU": 1.0} if on_gpus else {})}
    for kind, each in share.items():
        if available.get(kind, 0.0) < each * ranks:
            raise BadInput(
                f"{ranks} ranks need {each * ranks:g} {kind}s, but the Ray cluster has {available.get(kind, 0.0):g}; "
                "add machines to the cluster, or lower --nodes, --gpus or cluster.ray.cpus_per_rank"
            )
    return share


def _attempt(job: Mapping[str, Any], ranks: int, resources: Mapping[str, float], stop: StopRequests) -> Attempt:
    ended: list[int] = []
    # not in the main thread: there Ray handles Ctrl-C itself and would exit with the code of success
    trainer = threading.Thread(target=lambda: ended.append(_train(job, ranks, resources)), daemon=True)
    trainer.start()
    while trainer.is_alive() and not stop.count:
        trainer.join(0.5)
    if trainer.is_alive():
        _exit_at_once(_STOPPED, "stopped; the same command continues from the newest checkpoint")
    return Attempt(ended[0] if ended else 1, asked=stop.count > 0)


def _exit_at_once(code: int, message: str) -> NoReturn:
    """End this process at once. Ray then ends the workers of its job, and with them their ranks.

    `ray.shutdown` cannot be used here: the thread that waits for the ranks keeps calling Ray, and a call after the
    shutdown makes Ray exit the process with code 1.
    """
    try:
        with contextlib.suppress(OSError, ValueError):  # a reader such as `tee` may have ended at the same signal
            say(message)
            sys.stdout.flush()
            sys.stderr.flush()
    finally:
        os._exit(code)


def _connect(address: str) -> dict[str, float]:
    """Connect to the cluster; returns its resources."""
    import ray

    try:
        ray.init(address=address, log_to_driver=True, configure_logging=False)
        return dict(ray.cluster_resources())
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise BadInput(f"cluster.ray.address={address}: no Ray cluster answers there") from error


def _train(job: Mapping[str, Any], workers: int, resources: Mapping[str, float]) -> int:
    """Run one attempt; returns the exit code that `job_exit_code` chooses among those of the ranks."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    trainer = TorchTrainer(
        _rank,
        train_loop_config=dict(job),
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu="GPU" in resources, resources_per_worker=dict(resources)
        ),
        # Ray must not restart: `supervise` decides by exit code, because bad input must not be tried again
        run_config=RunConfig(failure_config=FailureConfig(max_failures=0)),
    )
    try:
        trainer.fit()
    except Exception as error:
        codes = codes_in(error)
        if not codes:
            say(f"Ray Train: {type(error).__name__}: {one_line(error)[:300]}")
        return job_exit_code(codes) if codes else 1
    return 0


class RankEnded(Exception):
    """A rank ended with a code other than 0. Ray passes on only the message, so the message contains the code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"rank-exit-code={code};")
        self.code = code

    def __reduce__(self) -> tuple[type["RankEnded"], tuple[int]]:
        return RankEnded, (self.code,)  # the default would call RankEnded(message) when it is unpickled


def codes_in(error: Exception) -> list[int]:
    """Exit codes of all ranks in an error of Ray Train; the error's own message may leave some out."""
    failures = getattr(error, "worker_failures", None) or {}
    messages = [str(error), *map(str, failures.values())]
    return [int(code) for text in messages for code in re.findall(r"rank-exit-code=(\d+);", text)]


def _rank(job: dict[str, Any]) -> None:
    """Run one rank and wait for its end; called in a Ray worker."""
    import ray.train
    from ray.train.collective import broadcast_from_rank_zero

    context = ray.train.get_context()
    # Ray's own process group uses the port in MASTER_PORT, so the ranks meet at another port of rank 0's machine
    address, port = broadcast_from_rank_zero(_free_address() if context.get_world_rank() == 0 else None)
    environment = {
        **os.environ, **job["environment"], "PYTHONSAFEPATH": "1", "MASTER_ADDR": address, "MASTER_PORT": str(port),
        "RANK": str(context.get_world_rank()), "WORLD_SIZE": str(context.get_world_size()),
        "LOCAL_RANK": str(context.get_local_rank()), "LOCAL_SIZE": str(context.get_local_world_size()),
    }  # fmt: skip
    done = subprocess.run([sys.executable, "-m", *job["worker"]], env=environment, cwd=job["workdir"])
    if done.returncode:
        raise RankEnded(done.returncode if done.returncode > 0 else 128 - done.returncode)  # as shells report signals


def _free_address() -> tuple[str, int]:
    """Address of this machine in the Ray cluster, and a free TCP port."""
    import ray.util

    with socket.socket() as probe:
        probe.bind(("", 0))
        return str(ray.util.get_node_ip_address()), int(probe.getsockname()[1])
