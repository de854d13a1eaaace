"""What a backend is asked to launch: the run, the cluster, and the function that checks the run before it starts."""

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
    """Checks a run, stores its resolved config and returns the path of the stored file.

    pretrain/ implements this function. The front door (`dnachunker/cli.py`) passes it in, because cluster/ may
    import only the config of pretrain/.
    """

    def __call__(self, config: PretrainConfig, world_size: int) -> Path: ...


@dataclass(frozen=True)
class Request:
    """A run and the cluster to launch it on.

    Attributes:
        prepare: checks the run and stores its resolved config.
        dry_run: print what would run, and start nothing.
        corpus: config from which to build first the corpus that the run names; only for kind kubernetes.
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
        """The path to which `prepare` writes the run's resolved config."""
        return Path(self.run.run) / "config.yaml"

    def require_divisible(self, world_size: int) -> None:
        """
        Raises:
            BadInput: the run's batches cannot be divided among `world_size` ranks.
        """
        try:
            self.run.accumulation(world_size)
        except ValueError as error:
            raise BadInput(str(error)) from error

    def divides(self, ranks: int) -> Callable[[int], bool]:
        """A function of a number of machines: can the run's batches be divided among them, with `ranks` ranks each?"""

        def fits(nodes: int) -> bool:
            try:
                self.run.accumulation(nodes * ranks)
            except ValueError:
                return False
            return True

        return fits


def worker_of(config: Path | str) -> list[str]:
    """The argv of a rank, after `python -m`: module name and arguments."""
    return ["dnachunker", "pretrain", "--config", str(config)]


def say(line: str) -> None:
    """Print a message to the user on stderr, with a prefix that tells it from the output of the ranks."""
    print(f"dnachunker: {line}", file=sys.stderr, flush=True)
