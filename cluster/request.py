"""A launch as it was asked for: the run, the cluster, and how a run is checked before it starts."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dnachunker.dataprep.config import CorpusConfig
from dnachunker.foundations.failures import BadInput
from dnachunker.pretrain.config import PretrainConfig

from .config import ClusterConfig


class Prepare(Protocol):
    """Checks a run and stores its resolved config; given by the front door, since that is pretraining's business."""

    def __call__(self, config: PretrainConfig, world_size: int) -> Path: ...


@dataclass(frozen=True)
class Request:
    """What is to run, and where, once the configs are read.

    Attributes:
        corpus: also build the corpus that the run names, from this config; kubernetes only.
    """

    run: PretrainConfig
    cluster: ClusterConfig
    prepare: Prepare
    dry_run: bool
    corpus: CorpusConfig | None = None

    @property
    def workdir(self) -> str:
        return self.cluster.workdir or os.getcwd()

    @property
    def python(self) -> str:
        return self.cluster.python or sys.executable

    @property
    def stored_config(self) -> Path:
        """Where `prepare` puts the run's resolved config."""
        return Path(self.run.run) / "config.yaml"

    def require_divisible(self, world_size: int) -> None:
        """
        Raises:
            BadInput: so many ranks cannot share out the run's batches.
        """
        try:
            self.run.accumulation(world_size)
        except ValueError as error:
            raise BadInput(str(error)) from error

    def divides(self, ranks: int) -> Callable[[int], bool]:
        """Whether so many machines of `ranks` ranks can share out the run."""

        def fits(nodes: int) -> bool:
            try:
                self.run.accumulation(nodes * ranks)
            except ValueError:
                return False
            return True

        return fits


def worker_of(config: Path | str) -> list[str]:
    """Module and arguments of a rank, as after `python -m`."""
    return ["dnachunker", "pretrain", "--config", str(config)]


def say(line: str) -> None:
    """Tell the user, apart from what the ranks print."""
    print(f"dnachunker: {line}", file=sys.stderr, flush=True)
