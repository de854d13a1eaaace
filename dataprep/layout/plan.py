"""Everything about a build that is decided before work is handed out: contigs, splits, blocks, shards.

The plan depends on the config and the inputs alone, so any number of workers, and any rerun, writes the same bytes.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from dnachunker.dataprep.config import BedSplit, CorpusConfig, RepeatFile, SourceConfig, resolve_path
from dnachunker.dataprep.corpus.index import FORMAT, FORMAT_VERSION, LeakageReport
from dnachunker.dataprep.genomes.repeats import RepeatSource
from dnachunker.dataprep.genomes.staged_sequence import BASES, Contig, Stretch
from dnachunker.dataprep.genomes.staging import StagedGenome, hash_file, stage_genome
from dnachunker.foundations.failures import BadInput

from .blocks import (
    GAP,
    Dropped,
    PlannedBlock,
    PlannedShard,
    contig_key_names,
    cut_blocks,
    split_at_gaps,
)
from .splits import Interval, divide


@dataclass(frozen=True)
class PlannedSource:
    """One genome as the plan uses it; `contigs` are the used ones, by name, in file order."""

    name: str
    species: str
    clade: str
    assembly: str
    repeats: str
    repeat_file: RepeatSource | None
    genome: StagedGenome
    contigs: dict[str, Contig]

    def read(self, contig: str, start: int, end: int) -> Stretch:
        """Bases start..end (0-based, half-open) of a contig, soft-masked as the config's `repeats` says.

        A machine that shares no disk with the one that staged the genome stages it for itself.

        Raises:
            BadInput: the file is not the one that was staged.
        """
        stem = Path(self.genome.stem)
        if not stem.with_suffix(BASES).exists():
            stem.parent.mkdir(parents=True, exist_ok=True)
            if stage_genome(Path(self.genome.path), stem.parent, self.repeat_file).stem != self.genome.stem:
                raise BadInput(
                    f"{self.genome.path}: changed during the build, or differs between the machines of the cluster"
                )
        stretch = self.genome.read(self.contigs[contig], start, end)
        return stretch._replace(soft_runs=stretch.soft_runs[:0]) if self.repeats == "none" else stretch


@dataclass(frozen=True)
class BuildPlan:
    """What will be written; `shards` are in canonical order, `dropped` counts what is in none of them."""

    config: CorpusConfig
    sources: dict[str, PlannedSource]
    shards: tuple[PlannedShard, ...]
    dropped: Dropped
    leakage: LeakageReport

    @property
    def bases(self) -> int:
        return sum(shard.bases for shard in self.shards)

    def shard_digest(self, shard: PlannedShard) -> str:
        """Changes when anything that decides the shard's bytes changes."""
        sources = {block.source for block in shard.blocks}
        facts = {
            "format": [FORMAT, FORMAT_VERSION, self.config.compression_level],
            "blocks": shard.blocks,
            "sources": [
                [s.name, s.species, s.clade, s.assembly, s.repeats, s.genome.sha256, s.genome.repeats_sha256]
                for s in self.sources.values()
                if s.name in sources
            ],
        }
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def choose_sources(
    config: CorpusConfig, genomes: Mapping[str, StagedGenome]
) -> tuple[dict[str, PlannedSource], dict[str, list[Interval]]]:
    """The contigs each source uses, and the intervals of its splits.

    Raises:
        BadInput: a pattern or split rule that does not fit the genome, overlapping splits.
    """
    sources: dict[str, PlannedSource] = {}
    intervals: dict[str, list[Interval]] = {}
    for name, source in config.sources.items():
        contigs = _select_contigs(name, source, genomes[name])
        lengths = {contig.name: contig.length for contig in contigs}
        intervals[name] = divide(config.split_rule(name), lengths, source=name, seed=config.seed)
        sources[name] = PlannedSource(
            name=name,
            species=source.species or name,
            clade=source.clade,
            assembly=source.assembly,
            repeats=source.repeats.kind,
            repeat_file=repeat_source(source),
            genome=genomes[name],
            contigs={contig.name: contig for contig in contigs},
        )
    return sources, intervals


def cut_source(
    config: CorpusConfig,
    source: PlannedSource,
    intervals: Sequence[Interval],
    gaps: Mapping[str, Sequence[tuple[int, int]]],
    dropped: Dropped,
) -> list[PlannedBlock]:
    """The blocks of one source: its intervals without the gaps, cut; what is left out is noted in `dropped`.

    Args:
        gaps: contig -> start,end of its long runs of N, ascending and disjoint.
    """
    outside, inside = split_at_gaps(intervals, gaps)
    for piece in inside:
        dropped.note(source.name, piece.split, GAP, piece.end - piece.start)
    return cut_blocks(
        source.name,
        outside,
        contig_key_names(list(source.contigs)),
        block_bases=config.block_bases,
        min_bases=config.min_bases,
        dropped=dropped,
    )


def check_trainable(blocks: Sequence[PlannedBlock]) -> None:
    """Refuse a corpus that nothing can be trained on.

    Raises:
        BadInput: no block is in the split train.
    """
    if not any(block.split == "train" for block in blocks):
        found = sorted({block.split for block in blocks})
        raise BadInput(f"the corpus would have no train split ({', '.join(found) or 'no bases at all'}); see `split`")


def repeat_source(source: SourceConfig) -> RepeatSource | None:
    """The file that replaces this source's soft-mask, where one does."""
    if not isinstance(source.repeats, RepeatFile):
        return None
    return RepeatSource(source.repeats.kind, str(resolve_path(source.repeats.path)))


def identity(config: CorpusConfig) -> dict[str, Any]:
    """The config as index.json records it: what decides the content, without where this machine keeps the files."""
    values = config.model_dump(mode="json", exclude={"workers"})
    rules = [values["split"], *(source["split"] for source in values["sources"].values())]
    repeats = [s["repeats"] for s in values["sources"].values() if "path" in s["repeats"]]
    files = [*values["sources"].values(), *repeats, *(rule for rule in rules if rule and rule["kind"] == "bed")]
    for entry in files:
        entry["path"] = resolve_path(entry["path"]).name
    return values


def split_file_digest(config: CorpusConfig, source: str) -> str | None:
    """sha256 of the BED file that divides this source, or None where its rule needs no file.

    Raises:
        BadInput: no such file.
    """
    rule = config.split_rule(source)
    return hash_file(resolve_path(rule.path))[0] if isinstance(rule, BedSplit) else None


def repeat_file_digest(source: SourceConfig) -> str | None:
    """sha256 of the file that lists this source's repeats, or None where its own soft-mask says it.

    Raises:
        BadInput: no such file.
    """
    return hash_file(resolve_path(source.repeats.path))[0] if isinstance(source.repeats, RepeatFile) else None


def _select_contigs(name: str, source: SourceConfig, genome: StagedGenome) -> list[Contig]:
    patterns = source.contigs
    chosen = [
        contig
        for contig in genome.contigs
        if contig.length >= source.min_contig
        and any(fnmatchcase(contig.name, glob) for glob in patterns.include)
        and not any(fnmatchcase(contig.name, glob) for glob in patterns.exclude)
    ]
    if not chosen:
        names = [contig.name for contig in genome.contigs]
        near = get_close_matches(patterns.include[0] if patterns.include else "", names, n=3, cutoff=0.0)
        raise BadInput(
            f"source {name}: contigs.include, contigs.exclude and min_contig leave none of the {len(names)} contigs of "
            f"{genome.file}; it has {', '.join(near)}"
        )
    return chosen
