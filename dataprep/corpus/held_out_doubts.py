"""Reasons to doubt what a loss on the held-out splits of a corpus says."""

import numpy as np

from .index import BlockTable, CorpusIndex

LEAKED = 0.2  # of a source's k-mers in a held-out split
_FAR = 0.5  # relative difference of an obtained share from the one asked for
_HELD_OUT = ("valid", "test")


def asked_shares(index: CorpusIndex, source: str) -> dict[str, float]:
    """Split -> share of the source's bases that the config asks for; empty where intervals or contigs are named."""
    rule = index.config["sources"].get(source, {}).get("split") or index.config["split"]
    return {split: rule[split] for split in _HELD_OUT if rule[split]} if rule["kind"] == "hash" else {}


def obtained_shares(blocks: BlockTable) -> dict[str, dict[str, float]]:
    """Source -> split -> share of the source's bases in blocks of that split."""
    sources, source = np.unique(blocks.source, return_inverse=True)
    splits, split = np.unique(blocks.split, return_inverse=True)
    bases = np.zeros((len(sources), len(splits)))
    np.add.at(bases, (source, split), blocks.bases)
    shares = bases / np.maximum(bases.sum(axis=1, keepdims=True), 1)
    return {
        str(name): dict(zip(splits.tolist(), row.tolist(), strict=True))
        for name, row in zip(sources, shares, strict=True)
    }


def held_out_doubts(index: CorpusIndex, blocks: BlockTable) -> list[str]:
    """One line for each reason: shares far from those asked for, and sequence that the train split holds too."""
    lines, obtained = [], obtained_shares(blocks)
    for source in index.sources:
        for split, asked in asked_shares(index, source.name).items():
            found = obtained.get(source.name, {}).get(split, 0.0)
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
