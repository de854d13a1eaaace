"""The two main tasks of a worker: prepare one genome, write one shard. Both can be repeated safely."""

import errno
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dnachunker.dataprep.config import SourceConfig, resolve_path
from dnachunker.dataprep.genomes.input_file import hash_file
from dnachunker.dataprep.genomes.prepare import PreparedGenome, prepare_genome
from dnachunker.dataprep.genomes.repeats import RepeatSource
from dnachunker.dataprep.layout.blocks import PlannedShard
from dnachunker.dataprep.layout.plan import PlannedSource, repeat_source
from dnachunker.dataprep.storage import size_of, upload
from dnachunker.foundations.failures import BadInput, Failure

from .shard_writer import BlockRow, ShardWriter

_OF_THE_SOURCE = ("species", "clade", "assembly")


@dataclass(frozen=True)
class ShardJob:
    """One shard to write.

    Attributes:
        digest: of everything that decides the shard's bytes.
        folder: the file is written here, under `shard.name`.
        manifest: path of the shard's manifest.
        level: zstd level.
        url: if given, the finished file is uploaded there and does not stay in `folder`.
    """

    shard: PlannedShard
    digest: str
    folder: str
    manifest: str
    level: int
    url: str | None = None


@dataclass(frozen=True)
class ShardManifest:
    """Facts about a finished shard: its file, and a row per block in order; small enough to send between processes."""

    digest: str
    bytes: int
    sha256: str
    rows: tuple[BlockRow, ...]


class Outcome(NamedTuple):
    """A task's result, or the class and message of the failure that the user should read."""

    result: Any
    failure: type[Failure] | None = None
    message: str = ""

    def unwrap(self) -> Any:
        if self.failure is not None:
            raise self.failure(self.message)
        return self.result


def attempt(task: Callable[..., Any], *arguments: Any) -> Outcome:
    """Run a task and return failures that the user can fix as values.

    A raised exception would reach the user wrapped in Ray's own message.
    """
    try:
        return Outcome(task(*arguments))
    except BadInput as error:
        return Outcome(None, BadInput, str(error))
    except OSError as error:
        if (failure := no_room(error)) is None:
            raise
        return Outcome(None, Failure, str(failure))


def no_room(error: OSError) -> Failure | None:
    """The failure to report if the disk is full or a limit is reached; None for any other error."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return None
    where = f"{error.filename}: " if error.filename else ""
    return Failure(
        f"{where}the disk is full or a limit is reached ({error.strerror}); finished shards are kept: free space and "
        "run this again"
    )


class PrepareJob(NamedTuple):
    """One genome to prepare: its file, and the file of repeats that replaces its soft-mask, if any."""

    path: str
    repeats: RepeatSource | None


def prepare_job(source: SourceConfig) -> PrepareJob:
    """The job that prepares this source's genome; equal for sources that share one prepared genome."""
    return PrepareJob(str(resolve_path(source.path)), repeat_source(source))


class Prepared(NamedTuple):
    """A prepared genome, and its long runs of N: contig -> start,end of each, ascending."""

    genome: PreparedGenome
    gaps: dict[str, list[tuple[int, int]]]


def prepare_task(job: PrepareJob, place: tuple[str, int]) -> Prepared:
    """Check and prepare one genome.

    Args:
        place: the folder for the prepared files, and the length from which runs of N are returned (0: none is).
    """
    folder, n_gap = place
    genome = prepare_genome(Path(job.path), Path(folder), job.repeats)
    gaps: dict[str, list[tuple[int, int]]] = {}
    for contig in genome.contigs if n_gap else ():
        runs = genome.n_runs(contig)
        if len(long := runs[runs[:, 1] - runs[:, 0] >= n_gap]):
            gaps[contig.name] = [(start, end) for start, end in long.tolist()]
    return Prepared(genome, gaps)


def shard_task(job: ShardJob, sources: Mapping[str, PlannedSource]) -> tuple[ShardManifest, bool]:
    """Write one shard unless it is already finished; returns its manifest, and whether it was already finished."""
    path = Path(job.folder) / job.shard.name
    if finished := _finished(job, path):
        return finished, True
    path.parent.mkdir(parents=True, exist_ok=True)  # on another machine of a cluster the folder may not exist
    rows: list[BlockRow] = []
    with ShardWriter(path, level=job.level) as writer:
        for planned in job.shard.blocks:
            source = sources[planned.source]
            stretch = source.read(planned.contig, planned.start, planned.end)
            coordinates = planned._asdict() | {name: getattr(source, name) for name in _OF_THE_SOURCE}
            key = coordinates.pop("key")
            rows.append(writer.add(stretch, key, coordinates))
    if job.url:
        upload(path, job.url)
        path.unlink()
    manifest = ShardManifest(job.digest, writer.bytes, writer.sha256, tuple(rows))
    write_manifest(Path(job.manifest), manifest)
    return manifest, False


def write_manifest(path: Path, manifest: ShardManifest) -> None:
    """Write a manifest for a later run; the file appears complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(asdict(manifest)), "ascii")
    part.replace(path)


def _finished(job: ShardJob, path: Path) -> ShardManifest | None:
    try:
        values = json.loads(Path(job.manifest).read_text("ascii"))
        if values["digest"] != job.digest:
            return None
        if job.url:  # an upload is complete or absent, and reading it back would take as long as writing it
            there = size_of(job.url) == values["bytes"]
        else:
            there = hash_file(path) == (values["sha256"], values["bytes"])
        return ShardManifest(**(values | {"rows": tuple(BlockRow(*row) for row in values["rows"])})) if there else None
    except (OSError, ValueError, KeyError, TypeError, BadInput):
        return None
