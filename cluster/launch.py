"""The verb `launch`: one run config, any cluster."""

import argparse
import hashlib
import os
import shlex
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dnachunker.pretrain.config import PretrainConfig

    from .config import ClusterConfig
    from .request import Request
    from .topology import Host

LAUNCH_HELP = "train on several machines, with supervised restarts"

_DESCRIPTION = """Start a pretraining run where --on says, watch it, and start it again after a crash or a lost machine.
The run's config stays the one of `dnachunker pretrain`; what concerns the cluster stands in a file of its own, whose
keys can also be given as cluster.KEY=VALUE."""

_EXAMPLES = """examples:
  dnachunker launch --config tiny --corpus corpora/sample --run runs/first --on local
  dnachunker launch --config dnachunker-172m --corpus /data/hg38 --run /data/runs/paper --on hosts --hostfile hosts.txt
  dnachunker launch --config dnachunker-172m --corpus /data/hg38 --run /data/runs/paper --on slurm --nodes 4 --gpus 8
  dnachunker launch ... --on my-cluster.yaml cluster.restart.min_nodes=2 --dry-run
exit codes: those of pretrain; 3 after a stop you asked for (on ray 130: its ranks end unsaved)"""


def add_launch_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLES
    add_where_arguments(parser)
    parser.add_argument("--shard", metavar="FILE|PRESET", help="kubernetes: also build the corpus, from this config")
    parser.add_argument("--dry-run", action="store_true", help="print exactly what would run, and stop")


def add_where_arguments(parser: argparse.ArgumentParser) -> None:
    """Which run, and where."""
    parser.add_argument("--config", required=True, metavar="FILE|PRESET", help="the run: YAML file or preset")
    parser.add_argument(
        "--on", required=True, metavar="KIND|FILE",
        help="local | hosts | slurm | kubernetes | ray, or a YAML file that begins with one of these as `kind`",
    )  # fmt: skip
    parser.add_argument("--corpus", help="corpus folder (short for data.corpus=...)")
    parser.add_argument("--run", help="run folder on shared storage (short for run=...)")
    parser.add_argument("--nodes", type=int, metavar="N", help="machines (short for cluster.nodes=N)")
    parser.add_argument("--gpus", type=int, metavar="G", help="ranks on each (short for cluster.gpus=G)")
    parser.add_argument("--hostfile", metavar="FILE", help="short for cluster.hosts.hostfile=FILE")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="override keys of the run, or of the cluster: cluster.KEY"
    )


def read_configs(arguments: argparse.Namespace) -> "tuple[PretrainConfig, ClusterConfig]":
    """Both configs, with the command line's short forms applied.

    Raises:
        BadInput: as `load_config`.
    """
    from dnachunker.foundations.typed_config import load_config
    from dnachunker.pretrain.config import PretrainConfig

    from .config import ClusterConfig

    prefix = "cluster."
    for_cluster = [text.removeprefix(prefix) for text in arguments.overrides if text.startswith(prefix)]
    for_run = [text for text in arguments.overrides if not text.startswith(prefix)]
    given = {"nodes": arguments.nodes, "gpus": arguments.gpus, "hosts.hostfile": arguments.hostfile}
    cluster = load_config(ClusterConfig, arguments.on, for_cluster, kind="cluster", settings=_named(given))
    given = {"data.corpus": arguments.corpus, "run": arguments.run}
    run = load_config(PretrainConfig, arguments.config, for_run, kind="pretrain", settings=_named(given))
    return run, cluster


def _named(flags: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in flags.items() if value is not None}


def run_launch(arguments: argparse.Namespace) -> int:
    """Run the verb; returns the exit code."""
    from dnachunker.foundations.failures import BadInput

    from .request import Request

    run, cluster = read_configs(arguments)
    if arguments.shard and cluster.kind != "kubernetes":
        raise BadInput("--shard belongs to kind kubernetes; here, run `dnachunker shard` (with --ray on a Ray cluster)")
    if cluster.workdir not in (None, os.getcwd()) and not os.path.isabs(run.run):
        raise BadInput(f"run={run.run} would mean another folder in cluster.workdir than here; give its whole path")
    request = Request(run, cluster, arguments.prepare, arguments.dry_run)
    match cluster.kind:
        case "local":
            return _on_this_machine(request)
        case "hosts":
            return _on_hosts(request)
        case "slurm":
            from . import slurm

            return slurm.launch(request)
        case "kubernetes":
            from dnachunker.dataprep.config import CorpusConfig
            from dnachunker.foundations.typed_config import load_config

            from . import kubernetes

            corpus = load_config(CorpusConfig, arguments.shard, kind="corpus") if arguments.shard else None
            return kubernetes.launch(request, corpus)
        case "ray":
            from . import ray_cluster

            return ray_cluster.launch(request)


