"""Reads repeats from a BED or RepeatMasker file."""

from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .features import located_features
from .prepared_sequence import Runs


class RepeatSource(NamedTuple):
    """A file of repeats: `kind` is `bed` or `repeatmasker`."""

    kind: str
    path: str


def read_repeats(repeats: RepeatSource, lengths: Mapping[str, int]) -> dict[str, Runs]:
    """Maximal runs of repeats by contig; lines about contigs that are not in `lengths` are skipped.

    Args:
        lengths: contig -> length in bases.

    Raises:
        BadInput: no such file, a malformed line, an interval beyond its contig, or no contig in common.
    """
    edges = {name: array("q") for name in lengths}  # there are millions: 8 bytes each here, 36 in a list
    for feature in located_features(Path(repeats.path), lengths, repeats.kind):
        edges[feature.contig].extend((feature.start, feature.end))
    return {contig: _merge(np.frombuffer(flat, np.int64).reshape(-1, 2)) for contig, flat in edges.items() if flat}


def _merge(runs: Runs) -> Runs:
    """The runs sorted, with overlapping and touching ones joined."""
    runs = runs[np.argsort(runs[:, 0], kind="stable")]
    reach = np.maximum.accumulate(runs[:, 1])
    first = np.flatnonzero(np.concatenate([[True], runs[1:, 0] > reach[:-1]]))
    last = np.concatenate([first[1:], [len(runs)]]) - 1
    return np.stack([runs[first, 0], reach[last]], axis=1)
