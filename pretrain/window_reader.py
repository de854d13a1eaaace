"""Windows out of a corpus: opens only the blocks it is asked for and keeps the recent ones decoded."""

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dataprep.corpus_index import Corpus
from dataprep.packed_codes import PACKED_REPEAT_BIT
from model.alphabet import CODE_PAD

from .sample_order import Window

UInt8Array = npt.NDArray[np.uint8]


def _complement_table() -> UInt8Array:
    table = np.arange(256, dtype=np.uint8)
    for repeat in (0, PACKED_REPEAT_BIT):
        for code in range(4):
            table[code | repeat] = (3 - code) | repeat
    return table


_COMPLEMENT = _complement_table()


class WindowReader:
    """Reads windows of one split; not safe to share between threads."""

    def __init__(self, corpus: Corpus, split: str, *, seq_len: int, cached_blocks: int = 256) -> None:
        """
        Args:
            cached_blocks: decoded blocks kept, one byte per base each.

        Raises:
            BadInput: the corpus has no such split.
        """
        self._corpus = corpus
        self._blocks = corpus.blocks(split)
        self._seq_len = seq_len
        self._capacity = cached_blocks
        self._cache: OrderedDict[int, UInt8Array] = OrderedDict()

    @property
    def block_bases(self) -> npt.NDArray[np.int64]:
        """(n,) bases of each block of the split, in canonical order."""
        return self._blocks.bases

    def read(self, windows: Sequence[Window]) -> UInt8Array:
        """The given windows as (B, seq_len) uint8 codes with the repeat bit, `CODE_PAD` after a short one.

        Raises:
            BadInput: a block is missing or corrupt; names shard and offset.
        """
        out = np.full((len(windows), self._seq_len), CODE_PAD, np.uint8)
        for row, window in zip(out, windows, strict=True):
            bases = self.block(window.block)[window.start : window.end]
            row[: len(bases)] = _COMPLEMENT[bases[::-1]] if window.reverse else bases
        return out

    def block(self, index: int) -> UInt8Array:
        """Block `index` of the split as (bases,) uint8 codes with the repeat bit; read-only, cached.

        Raises:
            BadInput: the block is missing or corrupt; names shard and offset.
        """
        codes = self._cache.get(index)
        if codes is None:
            codes = self._corpus.read_packed(self._blocks, index)
            codes.flags.writeable = False
            self._cache[index] = codes
            if len(self._cache) > self._capacity:
                self._cache.popitem(last=False)
        else:
            self._cache.move_to_end(index)
        return codes

    def locate(self, window: Window) -> str:
        """Where a window lies, for people: `contig:start-end(strand)`, 0-based half-open."""
        begin = int(self._blocks.start[window.block])
        contig = self._blocks.contig[window.block]
        return f"{contig}:{begin + window.start}-{begin + window.end}({'-' if window.reverse else '+'})"
