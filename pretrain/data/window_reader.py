"""Reads windows of a corpus: opens only the blocks they need and keeps recent blocks decoded."""

import sys
import threading
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dnachunker.dataprep.corpus.index import Corpus
from dnachunker.dataprep.corpus.shard_format import CorruptBlock
from dnachunker.foundations.failures import BadInput
from dnachunker.model.alphabet import CODE_N
from dnachunker.pretrain.order.sample_order import Windows

from .block_cache import MOST_HELD, BlockCache, UInt8Array
from .frame_reader import FrameCache, FrameReader
from .window_loops import copy_windows, unpack_block


@dataclass(frozen=True)
class BadBlockPolicy:
    """What to do with a missing or damaged block: stop, or read the block as N (no loss), at most `most` times."""

    skip: bool = False
    most: int = 16


class WindowReader:
    """Reads windows of one split; safe between threads."""

    def __init__(
        self,
        corpus: Corpus,
        split: str,
        *,
        cached_blocks: int = MOST_HELD,
        threads: int = 1,
        frame_cache: FrameCache | None = None,
        bad_blocks: BadBlockPolicy = BadBlockPolicy(),
    ) -> None:
        """
        Args:
            cached_blocks: decoded blocks kept, one byte a base each.
            threads: most threads that read at the same time.
            frame_cache: keeps the frames of a remote corpus on a local disk.

        Raises:
            BadInput: the corpus has no such split.
        """
        self._corpus = corpus
        self._blocks = corpus.blocks(split)
        self._policy = bad_blocks
        self._frames = FrameReader(corpus, self._blocks, frame_cache)
        self._cache = BlockCache(self._load, self._blocks.bases, slots=cached_blocks, threads=threads)
        self._skipped: set[str] = set()
        self._lock = threading.Lock()

    @property
    def block_bases(self) -> npt.NDArray[np.int64]:
        """(n,) bases of each block of the split, in canonical order."""
        return self._blocks.bases

    def read(self, windows: Windows, seq_len: int, out: UInt8Array | None = None) -> UInt8Array:
        """The given windows as (B, seq_len) uint8 codes with the repeat bit, `CODE_PAD` after a short window.

        Args:
            out: (B, seq_len) uint8 to write into instead of fresh memory.

        Raises:
            CorruptBlock: a block is missing or corrupt and the policy does not allow it; names shard and offset.
            BadInput: a block cannot be read at the moment (permissions, network).
        """
        out = np.empty((len(windows), seq_len), np.uint8) if out is None else out
        blocks, place = np.unique(windows.block, return_inverse=True)
        self._frames.prefetch(self._cache.missing(blocks.tolist()))
        for first in range(0, len(blocks), MOST_HELD):
            rows = np.flatnonzero((place >= first) & (place < first + MOST_HELD))
            with self._cache.hold(blocks[first : first + MOST_HELD].tolist()) as slots:
                copy_windows(
                    self._cache.memory, np.array(slots)[place[rows] - first],
                    windows.start[rows], windows.end[rows], windows.reverse[rows], rows, out,
                )  # fmt: skip
        return out

    def block(self, index: int) -> UInt8Array:
        """Block `index` of the split as (bases,) uint8 codes with the repeat bit.

        Raises:
            CorruptBlock, BadInput: as `read`.
        """
        with self._cache.hold([index]) as (slot,):
            return self._cache.memory[slot, : int(self._blocks.bases[index])].copy()

    def locate(self, windows: Windows) -> list[str]:
        """Coordinates of windows, for messages: `contig:start-end(strand)`, 1-based, both ends included."""
        begin = self._blocks.start[windows.block]
        contigs, strands = self._blocks.contig[windows.block], np.where(windows.reverse, "-", "+")
        spans = zip(contigs, begin + windows.start + 1, begin + windows.end, strands, strict=True)
        return [f"{contig}:{start}-{end}({strand})" for contig, start, end, strand in spans]

    def close(self) -> None:
        """Stop reading ahead."""
        self._frames.close()

    def _load(self, index: int, out: UInt8Array) -> None:
        try:
            self._frames.check_end(index)
        except CorruptBlock as error:
            self._skip(self._blocks.shard[index], error)  # the block itself may be undamaged
        try:
            frame = self._frames.read(index)
            unpack_block(*self._corpus.decode_frame(self._blocks, index, frame), out)
        except CorruptBlock as error:
            self._skip(self._blocks.key[index], error)
            out[:] = CODE_N

    def _skip(self, name: str, error: CorruptBlock) -> None:
        if not self._policy.skip:
            raise error
        with self._lock:
            is_new = name not in self._skipped
            self._skipped.add(name)
            count = len(self._skipped)
        if count > self._policy.most:
            raise BadInput(
                f"{error}; this is fault {count} and loader.max_bad_blocks is {self._policy.most}: "
                "run `dnachunker corpus verify`, then copy or build the corpus again"
            ) from error
        if is_new:
            print(f"dnachunker: {error}; skipped, fault {count} of at most {self._policy.most}", file=sys.stderr)
