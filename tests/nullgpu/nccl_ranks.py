"""Run as a script, once for each rank: collectives of null GPUs over NCCL, compared with the same ones over gloo.

RANK=.. WORLD_SIZE=.. MASTER_ADDR=.. MASTER_PORT=.. python nccl_ranks.py agree|differ|duplicate
"""

import datetime
import os
import sys

import torch
import torch.distributed as dist
from on_host import OnHost
from torch import Tensor

WAIT = datetime.timedelta(seconds=100)
REDUCTIONS = {
    "sum": dist.ReduceOp.SUM,
    "max": dist.ReduceOp.MAX,
    "min": dist.ReduceOp.MIN,
    "prod": dist.ReduceOp.PRODUCT,
}
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.uint8)
LARGE = 700_001  # values, more than one slot of shared memory holds


class Ranks:
    """This rank, its GPU, and a gloo group of the same ranks to compare with."""

    def __init__(self) -> None:
        self.rank, self.size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.device = torch.device("cuda", self.rank)
        torch.cuda.set_device(self.device)
        dist.init_process_group("nccl", timeout=WAIT, device_id=self.device)
        self.gloo = dist.new_group(backend="gloo", timeout=WAIT)

    def values(self, count: int, dtype: torch.dtype, salt: int = 0) -> Tensor:
        """Values on the CPU, others on each rank, whose sums and products are exact in every dtype."""
        generator = torch.Generator().manual_seed(100 * salt + self.rank)
        return torch.randint(0, 4, (count,), generator=generator).to(dtype)

    def all_values(self, mine: Tensor) -> Tensor:
        """(ranks, count): what every rank has, gathered by gloo."""
        parts = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(parts, mine, group=self.gloo)
        return torch.stack(parts)

    def same(self, got: Tensor, wanted: Tensor, what: str) -> None:
        assert got.device == self.device, (what, got.device)
        torch.testing.assert_close(got.cpu(), wanted, rtol=0, atol=0, equal_nan=True, msg=lambda m: f"{what}: {m}")


def reductions(ranks: Ranks) -> None:
    """All-reduce, reduce and reduce-scatter of every dtype and kind."""
    for dtype in DTYPES:
        for name, kind in REDUCTIONS.items():
            mine = ranks.values(1001, dtype)
            got, wanted = mine.to(ranks.device), mine.clone()
            dist.all_reduce(got, kind)
            dist.all_reduce(wanted, kind, group=ranks.gloo)
            ranks.same(got, wanted, f"all-reduce {name} {dtype}")
            got = mine.to(ranks.device)
            dist.reduce(got, ranks.size - 1, kind)
            ranks.same(got, wanted if ranks.rank == ranks.size - 1 else mine, f"reduce {name} {dtype}")
        whole = ranks.values(ranks.size * 77, dtype, salt=1)
        part = torch.empty(77, dtype=dtype, device=ranks.device)
        dist.reduce_scatter_tensor(part, whole.to(ranks.device))
        ranks.same(part, ranks.all_values(whole).sum(0, dtype=dtype).view(ranks.size, 77)[ranks.rank], "reduce-scatter")
    mine = ranks.values(LARGE, torch.float32, salt=2)
    got = mine.to(ranks.device)
    dist.all_reduce(got, dist.ReduceOp.AVG)
    ranks.same(got, ranks.all_values(mine).sum(0) / ranks.size, "average")
    rounded = torch.full((3,), 1 + 2**-7 * (ranks.rank + 1)).bfloat16()
    got = rounded.to(ranks.device)
    dist.all_reduce(got)
    ranks.same(got, ranks.all_values(rounded).float().sum(0).bfloat16(), "bf16 adds in fp32")
    got = mine.to(ranks.device)
    dist.all_reduce(got, dist._make_nccl_premul_sum(0.5))
    ranks.same(got, ranks.all_values(mine).sum(0) / 2, "scaled sum")
    nan = torch.tensor([float("nan") if ranks.rank == 1 else 1.0], device=ranks.device)
    dist.all_reduce(nan, dist.ReduceOp.MAX)
    ranks.same(nan, torch.tensor([float("nan")]), "NaN wins a maximum")


