"""This process as one of the ranks, and the few collectives that training needs."""

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from dnachunker.model.context_group import ContextGroup


@dataclass(frozen=True)
class Rank:
    """This process among the ranks; `device` holds its tensors.

    `context_size` ranks in a row, a context group, share windows; each group is one of `data_ranks`.
    """

    rank: int
    world_size: int
    local_rank: int
    device: torch.device
    context_size: int = 1

    @property
    def data_rank(self) -> int:
        """Which share of the windows this rank works on."""
        return self.rank // self.context_size

    @property
    def data_ranks(self) -> int:
        """Into how many shares the windows are dealt."""
        return self.world_size // self.context_size

    @property
    def context_rank(self) -> int:
        """Which stretch of its windows this rank holds."""
        return self.rank % self.context_size

    def columns(self, length: int) -> slice:
        """The positions of this rank's stretch in windows of so many positions."""
        return ContextGroup(self.context_rank, self.context_size).columns(length)

    @property
    def is_main(self) -> bool:
        """Whether this rank writes logs, events and pages."""
        return self.rank == 0

    @staticmethod
    def from_environment(environment: Mapping[str, str] = os.environ) -> "Rank":
        """From the variables that every launcher (DeepSpeed, torchrun, SLURM wrappers) sets."""
        local_rank = int(environment.get("LOCAL_RANK", "0"))
        use_gpu = torch.cuda.is_available() and environment.get("DS_ACCELERATOR", "cuda") == "cuda"
        device = torch.device("cuda", local_rank) if use_gpu else torch.device("cpu")
        return Rank(int(environment.get("RANK", "0")), int(environment.get("WORLD_SIZE", "1")), local_rank, device)

    def sum(self, *values: float | torch.Tensor) -> list[float]:
        """Each value summed over all ranks in float64; identical on every rank."""
        stacked = torch.stack([torch.as_tensor(value, dtype=torch.float64, device=self.device) for value in values])
        if self.world_size > 1:
            dist.all_reduce(stacked)
        return stacked.tolist()

    def sum_tensor(self, values: torch.Tensor) -> torch.Tensor:
        """`values` summed elementwise over all ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def tensor_from_main(self, values: torch.Tensor) -> torch.Tensor:
        """Rank 0's `values` on every rank; the others pass any values of the same shape and dtype."""
        if self.world_size > 1:
            values = values.to(self.device)
            dist.broadcast(values, src=0)
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        return self.sum(float(flag))[0] > 0

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, in order of rank, on every rank."""
        values: list[Any] = [value] * self.world_size
        if self.world_size > 1:
            dist.all_gather_object(values, value)
        return values

    def from_main(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        values = [value]
        if self.world_size > 1:
            dist.broadcast_object_list(values, src=0)
        return values[0]

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.world_size > 1:
            dist.barrier()


@functools.cache
def context_group(rank: Rank) -> ContextGroup | None:
    """The ranks that share windows with this one, None if there are none; collective when first called."""
    size = rank.context_size
    if size == 1:
        return None
    groups = [dist.new_group(list(range(first, first + size))) for first in range(0, rank.world_size, size)]
    return ContextGroup(rank.context_rank, size, groups[rank.data_rank])
