"""Decoded blocks in memory of fixed size, shared by reader threads: a block is decoded once for all threads."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

UInt8Array = npt.NDArray[np.uint8]
MOST_HELD = 16


@dataclass
class _Entry:
    slot: int
    users: int = 1
    ready: "Future[None]" = field(default_factory=Future)


class BlockCache:
    """The most recently used blocks, each in a slot of one array that is allocated once.

    So memory does not grow after the first round, and no time goes into fresh pages.
    """

    def __init__(
        self, load: Callable[[int, UInt8Array], None], block_bases: npt.NDArray[np.int64], *, slots: int, threads: int
    ) -> None:
        """
        Args:
            load: writes block i into a (bases,) uint8 array; called while no lock is held.
            block_bases: (n,) bases of each block.
            slots: blocks kept; raised to `threads` * `MOST_HELD`, which all threads together may hold.
        """
        self._load = load
        self._bases = block_bases
        slots = min(max(slots, threads * MOST_HELD), len(block_bases))
        self._memory = np.empty((slots, int(block_bases.max())), np.uint8)
        self._free = list(range(slots))
        self._entries: OrderedDict[int, _Entry] = OrderedDict()  # least recently used first
        self._lock = threading.Lock()

    def missing(self, blocks: Iterable[int]) -> list[int]:
        """Those of `blocks` that are neither in the cache nor being decoded."""
        with self._lock:
            return [block for block in blocks if block not in self._entries]

    @property
    def memory(self) -> UInt8Array:
        """(slots, bases) uint8: the decoded block of each slot, valid while the slot is held."""
        return self._memory

    @contextmanager
    def hold(self, blocks: Sequence[int]) -> Iterator[list[int]]:
        """The slots of at most `MOST_HELD` distinct blocks, decoded; read-only, and valid inside the `with`.

        Raises:
            Exception: whatever `load` raised for one of the blocks.
        """
        entries: list[_Entry] = []
        try:
            new = self._enter(blocks, entries)
            for block, entry in new:
                self._fill(entry, block)
            for entry in entries:
                entry.ready.result()
            yield [entry.slot for entry in entries]
        finally:
            self._leave(entries)

    def _enter(self, blocks: Sequence[int], entries: list[_Entry]) -> list[tuple[int, _Entry]]:
        new = []
        with self._lock:
            for block in blocks:
                entry = self._entries.get(block)
                if entry is None:
                    self._entries[block] = entry = _Entry(self._take_slot())
                    new.append((block, entry))
                else:
                    entry.users += 1
                    self._entries.move_to_end(block)
                entries.append(entry)
        return new

    def _take_slot(self) -> int:
        if self._free:
            return self._free.pop()
        for block, entry in self._entries.items():
            if entry.users == 0:
                del self._entries[block]
                return entry.slot
        raise RuntimeError("more blocks are held at the same time than the cache has slots")

    def _fill(self, entry: _Entry, block: int) -> None:
        try:
            self._load(block, self._memory[entry.slot, : int(self._bases[block])])
        except BaseException as error:
            with self._lock:  # the next `hold` tries again; the slot is free when all waiting threads have left
                del self._entries[block]
            entry.ready.set_exception(error)
        else:
            entry.ready.set_result(None)

    def _leave(self, entries: list[_Entry]) -> None:
        with self._lock:
            for entry in entries:
                entry.users -= 1
                if entry.users == 0 and entry.ready.done() and entry.ready.exception():
                    self._free.append(entry.slot)
