"""Reasons to doubt what a loss on the held-out splits of a corpus says."""

import numpy as np

from .index import BlockTable, Corpus, CorpusIndex

LEAKED = 0.2  # of a source's k-mers in a held-out split; repeats alone give 2 to 5 %
_FAR = 0.5  # relative difference of an obtained share from the one asked for
_HELD_OUT = ("valid", "test")


def asked_shares(index: CorpusIndex, source: str) -> dict[str, float]:
    """Split -> share of the source's bases that the config asks for; empty where intervals or contigs are named."""
    rule = index.config["sources"].get(source, {}).get("split") or index.config["split"]
    return {split: rule[split] for split in _HELD_OUT if rule[split]} if rule["kind"] == "hash" else {}


def obtained_shares(blocks: BlockTable, source: str) -> dict[str, float]:
    """Split -> share of the source's bases in blocks of that split."""
    mine = blocks.source == source
    whole = max(int(blocks.bases[mine].sum()), 1)
    return {
        str(split): int(blocks.bases[mine & (blocks.split == split)].sum()) / whole for split in np.unique(blocks.split)
    }


def held_out_doubts(index: CorpusIndex, blocks: BlockTable) -> list[str]:
    """One line for each reason: shares far from those asked for, and sequence that the train split holds too."""
    lines = []
    for source in index.sources:
        obtained = obtained_shares(blocks, source.name)
        for split, asked in asked_shares(index, source.name).items():
            found = obtained.get(split, 0.0)
            if not found:
                lines.append(
                    f"{source.name}: no base is in {split}, and {asked:.1%} are asked for; lower split.tile, "
                    "or hold out named contigs"
                )
            elif abs(found - asked) > _FAR * asked:
                lines.append(
                    f"{source.name}: {found:.1%} of its bases are in {split}, and {asked:.1%} are asked for; a lower "
                    "split.tile comes closer"
                )
    if index.leakage:
        for row in index.leakage.rows:
            if row.share > LEAKED:
                lines.append(
                    f"{row.source}: {row.share:.1%} of its {index.leakage.k}-mers in {row.split} are in train too, so "
                    "a loss there measures memory; hold out its close relatives as a whole"
                )
    return lines


def doubts_about(corpus: Corpus) -> list[str]:
    """`held_out_doubts` of an opened corpus."""
    return held_out_doubts(corpus.index, corpus.blocks())
