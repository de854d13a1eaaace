"""Order-k Markov baselines: how well the k preceding bases alone predict the positions that a model is scored on.

Baselines see only the left context, with nothing masked. A model that does not beat order 0 has learned nothing.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from dnachunker.foundations.atomic_files import new_file

ORDERS = (0, 3, 5)  # of the baselines of pretraining
_PSEUDOCOUNT = 0.5

FloatArray = npt.NDArray[np.float64]


class MarkovTables:
    """Log-probabilities of a base given the preceding ones, up to the longest order that was counted."""

    def __init__(self, counts: Sequence[FloatArray]) -> None:
        """
        Args:
            counts: for order k, (4 ** (k + 1),) occurrences of each word of k + 1 bases, more than 0.
        """
        self._counts = counts
        self._log = []
        for table in counts:
            table = table.reshape(-1, 4)
            self._log.append(np.log(table / table.sum(axis=1, keepdims=True)).reshape(-1))

    @classmethod
    def counted(cls, blocks: Iterable[npt.NDArray[np.integer]], longest: int = max(ORDERS)) -> "MarkovTables":
        """Tables of training sequence.

        Args:
            blocks: (n,) arrays of base codes without repeat bits; code 4 and up breaks contexts.
            longest: the highest order; it takes 32 * 4 ** longest bytes.
        """
        counts = [np.full(4 ** (k + 1), _PSEUDOCOUNT) for k in range(longest + 1)]
        for codes in blocks:
            known = _known_context(codes)
            index = codes.astype(np.int64) % 4
            word = np.zeros(len(codes), np.int64)
            for order in range(longest + 1):
                if order < len(codes):
                    word[order:] += index[: len(codes) - order] * 4**order
                fits = known >= order
                counts[order] += np.bincount(word[fits], minlength=4 ** (order + 1))
        return cls(counts)

    @classmethod
    def cached(
        cls, name: str, blocks: Callable[[], Iterable[npt.NDArray[np.integer]]], longest: int = max(ORDERS)
    ) -> "MarkovTables":
        """Tables kept in the user's cache folder under `name`; other `blocks` need another name."""
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        path = root / "dnachunker" / f"markov-{name}.npz"
        try:
            with np.load(path, allow_pickle=False) as stored:
                return cls([stored[f"order{k}"] for k in range(longest + 1)])
        except (OSError, ValueError, KeyError, BadZipFile):
            pass  # absent, cut short or without the highest order, so count
        tables = cls.counted(blocks(), longest)
        # a home that cannot be written to costs the time to count, next time too
        with contextlib.suppress(OSError), new_file(path) as partial:
            np.savez(partial, allow_pickle=False, **{f"order{k}": table for k, table in enumerate(tables._counts)})
        return tables

    def losses(self, codes: npt.NDArray[np.integer], order: int) -> FloatArray:
        """Negative log-likelihood, nats, of each base of one window.

        Args:
            codes: (L,) base codes without repeat bits.
            order: preceding bases used; fewer after a window's start or an N.

        Returns:
            (L,) float64; NaN where the base is not A, C, G or T.
        """
        usable = np.minimum(_known_context(codes), order)
        index = codes.astype(np.int64) % 4
        losses = np.full(len(codes), np.nan)
        word = np.zeros(len(codes), np.int64)
        for k in range(order + 1):
            if k < len(codes):
                word[k:] += index[: len(codes) - k] * 4**k
            here = usable == k
            losses[here] = -self._log[k][word[here]]
        return losses


def _known_context(codes: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """(L,) known bases directly before each position; -1 where the position itself is not a base."""
    positions = np.arange(len(codes))
    last_unknown = np.maximum.accumulate(np.where(codes < 4, -1, positions))
    return np.where(codes < 4, positions - last_unknown - 1, -1)
