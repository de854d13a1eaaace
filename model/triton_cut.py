"""Triton kernels that cut positions into chunks: threshold, forced boundaries, prefix sum and compaction.

Two launches, since a prefix sum goes across programs: `cut_mark` decides the boundaries and counts those of each
program, `cut_place` numbers them. Neither waits for the device unless the caller wants exactly as many places as there
are chunks. Everything is whole numbers, so the result does not depend on the order of programs, and equals plain
torch's exactly.
"""

from typing import Any

import torch
from torch import Tensor

from .packing import Packing
from .triton_scan import tl, triton

# Of these no value is worth compiling again for; they change with every batch.
launched: Any = triton.jit(do_not_specialize=["T", "places", "sequences"])


@launched
def cut_mark(
    probability, given, holds_mask, step, borders, natural, forced, boundary, counts,
    T, sequences, GIVEN: tl.constexpr, PROTECT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Boundaries of BLOCK positions, and how many they are. Grid (ceil(T / BLOCK),).

    probability (T,) float32; given, holds_mask, natural, forced, boundary (T,) uint8, 0 or 1; step (2, T) int32;
    borders int32, of which number `sequences` is where filler begins; counts (programs,) int32.
    """
    program = tl.program_id(0)
    t = program.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = t < T
    first = tl.load(step + t, mask=there, other=1) == 0
    real = t < tl.load(borders + sequences)
    if GIVEN:
        own = (tl.load(given + t, mask=there, other=0) != 0) | first
    else:
        own = tl.load(probability + t, mask=there, other=0.0) >= 0.5
    own = own & real
    demanded = tl.zeros([BLOCK], tl.int1)
    if PROTECT:
        after = there & (t > 0) & (first == 0)  # a position whose predecessor belongs to the same sequence
        demanded = tl.load(holds_mask + t, mask=there, other=0) != 0
        demanded = demanded | (tl.load(holds_mask + t - 1, mask=after, other=0) != 0)
        demanded = demanded & real
    cut = (own | demanded | first) & there
    tl.store(natural + t, own.to(tl.uint8), mask=there)
    tl.store(forced + t, demanded.to(tl.uint8), mask=there)
    tl.store(boundary + t, cut.to(tl.uint8), mask=there)
    tl.store(counts + program, tl.sum(cut.to(tl.int32), axis=0))


@launched
def cut_place(
    boundary, holds_mask, counts, counted, chunk, starts, chunk_holds_mask,
    T, places, BLOCK: tl.constexpr,
):  # fmt: skip
    """Number the boundaries: the chunk of each position, where chunks start, which hold a mask. Grid as `cut_mark`.

    counted, chunk (T,) int64; starts int64 and chunk_holds_mask uint8 (places,), all 0 before. Chunks beyond the last
    place have no start; their positions count as those of the last.
    """
    program = tl.program_id(0)
    t = program.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = t < T
    before = tl.zeros([BLOCK], tl.int32)
    for tile in range(0, program, BLOCK):
        others = tile + tl.arange(0, BLOCK)
        before += tl.load(counts + others, mask=others < program, other=0)
    cut = tl.load(boundary + t, mask=there, other=0).to(tl.int32)
    number = (tl.sum(before, axis=0) + tl.cumsum(cut, axis=0)).to(tl.int64)
    mine = tl.minimum(number, places) - 1
    tl.store(counted + t, number, mask=there)
    tl.store(chunk + t, mine, mask=there)
    tl.store(starts + mine, t, mask=there & (cut != 0) & (number <= places))
    holding = tl.load(holds_mask + t, mask=there, other=0) != 0
    tl.store(chunk_holds_mask + mine, tl.full([BLOCK], 1, tl.uint8), mask=there & holding)  # whoever is last writes 1


def cut_chunks(
    probability: Tensor,
    given: Tensor | None,
    holds_mask: Tensor,
    packing: Packing,
    *,
    protect: bool,
    capacity: int | None,
    block: int = 1024,
) -> dict[str, Tensor]:
    """What `routing.Segmentation` would find out about the chunks of T > 0 positions, by its names for it.

    Args:
        probability: (T,) float32. given: (T,) bool, natural boundaries in place of p >= 1/2.
        holds_mask: (T,) bool. protect: whether these force boundaries.
        capacity: places for chunks; None waits for the device to count them.
        block: positions of a program, a power of two.

    Returns:
        `natural`, `forced`, `boundary` (T,) bool, `counted` and `chunk` (T,) int64, `starts` (C,) int64,
        `chunk_holds_mask` (C,) bool.
    """
    total, device = packing.total, probability.device
    grid = (triton.cdiv(total, block),)
    holds = holds_mask.contiguous().view(torch.uint8)
    supplied = holds if given is None else given.contiguous().view(torch.uint8)
    natural, forced, boundary = (torch.empty(total, dtype=torch.uint8, device=device) for _ in range(3))
    counts = torch.empty(grid, dtype=torch.int32, device=device)
    counted, chunk = (torch.empty(total, dtype=torch.int64, device=device) for _ in range(2))
    with torch.cuda.device_of(probability):  # Triton launches on the current device
        cut_mark[grid](
            probability.detach().contiguous(), supplied, holds, packing.steps, packing.cu_seqlens,
            natural, forced, boundary, counts,
            total, len(packing.real_lengths), GIVEN=given is not None, PROTECT=protect, BLOCK=block,
        )  # fmt: skip
        places = int(counts.sum()) if capacity is None else capacity
        starts = torch.zeros(places, dtype=torch.int64, device=device)
        holding = torch.zeros(places, dtype=torch.uint8, device=device)
        cut_place[grid](boundary, holds, counts, counted, chunk, starts, holding, total, places, BLOCK=block)
    flags = {"natural": natural, "forced": forced, "boundary": boundary, "chunk_holds_mask": holding}
    return {name: flag.view(torch.bool) for name, flag in flags.items()} | {
        "counted": counted, "chunk": chunk, "starts": starts,
    }  # fmt: skip
