"""Ranks as workers of Ray Train: each Ray worker starts one rank as a process of its own and passes its end on.

A process, because a rank ends itself with an exit code that means something, which a Ray actor cannot do.
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
from dnachunker.cluster.topology import most_telling
from dnachunker.foundations.failures import BadInput

_STOPPED = 130  # a shell's code for Ctrl-C: the ranks were ended, not asked to save


def launch(request: Request) -> int:
    """Run the job on the cluster, again after crashes; returns its exit code."""
    cluster = request.cluster
    if not cluster.gpus:
        raise BadInput("kind ray needs to know how many ranks a machine runs: --gpus G (and --nodes N)")
    nodes, ranks = cluster.nodes or 1, cluster.gpus
    request.require_divisible(nodes * ranks)
    cpus = float(cluster.ray.cpus_per_rank)
    if request.dry_run:
        each = f"{cpus:g} CPUs each, and a GPU where the cluster has any"
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
    """What each rank asks Ray for: its CPUs, and a GPU unless the cluster has none or the user chose CPUs.

    Raises:
        BadInput: the cluster has less than all of them need; Ray would wait for more without an end.
    """
    on_gpus = environment.get("DS_ACCELERATOR", "cuda") == "cuda" and available.get("GPU", 0.0) > 0
    share = {"CPU": cpus, **({"GPU": 1.0} if on_gpus else {})}
    for kind, each in share.items():
        if available.get(kind, 0.0) < each * ranks:
            raise BadInput(
                f"{ranks} ranks need {each * ranks:g} {kind}s and the Ray cluster has {available.get(kind, 0.0):g}; "
                "add machines to it, or lower --nodes, --gpus or cluster.ray.cpus_per_rank"
            )
    return share


def _attempt(job: Mapping[str, Any], ranks: int, resources: Mapping[str, float], stop: StopRequests) -> Attempt:
    ended: list[int] = []
    # not the main thread: there Ray would take Ctrl-C over, whose exit code says success
    trainer = threading.Thread(target=lambda: ended.append(_train(job, ranks, resources)), daemon=True)
    trainer.start()
    while trainer.is_alive() and not stop.count:
        trainer.join(0.5)
    if trainer.is_alive():
        _leave(_STOPPED, "stopped; the same command continues from the newest checkpoint")
    return Attempt(ended[0] if ended else 1, asked=stop.count > 0)


def _leave(code: int, last_words: str) -> NoReturn:
    """End this process at once, and with it the Ray workers of its job, and they their ranks.

    `ray.shutdown` would end it as well, with a code of its own: whatever a thread asks of Ray after a shutdown makes
    Ray exit the process with 1, and the thread that waits for the ranks asks all the time.
    """
    try:
        with contextlib.suppress(OSError, ValueError):  # a reader such as `tee` may have ended at the same signal
            say(last_words)
            sys.stdout.flush()
            sys.stderr.flush()
    finally:
        os._exit(code)


def _connect(address: str) -> dict[str, float]:
    """Join the cluster; returns what it has."""
    import ray

    try:
        ray.init(address=address, log_to_driver=True, configure_logging=False)
        return dict(ray.cluster_resources())
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
        codes = codes_in(error)
        if not codes:
            say(f"Ray Train: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
        return most_telling(codes) if codes else 1
    return 0


class RankEnded(Exception):
    """A rank ended with a code other than 0; the message carries it through Ray."""

    def __init__(self, code: int) -> None:
        super().__init__(f"rank-exit-code={code};")
        self.code = code

    def __reduce__(self) -> tuple[type["RankEnded"], tuple[int]]:
        return RankEnded, (self.code,)  # by default an exception is made again from its message


def codes_in(error: Exception) -> list[int]:
    """Exit codes of all ranks that an error of Ray Train tells of; its message alone may leave some out."""
    failures = getattr(error, "worker_failures", None) or {}
    messages = [str(error), *map(str, failures.values())]
    return [int(code) for text in messages for code in re.findall(r"rank-exit-code=(\d+);", text)]


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
        raise RankEnded(done.returncode if done.returncode > 0 else 128 - done.returncode)  # as shells say it


def _free_address() -> tuple[str, int]:
    import ray.util

    with socket.socket() as probe:
        probe.bind(("", 0))
        return str(ray.util.get_node_ip_address()), int(probe.getsockname()[1])