def _on_this_machine(request: "Request") -> int:
    from dnachunker.foundations.failures import BadInput

    from .local import run_local, visible_gpus
    from .request import say, worker_of
    from .restart import Attempt, supervise
    from .stop_requests import StopRequests

    cluster, gpus = request.cluster, len(visible_gpus())
    ranks = cluster.gpus or gpus or 2
    if (cluster.nodes or 1) > 1:
        raise BadInput("kind local is this machine alone; for more, use --on hosts, slurm, kubernetes or ray")
    if gpus and ranks > gpus:
        raise BadInput(f"{ranks} ranks need {ranks} GPUs and {gpus} are visible; lower --gpus")
    request.require_divisible(ranks)
    if request.dry_run:
        print(shlex.join([sys.executable, "-m", *worker_of(request.stored_config)]), f"# {ranks} ranks here")
        return 0
    worker = worker_of(request.prepare(request.run, ranks))
    environment = {**os.environ, **cluster.environment}
    with StopRequests() as stop:

        def attempt() -> Attempt:
            return Attempt(run_local(worker, ranks, environment, on_signal=stop.note), asked=stop.count > 0)

        return supervise(attempt, cluster.restart, say=say, wait=stop.wait)


def hosts_and_ranks(cluster: "ClusterConfig") -> "tuple[list[Host], int]":
    """The machines of a hostfile that take part, and the ranks of each.

    Raises:
        BadInput: no hostfile, too few machines in it, or no number of ranks.
    """
    from dnachunker.foundations.failures import BadInput

    from .topology import ranks_per_node, read_hostfile

    if not cluster.hosts.hostfile:
        raise BadInput("kind hosts needs a hostfile: --hostfile FILE, with a line `NAME slots=N` for each machine")
    hosts = read_hostfile(cluster.hosts.hostfile)
    if cluster.nodes and cluster.nodes > len(hosts):
        raise BadInput(f"{cluster.hosts.hostfile} names {len(hosts)} machines, fewer than --nodes {cluster.nodes}")
    hosts = hosts[: cluster.nodes]
    slots = {host.name: host.slots for host in hosts if host.slots}
    if cluster.gpus is None and len(slots) < len(hosts):
        raise BadInput(f"{cluster.hosts.hostfile}: say how many ranks each machine runs: `NAME slots=N`, or --gpus N")
    return hosts, ranks_per_node(slots, cluster.gpus) if slots else int(cluster.gpus or 0)


def _on_hosts(request: "Request") -> int:
    from .commands import passed_variables, ssh_command
    from .hosts import HostsJob
    from .request import say, worker_of
    from .restart import supervise
    from .stop_requests import StopRequests

    cluster = request.cluster
    hosts, ranks = hosts_and_ranks(cluster)
    request.require_divisible(len(hosts) * ranks)
    passed = passed_variables(os.environ, cluster.pass_environment)
    if request.dry_run:
        for host in hosts:
            print(shlex.join(ssh_command(host.name, cluster.hosts, python=request.python, workdir=request.workdir)))
        print(f"# on each of them, {ranks} ranks of: python -m {shlex.join(worker_of(request.stored_config))}")
        for name, value in cluster.environment.items():
            print(f"# with {name}={shlex.quote(value)}")
        if passed:
            print(f"# and, over standard input: {', '.join(passed)}")
        return 0
    stored = request.prepare(request.run, len(hosts) * ranks)
    with StopRequests() as stop:
        job = HostsJob(
            cluster, hosts, ranks, worker_of(stored), environment={**passed, **cluster.environment},
            files={str(stored): hashlib.sha256(stored.read_bytes()).hexdigest()}, divides=request.divides(ranks),
            workdir=request.workdir, python=request.python, stop=stop, say=say,
        )  # fmt: skip
        return supervise(job.attempt, cluster.restart, say=say, wait=stop.wait)
