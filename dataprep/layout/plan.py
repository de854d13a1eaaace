"""The plan of a build, made before workers start: contigs, splits, blocks, shards.

The plan depends only on the config and the inputs, so any number of workers, and any rerun, writes the same bytes.
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
from dnachunker.dataprep.genomes.input_file import hash_file
from dnachunker.dataprep.genomes.prepare import PreparedGenome, prepare_genome
from dnachunker.dataprep.genomes.prepared_sequence import BASES, Contig, Stretch
from dnachunker.dataprep.genomes.repeats import RepeatSource
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
    """One genome of the plan; `contigs` are the used contigs by name, in file order."""

    name: str
    species: str
    clade: str
    assembly: str
    repeats: str
    repeat_file: RepeatSource | None
    genome: PreparedGenome
    contigs: dict[str, Contig]

    def read(self, contig: str, start: int, end: int) -> Stretch:
        """Bases start..end (0-based, half-open) of a contig, soft-masked as the config's `repeats` says.

        If this machine cannot see the disk with the prepared genome, it prepares the genome itself.

        Raises:
            BadInput: the genome file differs from the file that was prepared first.
        """
        stem = Path(self.genome.stem)
        if not stem.with_suffix(BASES).exists():
            stem.parent.mkdir(parents=True, exist_ok=True)
            if prepare_genome(Path(self.genome.path), stem.parent, self.repeat_file).stem != self.genome.stem:
                raise BadInput(
                    f"{self.genome.path}: changed during the build, or is not the same file on all machines of the "
                    "cluster"
                )
        stretch = self.genome.read(self.contigs[contig], start, end)
        return stretch._replace(soft_runs=stretch.soft_runs[:0]) if self.repeats == "none" else stretch


@dataclass(frozen=True)
class BuildPlan:
    """Everything that will be written; `shards` are in canonical order, `dropped` counts bases that are in no shard."""

    config: CorpusConfig
    sources: dict[str, PlannedSource]
    shards: tuple[PlannedShard, ...]
    dropped: Dropped
    leakage: LeakageReport

    @property
    def bases(self) -> int:
        return sum(shard.bases for shard in self.shards)

    def shard_digest(self, shard: PlannedShard) -> str:
        """A digest of everything that decides the shard's bytes."""
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
    config: CorpusConfig, genomes: Mapping[str, PreparedGenome]
) -> tuple[dict[str, PlannedSource], dict[str, list[Interval]]]:
    """Every source with its used contigs, and the split intervals of every source.

    Raises:
        BadInput: a pattern or split rule does not fit the genome, or splits overlap.
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
    """The blocks of one source: its intervals without the gaps, cut; bases left out are counted in `dropped`.

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
    """Refuse a corpus without training data.

    Raises:
        BadInput: no block is in the split train.
    """
    if not any(block.split == "train" for block in blocks):
        found = sorted({block.split for block in blocks})
        raise BadInput(
            f"the corpus would have no train split (it has {', '.join(found) or 'no bases at all'}); change `split`"
        )


def repeat_source(source: SourceConfig) -> RepeatSource | None:
    """The file of repeats that replaces this source's soft-mask; None if there is no such file."""
    if not isinstance(source.repeats, RepeatFile):
        return None
    return RepeatSource(source.repeats.kind, str(resolve_path(source.repeats.path)))


def identity(config: CorpusConfig) -> dict[str, Any]:
    """The config as index.json records it: without `workers`, and with paths reduced to file names."""
    values = config.model_dump(mode="json", exclude={"workers"})
    rules = [values["split"], *(source["split"] for source in values["sources"].values())]
    repeats = [s["repeats"] for s in values["sources"].values() if "path" in s["repeats"]]
    files = [*values["sources"].values(), *repeats, *(rule for rule in rules if rule and rule["kind"] == "bed")]
    for entry in files:
        entry["path"] = resolve_path(entry["path"]).name
    return values


def split_file_digest(config: CorpusConfig, source: str) -> str | None:
    """sha256 of the BED file that divides this source; None if its split rule needs no file.

    Raises:
        BadInput: no such file.
    """
    rule = config.split_rule(source)
    return hash_file(resolve_path(rule.path))[0] if isinstance(rule, BedSplit) else None


def repeat_file_digest(source: SourceConfig) -> str | None:
    """sha256 of the file that lists this source's repeats; None if there is no such file.

    Raises:
        BadInput: no such file.
    """
    return hash_file(resolve_path(source.repeats.path))[0] if isinstance(source.repeats, RepeatFile) else None


def _select_contigs(name: str, source: SourceConfig, genome: PreparedGenome) -> list[Contig]:
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
            f"{genome.file}; the nearest contigs are {', '.join(near)}"
        )
    return chosen
