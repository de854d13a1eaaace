"""The verb `launch`: trains one run config on any kind of cluster."""

import argparse
import os
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dnachunker.pretrain.config import PretrainConfig

    from .config import ClusterConfig

# For each kind of cluster, the module in backends/ whose `launch(request)` trains there and returns the exit code.
_BACKENDS = {"local": "local", "hosts": "ssh_hosts", "slurm": "slurm", "kubernetes": "kubernetes", "ray": "ray_train"}

LAUNCH_HELP = "train on one or several machines, with supervised restarts"

_DESCRIPTION = """Start a pretraining run on the cluster that --on names, watch it, and start it again after a crash or
the loss of a machine. The config of the run is the same as for `dnachunker pretrain`. The cluster has its own config
file; its keys can also be given as cluster.KEY=VALUE."""

_EXAMPLES = """examples:
  dnachunker launch --config tiny --corpus corpora/sample --run runs/first --on local
  dnachunker launch --config dnachunker-172m --corpus /data/hg38 --run /data/runs/paper --on hosts --hostfile hosts.txt
  dnachunker launch --config dnachunker-172m --corpus /data/hg38 --run /data/runs/paper --on slurm --nodes 4 --gpus 8
  dnachunker launch ... --on my-cluster.yaml cluster.restart.min_nodes=2 --dry-run
exit codes: those of pretrain; 3 after a stop that you asked for (on ray 130, because its ranks end without saving)"""


def add_launch_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLES
    add_where_arguments(parser)
    parser.add_argument("--shard", metavar="FILE|PRESET", help="kubernetes: also build the corpus, from this config")
    parser.add_argument("--dry-run", action="store_true", help="print what would run, and stop")


def add_where_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name a run and a cluster."""
    parser.add_argument(
        "--config", required=True, metavar="FILE|PRESET", help="config of the run: a YAML file or a preset"
    )
    parser.add_argument(
        "--on", required=True, metavar="KIND|FILE",
        help="local | hosts | slurm | kubernetes | ray, or a YAML file whose key `kind` is one of these",
    )  # fmt: skip
    parser.add_argument("--corpus", help="corpus folder (short for data.corpus=...)")
    parser.add_argument("--run", help="run folder on shared storage (short for run=...)")
    parser.add_argument("--nodes", type=int, metavar="N", help="number of machines (short for cluster.nodes=N)")
    parser.add_argument("--gpus", type=int, metavar="G", help="ranks on each machine (short for cluster.gpus=G)")
    parser.add_argument(
        "--hostfile", metavar="FILE", help="list of the machines for kind hosts (short for cluster.hosts.hostfile=FILE)"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE",
        help="override a key of the run's config, or as cluster.KEY=VALUE a key of the cluster's config",
    )  # fmt: skip


def read_configs(arguments: argparse.Namespace) -> "tuple[PretrainConfig, ClusterConfig]":
    """The configs of the run and of the cluster, with overrides and short options applied.

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
    from dnachunker.dataprep.config import CorpusConfig
    from dnachunker.foundations.failures import BadInput
    from dnachunker.foundations.typed_config import load_config

    from .request import Request

    run, cluster = read_configs(arguments)
    if arguments.shard and cluster.kind != "kubernetes":
        raise BadInput(
            f"--shard works for kind kubernetes only, not for {cluster.kind}; "
            "run `dnachunker shard` first (with --ray on a Ray cluster)"
        )
    if cluster.workdir not in (None, os.getcwd()) and not os.path.isabs(run.run):
        raise BadInput(
            f"run={run.run} is a relative path, which means another folder in cluster.workdir than in the current "
            "folder; give the absolute path"
        )
    corpus = load_config(CorpusConfig, arguments.shard, kind="corpus") if arguments.shard else None
    request = Request(run, cluster, arguments.prepare, arguments.dry_run, corpus)
    backend = import_module(f"dnachunker.cluster.backends.{_BACKENDS[cluster.kind]}")
    return int(backend.launch(request))
