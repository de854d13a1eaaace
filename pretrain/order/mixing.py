"""How often an epoch sees each genome: shares are natural, flattened by a temperature, or weighted by name."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dnachunker.dataprep.corpus.index import BlockTable, SourceRecord
from dnachunker.foundations.failures import BadInput
from dnachunker.pretrain.config import MixingSettings

_WHOLE = 1e-9  # repeats this close to a whole number are that number
_FIELD = {"source": "name", "species": "species", "clade": "clade"}  # `mixing.by` -> attribute of SourceRecord


@dataclass(frozen=True, eq=False)
class Mixture:
    """Blocks in groups, and how many times an epoch sees the bases of each group."""

    group: npt.NDArray[np.int64]  # (n,) group of each block
    repeats: npt.NDArray[np.float64]  # (groups,) 2.25: all blocks twice, and a quarter of the bases a third time

    @classmethod
    def natural(cls, blocks: int) -> "Mixture":
        """Every block once."""
        return cls(np.zeros(blocks, np.int64), np.ones(1))


def mixture_of(blocks: BlockTable, sources: Sequence[SourceRecord], settings: MixingSettings, corpus: str) -> Mixture:
    """The mixture of a config.

    The share of source s in an epoch is proportional to

        bases(s) * weight(s) * bases(g) ** (1 / temperature - 1)

    where g is the group of s: s itself, its species or its clade. An epoch has as many bases as the sources of positive
    weight. Without weights and at temperature 1 it therefore sees each base exactly once.

    Args:
        corpus: location of the corpus, for messages.

    Raises:
        BadInput: a weight names no group of the corpus, or every source has weight 0.
    """
    names = [source.name for source in sources]
    group_of = {source.name: str(getattr(source, _FIELD[settings.by])) for source in sources}
    unknown = sorted(set(settings.weights) - set(group_of.values()))
    if unknown:
        known = ", ".join(sorted(set(group_of.values())))
        raise BadInput(f"data.mixing.weights: {corpus} has no {settings.by} {unknown[0]!r}; it has {known}")

    order = np.argsort(names)
    group = order[np.searchsorted(np.array(names)[order], blocks.source)]
    bases = np.bincount(group, weights=blocks.bases, minlength=len(names))
    in_group = {name: sum(bases[i] for i, n in enumerate(names) if group_of[n] == name) for name in group_of.values()}
    if settings.weights:
        weights = np.array([settings.weights.get(group_of[name], 1.0) for name in names])
    else:
        weights = np.array([1.0 if source.weight is None else source.weight for source in sources])
    flatten = np.array([max(in_group[group_of[name]], 1.0) for name in names]) ** (1 / settings.temperature - 1)
    wanted = weights * flatten
    total = float((wanted * bases).sum())
    if not total > 0:
        raise BadInput(f"data.mixing: every source of {corpus} has weight 0, so there is nothing to train on")
    repeats = wanted * (bases[weights > 0].sum() / total)
    whole = np.round(repeats)
    return Mixture(group.astype(np.int64), np.where(np.abs(repeats - whole) < _WHOLE, whole, repeats))