def movements(ranks: Ranks) -> None:
    """Broadcast, gathers, all-to-all, messages and objects."""
    for count, dtype in ((5, torch.uint8), (0, torch.float32), (LARGE, torch.float32), (333, torch.bfloat16)):
        mine = ranks.values(count, dtype, salt=3)
        everyone = ranks.all_values(mine)
        got = mine.to(ranks.device)
        dist.broadcast(got, 1)
        ranks.same(got, everyone[1], "broadcast")
        gathered = torch.empty(ranks.size * count, dtype=dtype, device=ranks.device)
        dist.all_gather_into_tensor(gathered, mine.to(ranks.device))
        ranks.same(gathered.view(ranks.size, count), everyone, "all-gather")
        own = gathered.view(ranks.size, count)[ranks.rank]
        own.copy_(mine)
        dist.all_gather_into_tensor(gathered, own)
        ranks.same(gathered.view(ranks.size, count), everyone, "all-gather in place")
        parts = [torch.empty(count, dtype=dtype, device=ranks.device) for _ in range(ranks.size)]
        dist.all_gather(parts, mine.to(ranks.device))
        for part, wanted in zip(parts, everyone, strict=True):
            ranks.same(part, wanted, "all-gather of a list")
    for width in (3, LARGE // 4):
        mine = ranks.values(ranks.size * width, torch.float32, salt=4)
        got = torch.empty(ranks.size * width, device=ranks.device)
        dist.all_to_all_single(got, mine.to(ranks.device))
        wanted = ranks.all_values(mine).view(ranks.size, ranks.size, width)[:, ranks.rank]
        ranks.same(got.view(ranks.size, width), wanted, "all-to-all")
    right, left = (ranks.rank + 1) % ranks.size, (ranks.rank - 1) % ranks.size
    mine, got = ranks.values(LARGE, torch.float32, salt=5), torch.empty(LARGE, device=ranks.device)
    ring = [dist.P2POp(dist.isend, mine.to(ranks.device), right), dist.P2POp(dist.irecv, got, left)]
    for work in dist.batch_isend_irecv(ring):
        work.wait()
    ranks.same(got, ranks.all_values(mine)[left], "messages around a ring")
    objects: list[object] = [None] * ranks.size
    dist.all_gather_object(objects, {"rank": ranks.rank})
    assert objects == [{"rank": rank} for rank in range(ranks.size)], objects
    told = [f"from {ranks.rank}"]
    dist.broadcast_object_list(told, src=ranks.size - 1)
    assert told == [f"from {ranks.size - 1}"], told
    dist.barrier()


def groups(ranks: Ranks) -> None:
    """Communicators of some ranks, made anew and by splitting, and calls that are made together."""
    for step in (2, 1):
        members = list(range(0, ranks.size, step))
        group = dist.new_group(members, backend="nccl", timeout=WAIT)
        if ranks.rank in members:
            got = torch.full((2,), float(ranks.rank), device=ranks.device)
            dist.all_reduce(got, group=group)
            ranks.same(got, torch.full((2,), float(sum(members))), "all-reduce of a group")
            dist.destroy_process_group(group)
    with dist._coalescing_manager(device=ranks.device):
        several = [torch.full((4,), float(ranks.rank + number), device=ranks.device) for number in range(3)]
        for tensor in several:
            dist.all_reduce(tensor)
    for number, tensor in enumerate(several):
        wanted = float(sum(rank + number for rank in range(ranks.size)))
        ranks.same(tensor, torch.full((4,), wanted), "all-reduces made together")


def differ(ranks: Ranks) -> None:
    """Ranks that call different collectives are all refused."""
    dist.all_reduce(torch.ones(4 + (ranks.rank == 1), device=ranks.device))


if __name__ == "__main__":
    what = sys.argv[1]
    if what == "duplicate":  # all ranks on the first GPU, as where no rank chooses its own
        os.environ["LOCAL_RANK"] = "0"
        dist.init_process_group("nccl", timeout=WAIT)
        dist.all_reduce(torch.zeros(1).cuda())
    with OnHost():
        here = Ranks()
        if what == "differ":
            differ(here)
        else:
            reductions(here)
            movements(here)
            groups(here)
            dist.destroy_process_group()
    print("agreed", flush=True)
