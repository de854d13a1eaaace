"""Builds a corpus: prepares the genomes, plans blocks and shards, writes the shards in parallel, publishes the folder.

The steps run in threads of this process, or as Ray tasks on any number of machines. Each task writes its own files, so
only plans and small results pass between processes.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnachunker.dataprep.config import BedSplit, CorpusConfig, resolve_path
from dnachunker.dataprep.corpus.card import CARD_NAME, render_card
from dnachunker.dataprep.corpus.index import BLOCKS_NAME, INDEX_NAME, Corpus
from dnachunker.dataprep.downloads.cache import localise
from dnachunker.dataprep.genomes.input_file import hash_file
from dnachunker.dataprep.genomes.prepare import glance
from dnachunker.dataprep.layout.plan import identity, repeat_file_digest, split_file_digest
from dnachunker.dataprep.layout.splits import read_bed
from dnachunker.dataprep.storage import is_url, join, size_of
from dnachunker.foundations.failures import BadInput, Failure
from dnachunker.foundations.ray_tasks import LOCAL_RAY, ray_session

from .folder import BuildFolder, check_output, write_file
from .index_builder import build_index
from .steps import Pool, Threads, plan_build, prepare_genomes, write_shards
from .tasks import Outcome, attempt, no_room


@dataclass(frozen=True)
class BuildSummary:
    """The result of a build.

    Attributes:
        reused: whether the corpus already existed, built from the same config and inputs.
        resumed_shards: number of shards that an interrupted build had already finished.
        seconds: wall time of the whole build, start of Ray included.
    """

    corpus: Corpus
    reused: bool
    resumed_shards: int
    seconds: float

    @property
    def bases(self) -> int:
        return sum(totals.bases for totals in self.corpus.index.splits.values())

    @property
    def bits_per_base(self) -> float:
        return 8 * sum(shard.bytes for shard in self.corpus.index.shards) / self.bases

    @property
    def bases_per_second(self) -> float:
        return self.bases / self.seconds


def build_corpus(
    config: CorpusConfig,
    output: str | Path,
    *,
    overwrite: bool = False,
    workers: int | None = None,
    ray: str | None = None,
    quiet: bool = False,
) -> BuildSummary:
    """Build the corpus of `config` in the folder `output`; it is safe to run this again, also after a kill.

    Args:
        output: a local folder, or a URL that fsspec can write to (s3, gs ...).
        overwrite: replace an existing corpus, even one of the same config and inputs.
        workers: threads or Ray tasks at a time; None: `config.workers`, and if that is None too, all cores.
        ray: None for threads of this process; `local` for a private Ray instance; or the address of a Ray cluster,
            where `workers` limits the tasks at a time (None: the whole cluster).

    Raises:
        BadInput: the config or an input is wrong; no file is left behind, and an existing corpus is unchanged.
        Failure: the disk is full or workers died; finished shards are kept for the next run.
    """
    started = time.monotonic()
    config = localise(config, quiet=quiet)
    destination = str(output) if is_url(str(output)) else os.path.abspath(Path(output).expanduser())
    if not overwrite and (corpus := _already_built(config, destination)):
        return BuildSummary(corpus, True, 0, time.monotonic() - started)
    check_output(destination, overwrite=overwrite)
    _look_at_inputs(config)
    count = workers if workers is not None else config.workers
    with BuildFolder(destination) as folder, _one_line_if_full(), _pool(count, ray) as pool:
        prepared = prepare_genomes(config, folder, pool, quiet)
        plan = plan_build(config, prepared, pool, quiet)
        folder.make_way()
        manifests, resumed = write_shards(plan, folder, pool, quiet)
        index, table = build_index(plan, manifests, identity(config))
        write_file(folder.corpus / BLOCKS_NAME, table)
        write_file(folder.corpus / INDEX_NAME, index.to_json())
        written = Corpus(str(folder.corpus), index)
        write_file(folder.corpus / CARD_NAME, render_card(index, written.blocks(), written.fingerprint))
        folder.publish([INDEX_NAME, BLOCKS_NAME, CARD_NAME, *(shard.name for shard in plan.shards)])
    return BuildSummary(Corpus(destination, index), False, resumed, time.monotonic() - started)


def _look_at_inputs(config: CorpusConfig) -> None:
    """Check the start of every input, so that obvious mistakes fail before Ray starts and before gigabytes are read."""
    for name, source in config.sources.items():
        glance(resolve_path(source.path))
        rule = config.split_rule(name)
        if isinstance(rule, BedSplit):
            read_bed(resolve_path(rule.path))


@contextmanager
def _one_line_if_full() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if failure := no_room(error):
            raise failure from error
        raise


def _already_built(config: CorpusConfig, destination: str) -> Corpus | None:
    try:
        corpus = Corpus.open(destination)
    except BadInput:
        return None  # no corpus, or a damaged or older one, for which `check_output` asks for --overwrite
    expected = [
        (name, hash_file(resolve_path(source.path))[0], split_file_digest(config, name), repeat_file_digest(source))
        for name, source in config.sources.items()
    ]
    found = [(s.name, s.sha256, s.split_file_sha256, s.repeats_file_sha256) for s in corpus.sources]
    whole = all(size_of(join(destination, shard.name)) == shard.bytes for shard in corpus.index.shards)
    return corpus if whole and found == expected and corpus.index.config == identity(config) else None


@dataclass(frozen=True)
class _RayPool:
    """A pool of Ray tasks, on a private instance of `workers` processes or on a cluster (None: the whole cluster)."""

    address: str
    workers: int | None

    def map(self, task: Callable[..., Any], jobs: Sequence[Any], shared: Any) -> Iterator[tuple[int, Any]]:
        import ray

        remote: Any = ray.remote(num_cpus=1, max_retries=3)(attempt)
        shared_reference = ray.put(shared)
        waiting = list(reversed(list(enumerate(jobs))))
        running: dict[Any, int] = {}
        while waiting or running:
            while waiting and len(running) < self._at_once():
                number, job = waiting.pop()
                running[remote.remote(task, job, shared_reference)] = number
            done, _ = ray.wait(list(running), num_returns=1)
            try:
                outcome: Outcome = ray.get(done[0])
            except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
                raise Failure(
                    "a worker process died four times on the same task (out of memory?); finished shards are kept: "
                    "run this again with fewer --workers"
                ) from error
            yield running.pop(done[0]), outcome.unwrap()

    def _at_once(self) -> int:
        """Most tasks at a time; on a cluster this is asked again for every task, since clusters grow and shrink."""
        if self.address == LOCAL_RAY:
            return 2 * (self.workers or 1)
        import ray

        cluster = int(ray.cluster_resources().get("CPU", 1))
        return min(self.workers, cluster) if self.workers else 2 * max(cluster, 1)


@contextmanager
def _pool(workers: int | None, ray: str | None) -> Iterator[Pool]:
    if not ray:
        yield Threads(_cores() if workers is None else max(workers, 1))
        return
    if ray == LOCAL_RAY:
        workers = workers or _cores()
    with ray_session(ray, workers or 1, asked_by=f"--ray {ray}"):
        yield _RayPool(ray, workers)


def _cores() -> int:
    return len(os.sched_getaffinity(0))
