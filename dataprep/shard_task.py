"""The two pieces of work a worker process does: stage one genome, write one shard. Both may be repeated safely."""

import errno
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dataprep.blocks import PlannedShard
from dataprep.build_plan import PlannedSource
from dataprep.config import RepeatFile, SourceConfig, resolve_path
from dataprep.genome import StagedGenome, hash_file, stage_genome
from dataprep.repeats import RepeatSource, apply_repeats
from dataprep.shard_format import block_from_packed
from dataprep.shard_writer import ShardWriter
from failures import BadInput, Failure


@dataclass(frozen=True)
class ShardJob:
    """One shard to write: into `folder`/`shard.name`, with its manifest at `manifest`; `digest` names the content."""

    shard: PlannedShard
    digest: str
    folder: str
    manifest: str
    level: int


class BlockRow(NamedTuple):
    """What only the writer of a block knows."""

    n_bases: int
    soft_masked: int
    gc: int
    offset: int
    length: int
    crc32: int


@dataclass(frozen=True)
class ShardManifest:
    """A finished shard: its file, and a row per block in order; small enough to send between processes."""

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
    """Run a task; failures the user can act on become values, so that no process boundary decorates them."""
    try:
        return Outcome(task(*arguments))
    except BadInput as error:
        return Outcome(None, BadInput, str(error))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return Outcome(
            None, Failure, f"the disk is full ({error.filename or 'build folder'}); free space and run this again"
        )


class StageJob(NamedTuple):
    """One genome to stage: its file, and the file of repeats that replaces its soft-mask, if any."""

    path: str
    repeats: RepeatSource | None


def stage_job(source: SourceConfig) -> StageJob:
    """What staging this source takes; equal for sources that share a staged file."""
    listed = None
    if isinstance(source.repeats, RepeatFile):
        listed = RepeatSource(source.repeats.kind, str(resolve_path(source.repeats.path)))
    return StageJob(str(resolve_path(source.path)), listed)


def stage_task(job: StageJob, folder: str) -> StagedGenome:
    """Check and stage one genome; see `genome.stage_genome`."""
    return stage_genome(Path(job.path), Path(folder), job.repeats)


def shard_task(job: ShardJob, sources: Mapping[str, PlannedSource]) -> tuple[ShardManifest, bool]:
    """Write one shard, or recognise that it is already written; returns its manifest and whether it was there."""
    path, manifest_path = Path(job.folder) / job.shard.name, Path(job.manifest)
    if finished := _finished(path, manifest_path, job.digest):
        return finished, True
    rows: list[BlockRow] = []
    with ShardWriter(path, level=job.level) as writer:
        for planned in job.shard.blocks:
            source = sources[planned.source]
            packed = source.genome.read(source.contigs[planned.contig], planned.start, planned.end)
            packed = apply_repeats(packed, source.repeats)
            block = block_from_packed(
                packed,
                **planned._asdict(),
                species=source.species,
                clade=source.clade,
                assembly=source.assembly,
            )
            rows.append(
                BlockRow(
                    n_bases=_run_bases(block.n_runs),
                    soft_masked=_run_bases(block.soft_runs),
                    gc=_count_gc(block.codes),
                    **writer.add(block)._asdict(),
                )
            )
    manifest = ShardManifest(job.digest, writer.bytes, writer.sha256, tuple(rows))
    part = manifest_path.with_suffix(".part")
    part.write_text(json.dumps(asdict(manifest)), "ascii")
    part.replace(manifest_path)
    return manifest, False


def _count_gc(codes: NDArray[np.uint8]) -> int:
    # of the codes 0 to 4 only C=1 and G=2 have bit 1 of code + 1 set; counting is fast on booleans alone
    return int(np.count_nonzero(((codes + np.uint8(1)) >> np.uint8(1) & np.uint8(1)).view(np.bool_)))


def _run_bases(runs: NDArray[np.uint32]) -> int:
    return int((runs[:, 1].astype(np.int64) - runs[:, 0]).sum())


def _finished(path: Path, manifest_path: Path, digest: str) -> ShardManifest | None:
    try:
        values = json.loads(manifest_path.read_text("ascii"))
        if values["digest"] != digest or hash_file(path) != (values["sha256"], values["bytes"]):
            return None
        return ShardManifest(**(values | {"rows": tuple(BlockRow(*row) for row in values["rows"])}))
    except (OSError, ValueError, KeyError, TypeError, BadInput):
        return None
