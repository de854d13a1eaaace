"""Build a corpus: stage the genomes, plan, write the shards in parallel, publish.

Ray runs the two tasks of `shard_task` in local worker processes; each writes its shard to disk itself, so only plans
and small manifests pass through Ray. With no workers the same tasks run in this process.
"""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from dataprep.build_folder import BuildFolder, check_output, write_file
from dataprep.build_plan import BuildPlan, identity, make_plan, repeat_file_digest, split_file_digest
from dataprep.config import BedSplit, CorpusConfig, resolve_path
from dataprep.corpus_index import BLOCKS_NAME, INDEX_NAME, Corpus
from dataprep.genome import StagedGenome, glance, hash_file
from dataprep.index_builder import build_index
from dataprep.progress import Progress
from dataprep.shard_task import (
    Outcome,
    ShardJob,
    ShardManifest,
    StageJob,
    attempt,
    shard_task,
    stage_job,
    stage_task,
)
from dataprep.splits import read_bed
from failures import BadInput, Failure

_OBJECT_STORE_BYTES = 80 * 2**20  # Ray's minimum is 75 MiB; without a cap it would take a third of the memory


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


class _Pool(Protocol):
    def map(self, task: Callable[..., Any], jobs: Sequence[Any], shared: Any) -> Iterator[tuple[int, Any]]:
        """Call `task(job, shared)` for every job; yields (job number, result) as they finish."""


def build_corpus(
    config: CorpusConfig,
    output: str | Path,
    *,
    overwrite: bool = False,
    workers: int | None = None,
    quiet: bool = False,
) -> BuildSummary:
    """Build the corpus of `config` in the folder `output`; running it again, or after a kill, is safe.

    Args:
        overwrite: replace a corpus that is there, even one of the same config and inputs.
        workers: overrides `config.workers`; 0 runs in this process, without Ray.

    Raises:
        BadInput: nothing is left behind; an existing corpus is untouched.
        Failure: a full disk or dying workers; finished shards are kept for the next run.
    """
    started = time.monotonic()
    destination = Path(os.path.abspath(Path(output).expanduser()))
    if not overwrite and (corpus := _already_built(config, destination)):
        return BuildSummary(corpus, True, 0, time.monotonic() - started)
    check_output(destination, overwrite=overwrite)
    _look_at_inputs(config)
    count = workers if workers is not None else config.workers
    with BuildFolder(destination) as folder, _pool(count) as pool:
        genomes = _stage(config, folder, pool, quiet)
        plan = make_plan(config, genomes)
        manifests, resumed = _write(plan, folder, pool, quiet)
        index, table = build_index(plan, manifests, identity(config))
        write_file(folder.corpus / BLOCKS_NAME, table)
        write_file(folder.corpus / INDEX_NAME, index.to_json())
        folder.publish([INDEX_NAME, BLOCKS_NAME, *(shard.name for shard in plan.shards)])
    return BuildSummary(Corpus(str(destination), index), False, resumed, time.monotonic() - started)


def _look_at_inputs(config: CorpusConfig) -> None:
    """Fail on what a glance can tell, before Ray starts and before gigabytes are read."""
    for name, source in config.sources.items():
        glance(resolve_path(source.path))
        rule = config.split_rule(name)
        if isinstance(rule, BedSplit):
            read_bed(resolve_path(rule.path))


def _already_built(config: CorpusConfig, destination: Path) -> Corpus | None:
    if not (destination / INDEX_NAME).is_file():
        return None
    try:
        corpus = Corpus.open(destination)
    except BadInput:
        return None  # a broken or older corpus: `check_output` asks for --overwrite
    expected = [
        (name, hash_file(resolve_path(source.path))[0], split_file_digest(config, name), repeat_file_digest(source))
        for name, source in config.sources.items()
    ]
    found = [(s.name, s.sha256, s.split_file_sha256, s.repeats_file_sha256) for s in corpus.sources]
    whole = all(_size(destination / shard.name) == shard.bytes for shard in corpus.index.shards)
    return corpus if whole and found == expected and corpus.index.config == identity(config) else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _stage(config: CorpusConfig, folder: BuildFolder, pool: _Pool, quiet: bool) -> dict[str, StagedGenome]:
    wanted = {name: stage_job(source) for name, source in config.sources.items()}
    jobs = sorted(set(wanted.values()), key=str)
    genomes: dict[StageJob, StagedGenome] = {}
    if not quiet:
        size = sum(os.path.getsize(job.path) for job in jobs)
        print(f"reading {len(jobs)} genomes, {size / 1e6:,.1f} MB", file=sys.stderr, flush=True)
    for number, genome in pool.map(stage_task, jobs, str(folder.genomes)):
        genomes[jobs[number]] = genome
        if not quiet:
            print(_describe(genome), file=sys.stderr, flush=True)
    return {name: genomes[job] for name, job in wanted.items()}


def _describe(genome: StagedGenome) -> str:
    bases = sum(contig.length for contig in genome.contigs)
    parts = [f"read {genome.file}: {bases / 1e6:,.2f} Mbp in {len(genome.contigs)} contigs"]
    if genome.ambiguous:
        letters = " ".join(f"{letter}:{count}" for letter, count in sorted(genome.ambiguous.items()))
        parts.append(f"{sum(genome.ambiguous.values()):,} IUPAC letters count as N ({letters})")
    if genome.empty_records:
        parts.append(f"{genome.empty_records} records without sequence skipped")
    return "; ".join(parts)


def _write(plan: BuildPlan, folder: BuildFolder, pool: _Pool, quiet: bool) -> tuple[list[ShardManifest], int]:
    jobs = [
        ShardJob(
            shard=shard,
            digest=plan.shard_digest(shard),
            folder=str(folder.corpus),
            manifest=str(folder.manifests / f"{shard.name}.json"),
            level=plan.config.compression_level,
        )
        for shard in plan.shards
    ]
    manifests: dict[int, ShardManifest] = {}
    resumed = 0
    with Progress("writing shards", plan.bases, quiet=quiet) as progress:
        for number, (manifest, was_there) in pool.map(shard_task, jobs, plan.sources):
            manifests[number] = manifest
            resumed += was_there
            progress.add(plan.shards[number].bases)
    return [manifests[number] for number in range(len(jobs))], resumed


class _InProcess:
    def map(self, task: Callable[..., Any], jobs: Sequence[Any], shared: Any) -> Iterator[tuple[int, Any]]:
        for number, job in enumerate(jobs):
            yield number, attempt(task, job, shared).unwrap()


class _RayPool:
    """A private Ray instance of `workers` processes on this machine, gone when the context ends."""

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def __enter__(self) -> "_RayPool":
        import ray  # half a second, and only builds with workers need it

        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else a warning about GPUs we do not use
        self._ray = ray
        ray.init(
            address="local",  # never somebody else's cluster, whatever RAY_ADDRESS says
            num_cpus=self.workers,
            object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._ray.shutdown()

    def map(self, task: Callable[..., Any], jobs: Sequence[Any], shared: Any) -> Iterator[tuple[int, Any]]:
        ray = self._ray
        remote = ray.remote(num_cpus=1, max_retries=3)(attempt)
        shared_reference = ray.put(shared)
        waiting = list(reversed(list(enumerate(jobs))))
        running: dict[Any, int] = {}
        while waiting or running:
            while waiting and len(running) < 2 * self.workers:
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


def _pool(workers: int | None) -> AbstractContextManager[_Pool]:
    if workers == 0:
        return nullcontext(_InProcess())
    return _RayPool(workers or len(os.sched_getaffinity(0)))
