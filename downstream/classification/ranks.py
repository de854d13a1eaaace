"""The ranks that train one classifier together: one process, unless a launcher started several."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import nn


@dataclass(frozen=True)
class Ranks:
    """Rank of this process, number of ranks, and the three kinds of data that ranks exchange."""

    rank: int = 0
    world: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this rank writes the results."""
        return self.rank == 0

    def add_gradients(self, network: nn.Module) -> None:
        """Replace every gradient by its sum over the ranks."""
        if self.world == 1:
            return
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        # every rank must take part, so a parameter without a gradient counts as 0
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        together = torch.cat([grad.flatten() for grad in grads])
        dist.all_reduce(together)
        for parameter, part in zip(trained, together.split([grad.numel() for grad in grads]), strict=True):
            parameter.grad = part.view_as(parameter).clone()

    def add(self, value: float) -> float:
        """The sum of a number over the ranks."""
        return sum(self._gather(value)) if self.world > 1 else value

    def interleave(self, rows: NDArray[np.float64], count: int) -> NDArray[np.float64]:
        """All `count` rows, put together from every rank's `rows`: rank r has the rows r, r + world, r + 2 world ..."""
        if self.world == 1:
            return rows
        parts = self._gather(rows)
        width = max(part.shape[1] for part in parts)
        whole = np.empty((count, width))
        for rank, part in enumerate(parts):
            if len(part):
                whole[rank :: self.world] = part
        return whole

    def _gather(self, value: Any) -> list[Any]:
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values


@contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """The ranks that a launcher (torchrun, DeepSpeed's) started, in one process group; without one, this process."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Ranks()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    finally:
        # gloo's threads must end before the interpreter does, or the process may abort as it exits (code 134)
        dist.destroy_process_group()
