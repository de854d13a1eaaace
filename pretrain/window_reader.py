"""Windows out of a corpus: opens only the blocks it is asked for and keeps the recent ones decoded."""

from collections import OrderedDict

import numpy as np
import numpy.typing as npt

from dataprep.corpus_index import Corpus
from dataprep.packed_codes import PACKED_REPEAT_BIT
from model.alphabet import CODE_PAD

from .sample_order import Windows

UInt8Array = npt.NDArray[np.uint8]


def _complement_table() -> bytes:
    table = np.arange(256, dtype=np.uint8)
    for repeat in (0, PACKED_REPEAT_BIT):
        for code in range(4):
            table[code | repeat] = (3 - code) | repeat
    return table.tobytes()


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

    def read(self, windows: Windows) -> UInt8Array:
        """The given windows as (B, seq_len) uint8 codes with the repeat bit, `CODE_PAD` after a short one.

        Raises:
            BadInput: a block is missing or corrupt; names shard and offset.
        """
        out = np.full((len(windows), self._seq_len), CODE_PAD, np.uint8)
        columns = (windows.block.tolist(), windows.start.tolist(), windows.end.tolist(), windows.reverse.tolist())
        for row, block, start, end, reverse in zip(out, *columns, strict=True):
            bases = self.block(block)[start:end]
            # bytes.translate is several times faster than indexing a table with uint8
            row[: end - start] = (
                np.frombuffer(bases[::-1].tobytes().translate(_COMPLEMENT), np.uint8) if reverse else bases
            )
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

    def locate(self, windows: Windows) -> list[str]:
        """Where windows lie, for people: `contig:start-end(strand)`, 0-based half-open."""
        begin = self._blocks.start[windows.block]
        contigs, strands = self._blocks.contig[windows.block], np.where(windows.reverse, "-", "+")
        spans = zip(contigs, begin + windows.start, begin + windows.end, strands, strict=True)
        return [f"{contig}:{start}-{end}({strand})" for contig, start, end, strand in spans]
