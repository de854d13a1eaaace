"""Which window is the n-th sample of a run: a pure function of (seed, corpus, streams, window length).

Nothing here depends on the world size, on loader workers or on what was read before, so a resume needs only
the number of samples seen, and any number of ranks draws the same global batches.

An epoch, for E = (seed, epoch):
  1. Blocks (with whole repeats and a hashed fraction where a source is weighted) are permuted by E.
  2. Each gets a phase drawn from (E, block): its windows are [0, phase), [phase, phase + S), ..., remainder,
     so every base is seen exactly once an epoch and window borders move from epoch to epoch.
  3. The windows of the permuted blocks, in line, are cut into V streams whose counts differ by at most one.
  4. Within a stream, the windows of `shuffle_blocks` consecutive blocks are shuffled together.
The n-th sample of the run is drawn from stream n mod V. Epochs follow each other without a gap.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .counter_random import hash_counters

Int64Array = npt.NDArray[np.int64]

# Domains keep the uses of one seed apart: two draws never share a counter tuple.
_PERMUTE, _PHASE, _FRACTION, _SHUFFLE, _WINDOW, _STRAND = range(1, 7)


@dataclass(frozen=True)
class Window:
    """One sample: half-open `[start, end)` within a block, in bases, and the key of all its random choices."""

    epoch: int
    block: int  # index into the blocks the order was made from
    start: int
    end: int
    key: int  # uint64
    reverse: bool  # read as the reverse complement


@dataclass(frozen=True)
class _Epoch:
    number: int
    offset: int  # samples of all earlier epochs
    blocks: Int64Array  # (m,) block index, in permuted order
    copies: Int64Array  # (m,) which repeat of that block
    phases: Int64Array  # (m,)
    first_window: Int64Array  # (m + 1,) cumulative windows

    @property
    def windows(self) -> int:
        return int(self.first_window[-1])


class SampleOrder:
    """The infinite sequence of samples of a run."""

    def __init__(
        self,
        block_bases: Int64Array,
        *,
        seed: int,
        seq_len: int,
        streams: int,
        shuffle_blocks: int,
        weights: npt.NDArray[np.float64] | None = None,
        reverse_complement: bool = True,
    ) -> None:
        """
        Args:
            block_bases: (n,) length of each block in bases, in the corpus's canonical order.
            weights: (n,) times a block is seen in an epoch; 2.5 is twice, and a third time for half of them.

        Raises:
            ValueError: no blocks, an empty block, or a non-positive size.
        """
        self._bases = np.asarray(block_bases, np.int64)
        if not len(self._bases) or int(self._bases.min()) < 1:
            raise ValueError("the order needs at least one block, and no empty ones")
        if min(seq_len, streams, shuffle_blocks) < 1:
            raise ValueError("seq_len, streams and shuffle_blocks are at least 1")
        self._weights = np.ones(len(self._bases)) if weights is None else np.asarray(weights, np.float64)
        if not float(np.floor(self._weights).sum()) and not float(self._weights.sum()):
            raise ValueError("all blocks have weight 0")
        self._seed = seed
        self._seq_len = seq_len
        self._streams = streams
        self._shuffle_blocks = shuffle_blocks
        self._reverse_complement = reverse_complement
        self._epochs: OrderedDict[int, _Epoch] = OrderedDict()
        self._offsets = [0]  # offsets[e]: samples before epoch e, as far as computed
        self._shuffles: dict[int, tuple[tuple[int, int, int], Int64Array]] = {}

    def windows(self, samples: Iterable[int]) -> list[Window]:
        """The windows of the given sample numbers (0-based, over the whole run)."""
        return [self._window(sample) for sample in samples]

    def epoch_windows(self, epoch: int) -> int:
        """Number of windows in `epoch`: it varies a little, since phases make blocks start with a short window."""
        return self._epoch(epoch).windows

    def epoch_of(self, sample: int) -> int:
        """The epoch a sample belongs to."""
        while sample >= self._offsets[-1]:
            self._offsets.append(self._offsets[-1] + self._epoch(len(self._offsets) - 1).windows)
        return int(np.searchsorted(self._offsets, sample, side="right")) - 1

    def _epoch(self, number: int) -> _Epoch:
        if number in self._epochs:
            return self._epochs[number]
        while len(self._offsets) <= number:
            self._offsets.append(self._offsets[-1] + self._epoch(len(self._offsets) - 1).windows)
        indices = np.arange(len(self._bases), dtype=np.int64)
        drawn = hash_counters(_FRACTION, self._seed, number, indices).astype(np.float64) / 2.0**64
        repeats = np.floor(self._weights).astype(np.int64) + (drawn < self._weights % 1.0)
        blocks = np.repeat(indices, repeats)
        copies = np.arange(len(blocks)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
        shuffled = np.lexsort((blocks, hash_counters(_PERMUTE, self._seed, number, blocks, copies)))
        blocks, copies = blocks[shuffled], copies[shuffled]
        phases = (hash_counters(_PHASE, self._seed, number, blocks, copies) % np.uint64(self._seq_len)).astype(np.int64)
        lengths = self._bases[blocks]
        head = np.minimum(phases, lengths)
        counts = (head > 0) + -(-(lengths - head) // self._seq_len)
        plan = _Epoch(number, self._offsets[number], blocks, copies, phases, np.concatenate([[0], np.cumsum(counts)]))
        self._epochs[number] = plan
        while len(self._epochs) > 2:  # the current epoch and the one it flows into
            self._epochs.popitem(last=False)
        return plan

    def _window(self, sample: int) -> Window:
        epoch = self._epoch(self.epoch_of(sample))
        stream = sample % self._streams
        begin, end = self._stream_span(epoch, stream)
        first_position = (stream - epoch.offset) % self._streams
        ordinal = begin + (sample - epoch.offset - first_position) // self._streams
        ordinal = self._shuffled(epoch, stream, begin, end, ordinal)
        place = int(np.searchsorted(epoch.first_window, ordinal, side="right")) - 1
        block, copy, phase = int(epoch.blocks[place]), int(epoch.copies[place]), int(epoch.phases[place])
        index = ordinal - int(epoch.first_window[place])
        length = int(self._bases[block])
        if phase:  # window 0 is the short one before the phase
            start, stop = (
                (0, phase) if index == 0 else (phase + (index - 1) * self._seq_len, phase + index * self._seq_len)
            )
        else:
            start, stop = index * self._seq_len, (index + 1) * self._seq_len
        key = int(hash_counters(_WINDOW, self._seed, epoch.number, block, copy, start))
        reverse = self._reverse_complement and bool(int(hash_counters(_STRAND, key)) & 1)
        return Window(epoch.number, block, start, min(stop, length), key, reverse)

    def _stream_span(self, epoch: _Epoch, stream: int) -> tuple[int, int]:
        """The run of windows, in permuted order, that makes up one stream of an epoch."""
        # Stream v takes the epoch's positions k with (offset + k) mod V = v; earlier streams' counts add up.
        each, extra = divmod(epoch.windows, self._streams)
        turn = (stream - epoch.offset) % self._streams
        rotation = epoch.offset % self._streams
        # streams rotation, rotation + 1, ... (mod V) come first in the interleaving and get the extra windows
        wrapped = max(0, rotation + extra - self._streams)
        extras_before = min(stream, wrapped) + max(0, min(stream, rotation + extra) - rotation)
        begin = stream * each + extras_before
        return begin, begin + each + (turn < extra)

    def _shuffled(self, epoch: _Epoch, stream: int, begin: int, end: int, ordinal: int) -> int:
        first_place = int(np.searchsorted(epoch.first_window, begin, side="right")) - 1
        place = int(np.searchsorted(epoch.first_window, ordinal, side="right")) - 1
        group = (place - first_place) // self._shuffle_blocks
        low_place = first_place + group * self._shuffle_blocks
        high_place = min(low_place + self._shuffle_blocks, len(epoch.blocks))
        low = max(begin, int(epoch.first_window[low_place]))
        high = min(end, int(epoch.first_window[high_place]))
        name = (epoch.number, group, high - low)
        cached = self._shuffles.get(stream)
        if cached is None or cached[0] != name:
            drawn = hash_counters(_SHUFFLE, self._seed, epoch.number, stream, group, np.arange(high - low))
            cached = (name, np.argsort(drawn, kind="stable"))
            self._shuffles[stream] = cached
        return low + int(cached[1][ordinal - low])


def held_out_windows(block_bases: Int64Array, *, seq_len: int, count: int) -> list[Window]:
    """Up to `count` whole windows spread evenly over held-out blocks, forward strand, the same in every run.

    Blocks shorter than `seq_len` give their only window short. The key depends on the window's place alone.
    """
    bases = np.asarray(block_bases, np.int64)
    per_block = np.maximum(bases // seq_len, 1)
    first = np.concatenate([[0], np.cumsum(per_block)])
    total = int(first[-1])
    chosen = np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(np.int64))
    windows = []
    for ordinal in chosen.tolist():
        block = int(np.searchsorted(first, ordinal, side="right")) - 1
        start = (ordinal - int(first[block])) * seq_len
        key = int(hash_counters(_WINDOW, 0, block, start))
        windows.append(Window(0, block, start, min(start + seq_len, int(bases[block])), key, reverse=False))
    return windows
