"""The training data of each step, read ahead by threads.

Threads are enough: reading, checksums, decompression and the compiled loops release the interpreter lock, and threads
need not send data to another process. They read stretches of steps, about two million bases at one byte a base. The
training thread copies these bytes to the device, and turns them into token ids and masks.
"""

import contextlib
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

import numpy as np
import torch

from dnachunker.dataprep.corpus.index import Corpus
from dnachunker.pretrain.config import DataSettings, LoaderSettings
from dnachunker.pretrain.engine.ranks import Rank
from dnachunker.pretrain.order.curriculum import Curriculum
from dnachunker.pretrain.order.mixing import mixture_of
from dnachunker.pretrain.order.sample_order import Windows

from .frame_reader import FrameCache
from .masking import Batch
from .objective import Objective
from .window_reader import BadBlockPolicy, WindowReader

_BASES_TOGETHER = 2**21
_MOST_STEPS_TOGETHER = 256


@dataclass(frozen=True)
class StepData:
    """One rank's share of a global batch, cut into micro-batches; on the CPU the next draw may overwrite them.

    In a context group, micro-batches hold this rank's stretches of the windows.

    `windows` are in the order of the samples, even if the micro-batches are not.
    """

    micro_batches: list[Batch]
    windows: Windows
    global_batch: int  # windows of all ranks in this step
    seq_len: int
    wait: float  # seconds the step waited for the reader


@dataclass(frozen=True)
class _Stretch:
    """Some steps of one phase, read together."""

    steps: range
    windows: Windows  # of all steps, step after step
    packed: torch.Tensor  # (windows, L) uint8, in pinned memory where there is a GPU


