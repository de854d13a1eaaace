"""Makes the index of a build: from plan and manifests to the values of index.json and the bytes of blocks.parquet."""

import hashlib
from collections.abc import Sequence
from typing import Any

from dnachunker.dataprep.corpus.index import (
    BLOCKS_NAME,
    COLUMNS,
    FORMAT,
    FORMAT_VERSION,
    CorpusIndex,
    DroppedRow,
    FileRecord,
    ShardRecord,
    SourceRecord,
    SplitTotals,
    encode_blocks_table,
)
from dnachunker.dataprep.layout.blocks import TOO_SHORT, split_order
from dnachunker.dataprep.layout.plan import BuildPlan, PlannedSource, split_file_digest

from .tasks import ShardManifest


def build_index(
    plan: BuildPlan, manifests: Sequence[ShardManifest], config: dict[str, Any]
) -> tuple[CorpusIndex, bytes]:
    """The index and the encoded block table; `manifests` are in the order of `plan.shards`."""
    columns = _block_columns(plan, manifests)
    table = encode_blocks_table(columns)
    shards = [
        ShardRecord(
            name=shard.name,
            bytes=manifest.bytes,
            sha256=manifest.sha256,
            split=shard.split,
            samples=len(shard.blocks),
            bases=shard.bases,
        )
        for shard, manifest in zip(plan.shards, manifests, strict=True)
    ]
    splits = {split: _split_totals(split, columns, shards) for split in split_order(shard.split for shard in shards)}
    index = CorpusIndex(
        format=FORMAT,
        format_version=FORMAT_VERSION,
        config=config,
        sources=[_source_record(plan, source, columns) for source in plan.sources.values()],
        splits=splits,
        blocks=FileRecord(name=BLOCKS_NAME, bytes=len(table), sha256=hashlib.sha256(table).hexdigest()),
        shards=shards,
        dropped=[
            DroppedRow(source=source, split=split, reason=reason, blocks=blocks, bases=bases)
            for source, split, reason, blocks, bases in plan.dropped.table()
        ],
        leakage=plan.leakage,
    )
    return index, table


def _block_columns(plan: BuildPlan, manifests: Sequence[ShardManifest]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    written: dict[str, int] = {}  # split -> number of blocks so far
    for shard, manifest in zip(plan.shards, manifests, strict=True):
        for block, row in zip(shard.blocks, manifest.rows, strict=True):
            source = plan.sources[block.source]
            number = written.get(block.split, 0)
            written[block.split] = number + 1
            values = {
                **block._asdict(),
                **row._asdict(),
                "species": source.species,
                "clade": source.clade,
                "assembly": source.assembly,
                "bases": block.end - block.start,
                "shard": shard.name,
                "first_sample": number,
            }
            for name in COLUMNS:
                columns[name].append(values[name])
    return columns


def _split_totals(split: str, columns: dict[str, list[Any]], shards: Sequence[ShardRecord]) -> SplitTotals:
    own = [shard for shard in shards if shard.split == split]
    return SplitTotals(
        shards=len(own),
        blocks=sum(shard.samples for shard in own),
        bytes=sum(shard.bytes for shard in own),
        **{name: _sum(columns, name, "split", split) for name in ("bases", "n_bases", "soft_masked", "gc")},
    )


def _source_record(plan: BuildPlan, source: PlannedSource, columns: dict[str, list[Any]]) -> SourceRecord:
    config = plan.config.sources[source.name]
    genome = source.genome
    return SourceRecord(
        name=source.name,
        species=source.species,
        clade=source.clade,
        assembly=source.assembly,
        provenance=config.provenance,
        file=genome.file,
        bytes=genome.bytes,
        sha256=genome.sha256,
        split_file_sha256=split_file_digest(plan.config, source.name),
        contigs={contig.name: contig.length for contig in source.contigs.values()},
        bases=sum(contig.length for contig in source.contigs.values()),
        bases_in_splits=_sum(columns, "bases", "source", source.name),
        ambiguous=dict(sorted(genome.ambiguous.items())),
        empty_records=genome.empty_records,
        contigs_left_out=len(genome.contigs) - len(source.contigs),
        bases_too_short=plan.dropped.bases_of(source.name, TOO_SHORT),
        licence=config.licence,
        citation=config.citation,
        weight=config.weight,
        repeats_file_sha256=genome.repeats_sha256,
        **{name: _sum(columns, name, "source", source.name) for name in ("n_bases", "soft_masked", "gc")},
    )


def _sum(columns: dict[str, list[Any]], name: str, where: str, value: str) -> int:
    return sum(number for number, found in zip(columns[name], columns[where], strict=True) if found == value)
