"""Which window is the n-th sample of a run: a pure function of (seed, corpus, streams, window length).

Nothing here depends on the world size, on loader workers or on what was read before. So a resume needs only the
number of samples seen, and any number of ranks draws the same global batches.

An epoch of windows of S bases in V streams, for E = (seed, epoch):
  1. Blocks are permuted by E. If genomes are mixed by weight, blocks occur several times, once or not at all.
  2. Each block gets an offset drawn from (E, block). Its windows are [0, offset), [offset, offset + S), ..., remainder,
     so every base is seen exactly once an epoch and window borders move from epoch to epoch.
  3. The list of windows of the permuted blocks is cut into V streams whose counts differ by at most one.
  4. Within a stream, the windows of `shuffle_blocks` consecutive blocks are shuffled together.
Sample n of the run comes from stream n mod V. Epochs follow each other without a gap.
"""

import threading
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from .counter_random import Int64Array, UInt64Array, hash_counters, permute
from .mixing import Mixture

# The first counter of every hash says what it is for, so two kinds of choice never hash the same tuple.
_PERMUTE, _OFFSET, _FRACTION, _SHUFFLE, _WINDOW, _STRAND = range(1, 7)


@dataclass(frozen=True, eq=False)
class Windows:
    """n samples as columns: half-open `[start, end)` in bases within a block, and the key of their random choices."""

    epoch: Int64Array
    block: Int64Array  # index into `block_bases`
    start: Int64Array
    end: Int64Array
    key: UInt64Array
    reverse: npt.NDArray[np.bool_]  # read as the reverse complement

    def __len__(self) -> int:
        return len(self.block)

    def take(self, rows: slice | npt.NDArray[np.integer]) -> "Windows":
        """Some of the samples, in the given order."""
        return Windows(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


@dataclass(frozen=True)
class _Epoch:
    """The plan of one epoch: m blocks in permuted order, repeats included, and the windows that each stream gets."""

    number: int
    first_sample: int  # samples of all earlier epochs
    blocks: Int64Array  # (m,) block index
    offsets: Int64Array  # (m,) of the block's window grid, in bases
    copies: Int64Array  # (m,) which repeat of the block
    first_window: Int64Array  # (m + 1,) cumulative windows
    stream_begin: Int64Array  # (V + 1,) first window of each stream
    stream_first: Int64Array  # (V,) position in the epoch of each stream's first sample

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
        mixture: Mixture | None = None,
        reverse_complement: bool = True,
    ) -> None:
        """
        Args:
            block_bases: (n,) length of each block in bases, in the corpus's canonical order.
            mixture: how often an epoch sees each block; default: once.

        Raises:
            ValueError: no blocks, an empty block, a non-positive size, or only weights of 0.
        """
        self._bases = np.asarray(block_bases, np.int64)
        if not len(self._bases) or int(self._bases.min()) < 1:
            raise ValueError("the order needs at least one block, and no block may be empty")
        if min(seq_len, streams, shuffle_blocks) < 1:
            raise ValueError("seq_len, streams and shuffle_blocks must be at least 1")
        self._mixture = Mixture.natural(len(self._bases)) if mixture is None else mixture
        if not (self._mixture.repeats[self._mixture.group] > 0).any():
            raise ValueError("all blocks have weight 0")
        self._seed = seed
        self._seq_len = seq_len
        self._streams = streams
        self._shuffle_blocks = shuffle_blocks
        self._reverse_complement = reverse_complement
        self._planning = threading.RLock()  # reader threads share one order, and only one may add an epoch
        self._recent: dict[int, _Epoch] = {}
        self._first_samples = [0]  # by epoch, as far as computed: samples of all earlier epochs

    def windows(self, samples: range | Int64Array) -> Windows:
        """The windows of the given sample numbers (0-based, over the whole run)."""
        wanted = np.asarray(samples, np.int64)
        if len(wanted):
            self.epoch_of(int(wanted.max()))  # extends _first_samples far enough
        epochs = np.searchsorted(self._first_samples, wanted, side="right") - 1
        parts = [(rows, self._draw(self._epoch(e), wanted[rows])) for e in np.unique(epochs).tolist()
                 for rows in [np.flatnonzero(epochs == e)]]  # fmt: skip
        if len(parts) == 1:
            return parts[0][1]
        back = np.argsort(np.concatenate([rows for rows, _ in parts] or [np.zeros(0, np.int64)]), kind="stable")
        columns = {
            field.name: np.concatenate([getattr(drawn, field.name) for _, drawn in parts])[back]
            for field in fields(Windows)
            if parts
        }
        return Windows(**columns) if columns else _no_windows()

    def epoch_windows(self, epoch: int) -> int:
        """Number of windows in `epoch`; varies a little, since an offset makes a block start with a short window."""
        return self._epoch(epoch).windows

    def epoch_of(self, sample: int) -> int:
        """The epoch a sample belongs to."""
        with self._planning:
            while sample >= self._first_samples[-1]:
                self._first_samples.append(self._first_samples[-1] + self._epoch(len(self._first_samples) - 1).windows)
            return int(np.searchsorted(self._first_samples, sample, side="right")) - 1

    def _epoch(self, number: int) -> _Epoch:
        with self._planning:
            if number not in self._recent:
                while len(self._first_samples) <= number:
                    self._first_samples.append(
                        self._first_samples[-1] + self._epoch(len(self._first_samples) - 1).windows
                    )
                while len(self._recent) > 1:  # two stay: the current epoch and its neighbour
                    del self._recent[min(self._recent, key=lambda e: abs(e - number))]
                self._recent[number] = self._plan(number)
            return self._recent[number]

    def _plan(self, number: int) -> _Epoch:
        indices = np.arange(len(self._bases), dtype=np.int64)
        repeats = self._repeats(number)
        blocks = np.repeat(indices, repeats)
        copies = np.arange(len(blocks)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
        shuffled = np.lexsort((blocks, hash_counters(_PERMUTE, self._seed, number, blocks, copies)))
        blocks, copies = blocks[shuffled], copies[shuffled]
        bits = hash_counters(_OFFSET, self._seed, number, blocks, copies)
        offsets = (bits % np.uint64(self._seq_len)).astype(np.int64)
        lengths = self._bases[blocks]
        head = np.minimum(offsets, lengths)
        counts = (head > 0) + -(-(lengths - head) // self._seq_len)
        first_window = np.concatenate([[0], np.cumsum(counts)])

        # Stream v takes the positions k of the epoch with (first_sample + k) mod V = v. In each round of V positions
        # its turn is therefore (v - first_sample) mod V.
        first_sample, streams = self._first_samples[number], self._streams
        turn = (np.arange(streams) - first_sample) % streams
        each, extra = divmod(int(first_window[-1]), streams)
        stream_begin = np.concatenate([[0], np.cumsum(each + (turn < extra))])
        return _Epoch(number, first_sample, blocks, offsets, copies, first_window, stream_begin, turn)

    def _repeats(self, number: int) -> Int64Array:
        """(n,) how often epoch `number` sees each block: whole repeats, and once more for blocks drawn by hash.

        In each group, blocks are drawn until they hold the fractional part of the group's repeats. An epoch therefore
        misses a weight by less than one block; independent draws would miss it by chance.
        """
        group, wanted = self._mixture.group, self._mixture.repeats
        repeats = np.floor(wanted).astype(np.int64)[group]
        fraction = wanted % 1.0
        if not fraction.any():
            return repeats
        drawn = np.lexsort((hash_counters(_FRACTION, self._seed, number, np.arange(len(group))), group))
        bases, place = self._bases[drawn], group[drawn]
        totals = np.bincount(group, weights=self._bases, minlength=len(wanted))
        before = np.cumsum(bases) - bases - (np.cumsum(totals) - totals)[place]
        repeats[drawn] += before + bases / 2 < (fraction * totals)[place]
        return repeats

    def _draw(self, epoch: _Epoch, samples: Int64Array) -> Windows:
        stream = samples % self._streams
        begin, end = epoch.stream_begin[stream], epoch.stream_begin[stream + 1]
        ordinal = begin + (samples - epoch.first_sample - epoch.stream_first[stream]) // self._streams
        ordinal = self._shuffle(epoch, stream, begin, end, ordinal)

        place = np.searchsorted(epoch.first_window, ordinal, side="right") - 1
        block, offset = epoch.blocks[place], epoch.offsets[place]
        index = ordinal - epoch.first_window[place]
        # if the offset is not 0, window 0 is the short window [0, offset)
        later = np.where(index > 0, offset + (index - 1) * self._seq_len, 0)
        start = np.where(offset > 0, later, index * self._seq_len)
        stop = np.where(offset > 0, offset + index * self._seq_len, (index + 1) * self._seq_len)
        key = hash_counters(_WINDOW, self._seed, epoch.number, block, epoch.copies[place], start)
        reverse = (hash_counters(_STRAND, key) & np.uint64(1)).astype(bool) & self._reverse_complement
        number = np.full(len(samples), epoch.number)
        return Windows(number, block, start, np.minimum(stop, self._bases[block]), key, reverse)

    def _shuffle(
        self, epoch: _Epoch, stream: Int64Array, begin: Int64Array, end: Int64Array, ordinal: Int64Array
    ) -> Int64Array:
        first_place = np.searchsorted(epoch.first_window, begin, side="right") - 1
        place = np.searchsorted(epoch.first_window, ordinal, side="right") - 1
        group = (place - first_place) // self._shuffle_blocks
        low_place = first_place + group * self._shuffle_blocks
        high_place = np.minimum(low_place + self._shuffle_blocks, len(epoch.blocks))
        low = np.maximum(begin, epoch.first_window[low_place])
        high = np.minimum(end, epoch.first_window[high_place])
        key = hash_counters(_SHUFFLE, self._seed, epoch.number, stream, group)
        return low + permute(ordinal - low, high - low, key)


def held_out_windows(block_bases: Int64Array, *, seq_len: int, count: int) -> Windows:
    """Up to `count` whole windows spread evenly over held-out blocks, forward strand, the same in every run.

    A block shorter than `seq_len` gives one short window. The key depends only on block and start.
    """
    bases = np.asarray(block_bases, np.int64)
    first = np.concatenate([[0], np.cumsum(np.maximum(bases // seq_len, 1))])
    total = int(first[-1])
    chosen = np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(np.int64))
    block = np.searchsorted(first, chosen, side="right") - 1
    start = (chosen - first[block]) * seq_len
    zeros = np.zeros(len(chosen), np.int64)
    key = hash_counters(_WINDOW, 0, block, start)
    return Windows(zeros, block, start, np.minimum(start + seq_len, bases[block]), key, zeros.astype(bool))


def _no_windows() -> Windows:
    empty = np.zeros(0, np.int64)
    return Windows(empty, empty, empty, empty, empty.astype(np.uint64), empty.astype(bool))
