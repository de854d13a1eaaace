"""Which window is the n-th sample of a run: a pure function of (seed, corpus, streams, window length).

Nothing here depends on the world size, on loader workers or on what was read before, so a resume needs only
the number of samples seen, and any number of ranks draws the same global batches.

An epoch, for E = (seed, epoch):
  1. Blocks (with whole repeats and a hashed fraction where genomes are mixed by weight) are permuted by E.
  2. Each gets a phase drawn from (E, block): its windows are [0, phase), [phase, phase + S), ..., remainder,
     so every base is seen exactly once an epoch and window borders move from epoch to epoch.
  3. The windows of the permuted blocks, in line, are cut into V streams whose counts differ by at most one.
  4. Within a stream, the windows of `shuffle_blocks` consecutive blocks are shuffled together.
The n-th sample of the run is drawn from stream n mod V. Epochs follow each other without a gap.
"""

import threading
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from .counter_random import Int64Array, UInt64Array, hash_counters, permute
from .mixing import Mixture

# Domains keep the uses of one seed apart: two draws never share a counter tuple.
_PERMUTE, _PHASE, _FRACTION, _SHUFFLE, _WINDOW, _STRAND = range(1, 7)


@dataclass(frozen=True, eq=False)
class Windows:
    """n samples as columns: half-open `[start, end)` in bases within a block, and the key of all random choices."""

    epoch: Int64Array
    block: Int64Array  # index into the blocks the order was made from
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
    """The plan of one epoch: m block visits in permuted order, and the run of windows each stream gets."""

    number: int
    offset: int  # samples of all earlier epochs
    blocks: Int64Array  # (m,) block index
    phases: Int64Array  # (m,)
    copies: Int64Array  # (m,) which repeat of the block
    first_window: Int64Array  # (m + 1,) cumulative windows
    stream_begin: Int64Array  # (V + 1,) first window of each stream's run
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
            mixture: how often an epoch sees which blocks; without it, every block once.

        Raises:
            ValueError: no blocks, an empty block, or a non-positive size.
        """
        self._bases = np.asarray(block_bases, np.int64)
        if not len(self._bases) or int(self._bases.min()) < 1:
            raise ValueError("the order needs at least one block, and no empty ones")
        if min(seq_len, streams, shuffle_blocks) < 1:
            raise ValueError("seq_len, streams and shuffle_blocks are at least 1")
        self._mixture = Mixture.natural(len(self._bases)) if mixture is None else mixture
        if not (self._mixture.repeats[self._mixture.group] > 0).any():
            raise ValueError("all blocks have weight 0")
        self._seed = seed
        self._seq_len = seq_len
        self._streams = streams
        self._shuffle_blocks = shuffle_blocks
        self._reverse_complement = reverse_complement
        self._planning = threading.RLock()  # reader threads draw from one order: none may count an epoch twice
        self._recent: dict[int, _Epoch] = {}
        self._offsets = [0]  # offsets[e]: samples before epoch e, as far as computed

    def windows(self, samples: range | Int64Array) -> Windows:
        """The windows of the given sample numbers (0-based, over the whole run)."""
        wanted = np.asarray(samples, np.int64)
        if len(wanted):
            self.epoch_of(int(wanted.max()))  # so that the offsets reach far enough
        epochs = np.searchsorted(self._offsets, wanted, side="right") - 1
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
        """Number of windows in `epoch`: it varies a little, since phases make blocks start with a short window."""
        return self._epoch(epoch).windows

    def epoch_of(self, sample: int) -> int:
        """The epoch a sample belongs to."""
        with self._planning:
            while sample >= self._offsets[-1]:
                self._offsets.append(self._offsets[-1] + self._epoch(len(self._offsets) - 1).windows)
            return int(np.searchsorted(self._offsets, sample, side="right")) - 1

    def _epoch(self, number: int) -> _Epoch:
        with self._planning:
            if number not in self._recent:
                while len(self._offsets) <= number:
                    self._offsets.append(self._offsets[-1] + self._epoch(len(self._offsets) - 1).windows)
                while len(self._recent) > 1:  # the current epoch and the one it flows into
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
        bits = hash_counters(_PHASE, self._seed, number, blocks, copies)
        phases = (bits % np.uint64(self._seq_len)).astype(np.int64)
        lengths = self._bases[blocks]
        head = np.minimum(phases, lengths)
        counts = (head > 0) + -(-(lengths - head) // self._seq_len)
        first_window = np.concatenate([[0], np.cumsum(counts)])

        # Stream v takes the positions k of the epoch with (offset + k) mod V = v: turn v - offset (mod V) of a round.
        offset, streams = self._offsets[number], self._streams
        turn = (np.arange(streams) - offset) % streams
        each, extra = divmod(int(first_window[-1]), streams)
        stream_begin = np.concatenate([[0], np.cumsum(each + (turn < extra))])
        return _Epoch(number, offset, blocks, phases, copies, first_window, stream_begin, turn)

    def _repeats(self, number: int) -> Int64Array:
        """(n,) times epoch `number` sees each block: whole repeats, and for the fraction blocks drawn by hash.

        They are drawn until they hold the fraction of the group's bases, so an epoch misses a weight by less than a
        block, not by the chance of independent draws.
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
        ordinal = begin + (samples - epoch.offset - epoch.stream_first[stream]) // self._streams
        ordinal = self._shuffle(epoch, stream, begin, end, ordinal)

        place = np.searchsorted(epoch.first_window, ordinal, side="right") - 1
        block, phase = epoch.blocks[place], epoch.phases[place]
        index = ordinal - epoch.first_window[place]
        # with a phase, window 0 is the short one before it
        start = np.where(phase > 0, np.where(index > 0, phase + (index - 1) * self._seq_len, 0), index * self._seq_len)
        stop = np.where(phase > 0, phase + index * self._seq_len, (index + 1) * self._seq_len)
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

    Blocks shorter than `seq_len` give their only window short. The key depends on the window's place alone.
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
