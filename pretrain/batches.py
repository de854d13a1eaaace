"""The training data of each step, read one step ahead in the background."""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from .distributed import Rank
from .masking import Batch, MaskingRates, corrupt
from .sample_order import SampleOrder, Windows
from .window_reader import UInt8Array, WindowReader


@dataclass(frozen=True)
class StepData:
    """One rank's share of a global batch, cut into micro-batches."""

    micro_batches: list[Batch]
    windows: Windows
    wait: float  # seconds the step waited for the reader


class TrainingData:
    """Draws step after step; samples `[s * G, (s + 1) * G)` of the order belong to step s.

    Rank r of W takes the samples n with n mod W = r, so the global batch does not depend on W.
    """

    def __init__(
        self,
        order: SampleOrder,
        reader: WindowReader,
        rates: MaskingRates,
        rank: Rank,
        *,
        global_batch: int,
        accumulation: int,
        first_step: int,
    ) -> None:
        self._order = order
        self._reader = reader
        self._rates = rates
        self._rank = rank
        self._global_batch = global_batch
        self._accumulation = accumulation
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="window-reader")
        self._next_step = first_step
        self._pending: Future[tuple[Windows, UInt8Array]] = self._pool.submit(self._read, first_step)

    def draw(self) -> StepData:
        """This rank's windows of the next step, corrupted, on its device.

        Raises:
            BadInput: a block is missing or corrupt.
        """
        began = time.perf_counter()
        windows, packed = self._pending.result()
        wait = time.perf_counter() - began
        self._next_step += 1
        self._pending = self._pool.submit(self._read, self._next_step)
        return StepData(list(self._corrupted(windows, packed)), windows, wait)

    def locate(self, windows: Windows) -> list[str]:
        """Coordinates of windows, for messages."""
        return self._reader.locate(windows)

    def close(self) -> None:
        """Stop reading ahead."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _read(self, step: int) -> tuple[Windows, UInt8Array]:
        first = step * self._global_batch + self._rank.rank
        windows = self._order.windows(range(first, (step + 1) * self._global_batch, self._rank.world_size))
        return windows, self._reader.read(windows)

    def _corrupted(self, windows: Windows, packed: UInt8Array) -> Iterator[Batch]:
        for part in np.split(np.arange(len(windows)), self._accumulation):
            yield corrupt(
                torch.from_numpy(packed[part]).to(self._rank.device),
                window_keys(windows.take(part)).to(self._rank.device),
                self._rates,
            )


def window_keys(windows: Windows) -> torch.Tensor:
    """(B,) int64 holding the bits of each window's uint64 key."""
    return torch.from_numpy(windows.key.view(np.int64))