class TrainingData:
    """Draws step after step, from any step on; the number of the next step is its only state."""

    def __init__(
        self,
        curriculum: Curriculum,
        reader: WindowReader,
        objective: Objective,
        rank: Rank,
        *,
        accumulation: int,
        first_step: int,
        end_step: int,
        workers: int = 1,
        order: Callable[[Batch], torch.Tensor] | None = None,
    ) -> None:
        """
        Args:
            accumulation: micro-batches of a step.
            end_step: the first step for which nothing is read.
            workers: threads that read ahead; with 0, `draw` reads.
            order: gives the rows of a step's windows in the order that fills the micro-batches; None: keep their order.
        """
        self._curriculum = curriculum
        self._reader = reader
        self._objective = objective
        self._rank = rank
        self._accumulation = accumulation
        self._order = order
        self._end_step = end_step
        self._workers = workers
        self._pool = ThreadPoolExecutor(workers, "window-reader") if workers else None
        self._pending: deque[Future[_Stretch]] = deque()
        self._current: _Stretch | None = None
        self._next_step = self._next_unread = first_step
        self._steps_together = 1  # grows from stretch to stretch: the first batch should not wait for many others
        self._pin_memory = rank.device.type == "cuda"
        self._spare: SimpleQueue[torch.Tensor] = SimpleQueue()  # buffers of stretches that are used up
        self._buffers: list[Batch] = []  # on the CPU: the last step's micro-batches, to be overwritten

    @classmethod
    def of(
        cls,
        corpus: Corpus,
        data: DataSettings,
        loader: LoaderSettings,
        objective: Objective,
        rank: Rank,
        *,
        seed: int,
        batch_of: Callable[[int], int],
        accumulation: int,
        first_step: int,
        end_step: int,
        order: Callable[[Batch], torch.Tensor] | None,
    ) -> "TrainingData":
        """The training data of a config; arguments as in `__init__`, `Curriculum` and `PretrainConfig`."""
        blocks = corpus.blocks(data.train_split)
        mixture = mixture_of(blocks, corpus.sources, data.mixing, data.corpus)
        reader = WindowReader(
            corpus,
            data.train_split,
            # for each stream of this rank: the blocks whose windows are shuffled together, and the next block
            cached_blocks=data.streams // rank.data_ranks * (data.shuffle_blocks + 1),
            threads=loader.workers + 1,
            frame_cache=FrameCache(Path(loader.cache), int(loader.cache_gib * 2**30)) if loader.cache else None,
            bad_blocks=BadBlockPolicy(skip=loader.on_bad_block == "skip", most=loader.max_bad_blocks),
        )
        return cls(
            Curriculum.of(data, blocks.bases, mixture, seed=seed, batch_of=batch_of), reader, objective, rank,
            accumulation=accumulation, first_step=first_step, end_step=end_step, workers=loader.workers, order=order,
        )  # fmt: skip

    @property
    def reader(self) -> WindowReader:
        """Reads the blocks of the training split."""
        return self._reader

    def samples_before(self, step: int) -> int:
        """Number of windows of all ranks before `step`, left-out batches included."""
        return self._curriculum.samples_before(step)

    def draw(self) -> StepData:
        """This rank's micro-batches of the next step, on its device.

        Raises:
            BadInput: a block is missing or corrupt.
        """
        began = time.perf_counter()
        phase = self._curriculum.phase(self._next_step)
        windows, packed = self.draw_packed()
        wait = time.perf_counter() - began
        columns = self._rank.columns(phase.seq_len)
        batches = [batch.columns(columns) for batch in self._corrupted(windows, packed)]
        return StepData(batches, windows, phase.global_batch, phase.seq_len, wait)

    def draw_packed(self) -> tuple[Windows, torch.Tensor]:
        """This rank's windows of the next step as read: (windows, L) uint8 on the CPU, valid until the next draw.

        Raises:
            BadInput: a block is missing or corrupt.
        """
        if self._current is None or self._next_step not in self._current.steps:
            if self._current is not None and not self._pin_memory:
                self._spare.put(self._current.packed)
            self._current = self._next_stretch()
        per_rank = self._curriculum.phase(self._next_step).global_batch // self._rank.data_ranks
        begin = (self._next_step - self._current.steps.start) * per_rank
        rows = slice(begin, begin + per_rank)
        self._next_step += 1
        return self._current.windows.take(rows), self._current.packed[rows]

    def locate(self, windows: Windows) -> list[str]:
        """Coordinates of windows, for messages."""
        return self._reader.locate(windows)

    def close(self) -> None:
        """Stop reading ahead."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._reader.close()

    def _next_stretch(self) -> _Stretch:
        if self._pool is None:
            return self._read(self._following())
        # each thread reads one stretch, and one more is ready
        while len(self._pending) <= self._workers and self._next_unread < max(self._end_step, self._next_step + 1):
            self._pending.append(self._pool.submit(self._read, self._following()))
        stretch = self._pending.popleft().result()
        if self._next_unread < self._end_step:
            self._pending.append(self._pool.submit(self._read, self._following()))
        return stretch

    def _following(self) -> range:
        phase = self._curriculum.phase(self._next_unread)
        step_bases = phase.global_batch // self._rank.data_ranks * phase.seq_len
        most = min(
            self._steps_together, max(1, _BASES_TOGETHER // step_bases), max(1, self._end_step - self._next_unread)
        )
        self._steps_together = min(4 * self._steps_together, _MOST_STEPS_TOGETHER)
        steps = self._curriculum.steps_together(self._next_unread, most)
        self._next_unread = steps.stop
        return steps

    def _read(self, steps: range) -> _Stretch:
        windows = self._curriculum.windows(steps, rank=self._rank.data_rank, world_size=self._rank.data_ranks)
        shape = (len(windows), self._curriculum.phase(steps.start).seq_len)
        packed = self._packed_buffer(shape)
        self._reader.read(windows, shape[1], out=packed.numpy())
        return _Stretch(steps, windows, packed)

    def _packed_buffer(self, shape: tuple[int, int]) -> torch.Tensor:
        while not self._pin_memory and not self._spare.empty():
            with contextlib.suppress(Empty):  # another reader was faster
                spare = self._spare.get_nowait()
                if spare.shape == shape:
                    return spare
        # torch reuses pinned memory only after the copies out of it are done, which makes this a double buffer
        return torch.empty(shape, dtype=torch.uint8, pin_memory=self._pin_memory)

    def _corrupted(self, windows: Windows, packed: torch.Tensor) -> list[Batch]:
        device, size = self._rank.device, len(windows) // self._accumulation
        keys = window_keys(windows)
        if self._pin_memory:  # a copy out of other memory would wait until the device is idle
            keys = keys.pin_memory().to(device, non_blocking=True)
        parts = [slice(begin, begin + size) for begin in range(0, len(windows), size)]
        if self._order is not None:
            if device.type == "cpu" and not (self._buffers and self._buffers[0].input_ids.shape == packed.shape):
                self._buffers = [Batch.empty(*packed.shape)]
            buffer = self._buffers[0] if self._buffers else None
            whole = self._objective.batch(packed.to(device, non_blocking=True), keys, out=buffer)
            rows = self._order(whole)
            return [whole.take(rows[part]) for part in parts]
        if device.type != "cpu":
            return [self._objective.batch(packed[part].to(device, non_blocking=True), keys[part])
                    for part in parts]  # fmt: skip
        if not self._buffers or self._buffers[0].input_ids.shape != packed[parts[0]].shape:
            self._buffers = [Batch.empty(size, packed.shape[1]) for _ in parts]
        return [self._objective.batch(packed[part], keys[part], out=buffer)
                for part, buffer in zip(parts, self._buffers, strict=True)]  # fmt: skip


def window_keys(windows: Windows) -> torch.Tensor:
    """(B,) int64 holding the bits of each window's uint64 key."""
    return torch.from_numpy(windows.key.view(np.int64))
