"""The steps of a build, each divided over a pool of workers: prepare genomes, plan blocks, write shards."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, Protocol

from dnachunker.dataprep.config import CorpusConfig
from dnachunker.dataprep.genomes.prepare import PreparedGenome
from dnachunker.dataprep.layout.blocks import DUPLICATE, TOO_MUCH_N, Dropped, PlannedBlock, plan_shards
from dnachunker.dataprep.layout.plan import BuildPlan, PlannedSource, check_trainable, choose_sources, cut_source
from dnachunker.dataprep.similarity.duplicates import choose_dropped, duplicate_groups
from dnachunker.dataprep.similarity.kmer_sketch import SampleRate
from dnachunker.dataprep.similarity.leakage import corpus_rate, measure_leakage
from dnachunker.dataprep.similarity.survey import BlockFacts, block_jobs, digest_task, survey_task
from dnachunker.foundations.failures import Failure
from dnachunker.foundations.progress import Progress

from .folder import BuildFolder
from .tasks import (
    Prepared,
    PrepareJob,
    ShardJob,
    ShardManifest,
    attempt,
    prepare_job,
    prepare_task,
    shard_task,
    write_manifest,
)


class Pool(Protocol):
    """Where tasks run: threads of this process, or Ray."""

    def map(self, task: Callable[..., Any], jobs: Sequence[Any], shared: Any) -> Iterator[tuple[int, Any]]:
        """Call `task(job, shared)` for every job; yields (job number, result) as they finish."""


class Threads:
    """A pool of threads of this process; nearly all the work is compiled code that releases the interpreter lock."""

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def map(self, task: Callable[..., Any], jobs: Sequence[Any], shared: Any) -> Iterator[tuple[int, Any]]:
        with ThreadPoolExecutor(self.workers, "worker") as pool:
            running = {pool.submit(attempt, task, job, shared): number for number, job in enumerate(jobs)}
            try:
                for future in as_completed(running):
                    yield running[future], future.result().unwrap()
            finally:
                pool.shutdown(cancel_futures=True)  # after a failure the other results are not needed


def prepare_genomes(config: CorpusConfig, folder: BuildFolder, pool: Pool, quiet: bool) -> dict[str, Prepared]:
    """Check and prepare every genome; returns the prepared genomes by source."""
    wanted = {name: prepare_job(source) for name, source in config.sources.items()}
    jobs = sorted(set(wanted.values()), key=str)
    prepared: dict[PrepareJob, Prepared] = {}
    if not quiet:
        size = sum(os.path.getsize(job.path) for job in jobs)
        print(f"reading {len(jobs)} genomes, {size / 1e6:,.1f} MB", file=sys.stderr, flush=True)
    for number, result in pool.map(prepare_task, jobs, (str(folder.genomes), config.n_gap)):
        prepared[jobs[number]] = result
        if not quiet:
            print(_describe(result.genome), file=sys.stderr, flush=True)
    return {name: prepared[job] for name, job in wanted.items()}


def plan_build(config: CorpusConfig, prepared: Mapping[str, Prepared], pool: Pool, quiet: bool) -> BuildPlan:
    """Plan every block and shard, and measure leakage.

    Applies the split rules and leaves out long runs of N, blocks of mostly N, and duplicates.

    Raises:
        BadInput: a rule does not fit its genome, splits overlap or share a duplicate, or the train split is empty.
    """
    sources, intervals = choose_sources(config, {name: result.genome for name, result in prepared.items()})
    dropped = Dropped()
    blocks = [
        block
        for name, source in sources.items()
        for block in cut_source(config, source, intervals[name], prepared[name].gaps, dropped)
    ]
    check_trainable(blocks)
    rate = corpus_rate(sum(block.end - block.start for block in blocks))
    facts = _survey(blocks, rate, sources, pool, quiet)
    full_of_n = {i for i, b in enumerate(blocks) if facts[i].n_bases > config.max_n * (b.end - b.start)}
    blocks, facts = _without(full_of_n, TOO_MUCH_N, blocks, facts, dropped)
    if config.duplicates != "keep":

        def digests_of(candidates: Sequence[PlannedBlock]) -> Iterable[bytes]:
            jobs = block_jobs(candidates, rate)
            return [digest for digests in _in_order(pool, digest_task, jobs, sources) for digest in digests]

        groups = duplicate_groups(blocks, facts, digests_of)
        copies = choose_dropped(blocks, groups, config.duplicates)
        blocks, facts = _without(copies, DUPLICATE, blocks, facts, dropped)
    check_trainable(blocks)
    shards = plan_shards(blocks, shard_bases=config.shard_bases)
    return BuildPlan(config, sources, tuple(shards), dropped, measure_leakage(blocks, facts, rate))


def write_shards(plan: BuildPlan, folder: BuildFolder, pool: Pool, quiet: bool) -> tuple[list[ShardManifest], int]:
    """Write every shard that an interrupted build has not finished.

    Returns:
        The manifests of all shards in order, and how many shards an interrupted build had finished.

    Raises:
        Failure: a worker wrote to a disk that this process cannot see.
    """
    jobs = [
        ShardJob(
            shard=shard,
            digest=plan.shard_digest(shard),
            folder=str(folder.corpus),
            manifest=str(folder.manifests / f"{shard.name}.json"),
            level=plan.config.compression_level,
            url=folder.url_of(shard.name),
        )
        for shard in plan.shards
    ]
    manifests: dict[int, ShardManifest] = {}
    resumed = 0
    with Progress("writing shards", plan.bases, "bp", quiet=quiet) as progress:
        for number, (manifest, was_there) in pool.map(shard_task, jobs, plan.sources):
            path = folder.corpus / plan.shards[number].name
            if not folder.url and not path.is_file():
                raise Failure(
                    f"{path}: a worker on another machine wrote this file, but this machine cannot see it; put the "
                    "corpus on a file system that all machines share, or at a URL"
                )
            if folder.url and not (folder.manifests / f"{path.name}.json").exists():
                write_manifest(folder.manifests / f"{path.name}.json", manifest)
            manifests[number] = manifest
            resumed += was_there
            progress.update(plan.shards[number].bases)
    return [manifests[number] for number in range(len(jobs))], resumed


def _survey(
    blocks: Sequence[PlannedBlock], rate: SampleRate, sources: Mapping[str, PlannedSource], pool: Pool, quiet: bool
) -> list[BlockFacts]:
    jobs = block_jobs(blocks, rate)
    results: dict[int, list[BlockFacts]] = {}
    with Progress("looking for duplicates", sum(b.end - b.start for b in blocks), "bp", quiet=quiet) as progress:
        for number, facts in pool.map(survey_task, jobs, sources):
            results[number] = facts
            progress.update(sum(b.end - b.start for b in jobs[number].blocks))
    return [fact for number in range(len(jobs)) for fact in results[number]]


def _without(
    numbers: set[int], reason: str, blocks: list[PlannedBlock], facts: list[BlockFacts], dropped: Dropped
) -> tuple[list[PlannedBlock], list[BlockFacts]]:
    for number in sorted(numbers):
        block = blocks[number]
        dropped.note(block.source, block.split, reason, block.end - block.start)
    kept = [number for number in range(len(blocks)) if number not in numbers]
    return [blocks[number] for number in kept], [facts[number] for number in kept]


def _in_order(pool: Pool, task: Callable[..., Any], jobs: Sequence[Any], shared: Any) -> list[Any]:
    results = dict(pool.map(task, jobs, shared))
    return [results[number] for number in range(len(jobs))]


def _describe(genome: PreparedGenome) -> str:
    bases = sum(contig.length for contig in genome.contigs)
    parts = [f"read {genome.file}: {bases / 1e6:,.2f} Mbp in {len(genome.contigs)} contigs"]
    if genome.ambiguous:
        letters = " ".join(f"{letter}:{count}" for letter, count in sorted(genome.ambiguous.items()))
        parts.append(f"{sum(genome.ambiguous.values()):,} IUPAC letters other than ACGTN became N ({letters})")
    if genome.empty_records:
        parts.append(f"{genome.empty_records} records without sequence skipped")
    return "; ".join(parts)
