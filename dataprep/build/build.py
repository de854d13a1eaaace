"""Build a corpus: stage the genomes, plan, write the shards in parallel, publish.

The steps run in threads of this process, or as Ray tasks on any number of machines. Each task writes what it makes to
disk itself, so only plans and small results pass between processes.
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
from dnachunker.dataprep.genomes.staging import glance, hash_file
from dnachunker.dataprep.layout.plan import identity, repeat_file_digest, split_file_digest
from dnachunker.dataprep.layout.splits import read_bed
from dnachunker.dataprep.storage import is_url, join, size_of
from dnachunker.foundations.failures import BadInput, Failure
from dnachunker.foundations.ray_tasks import LOCAL_RAY, ray_session

from .folder import BuildFolder, check_output, write_file
from .index_builder import build_index
from .steps import Pool, Threads, plan_build, stage_genomes, write_shards
from .tasks import Outcome, attempt, no_room


@dataclass(frozen=True)
class BuildSummary:
    """What a build did.

    Attributes:
        reused: the corpus was already there, built from the same config and inputs.
        resumed_shards: taken over from an interrupted build.
        seconds: wall time from reading the first input to the finished corpus, start of Ray included.
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
    """Build the corpus of `config` in the folder `output`; running it again, or after a kill, is safe.

    Args:
        output: a local folder, or a URL that fsspec can write to (s3, gs ...).
        overwrite: replace a corpus that is there, even one of the same config and inputs.
        workers: threads or Ray tasks at a time; overrides `config.workers`. With neither given, all cores.
        ray: None for threads of this process; `local` for a private Ray instance; or the address of a Ray cluster,
            of which `workers` then bounds the share (None: all of it).

    Raises:
        BadInput: nothing is left behind; an existing corpus is untouched.
        Failure: a full disk or dying workers; finished shards are kept for the next run.
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
        staged = stage_genomes(config, folder, pool, quiet)
        plan = plan_build(config, staged, pool, quiet)
        folder.make_way()
        manifests, resumed = write_shards(plan, folder, pool, quiet)
        index, table = build_index(plan, manifests, identity(config))
        write_file(folder.corpus / BLOCKS_NAME, table)
        write_file(folder.corpus / INDEX_NAME, index.to_json())
        grown = Corpus(str(folder.corpus), index)
        write_file(folder.corpus / CARD_NAME, render_card(index, grown.blocks(), grown.fingerprint))
        folder.publish([INDEX_NAME, BLOCKS_NAME, CARD_NAME, *(shard.name for shard in plan.shards)])
    return BuildSummary(Corpus(destination, index), False, resumed, time.monotonic() - started)


def _look_at_inputs(config: CorpusConfig) -> None:
    """Fail on what a glance can tell, before Ray starts and before gigabytes are read."""
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
        return None  # nothing, or a broken or older corpus: `check_output` asks for --overwrite
    expected = [
        (name, hash_file(resolve_path(source.path))[0], split_file_digest(config, name), repeat_file_digest(source))
        for name, source in config.sources.items()
    ]
    found = [(s.name, s.sha256, s.split_file_sha256, s.repeats_file_sha256) for s in corpus.sources]
    whole = all(size_of(join(destination, shard.name)) == shard.bytes for shard in corpus.index.shards)
    return corpus if whole and found == expected and corpus.index.config == identity(config) else None


@dataclass(frozen=True)
class _RayPool:
    """Ray tasks: on a private instance of `workers` processes, or on a cluster (None: all of it)."""

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
                    "a worker process died four times on one piece (out of memory?); finished shards are kept: "
                    "run this again with fewer --workers"
                ) from error
            yield running.pop(done[0]), outcome.unwrap()

    def _at_once(self) -> int:
        """Tasks handed out at a time: on a cluster that grows or shrinks, asked anew each time."""
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
