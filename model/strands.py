"""Both strands of every sequence, read side by side: a network exactly equivariant to the reverse complement.

With `strand_symmetry` the network reads x and its reverse complement rc(x), with the same weights, as two sequences
of one packing: of the 2B real sequences, number B + i is the other strand of number i. The strands meet twice, each
time in a mean that does not depend on their order: in the router's probabilities, so that both strands are cut at the
same borders, and in the logits. Exchanging x and rc(x) therefore only exchanges the two halves of the packing, whatever
the layers do; hence f(rc(x)) is the mirror image of f(x).

A border before position t of a strand of length L lies before position L-t of the other strand.
"""

import torch
from torch import Tensor

from .alphabet import A_ID, T_ID
from .packing import Packing


def complement(ids: Tensor) -> Tensor:
    """Token ids of the other strand's bases, of any shape: A and T, C and G exchanged, all other tokens as they are."""
    return torch.where((ids >= A_ID) & (ids <= T_ID), A_ID + T_ID - ids, ids)


def complement_logits(logits: Tensor) -> Tensor:
    """(..., V) logits of the paired bases: those of A and T, C and G exchanged."""
    return torch.cat((logits[..., :A_ID], logits[..., A_ID : T_ID + 1].flip(-1), logits[..., T_ID + 1 :]), dim=-1)


def both_strands(input_ids: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """(B, L) ids and whether they are present -> (2B, L) of each, the other strands after the given ones."""
    return torch.cat((input_ids, complement(input_ids).flip(1))), torch.cat((present, present.flip(1)))


def _across(packing: Packing, shift: int) -> Tensor:
    """(T,) int64: each position's mirror image on the other strand, plus `shift`; filler maps to itself."""
    half = len(packing.real_lengths) // 2
    other = torch.where(packing.sequence < half, packing.sequence + half, packing.sequence - half)
    other = torch.where(packing.real, other, packing.sequence)
    mirrored = packing.starts[other] + packing.lengths[other] - 1 - packing.offset + shift
    here = torch.arange(packing.total, device=mirrored.device)
    # clamped: if chunks beyond the capacity are lost, strands differ in length; the loss of such a batch is NaN anyway
    return torch.where(packing.real, mirrored, here).clamp(0, max(packing.total - 1, 0))


def border_means(values: Tensor, packing: Packing) -> Tensor:
    """Values of the borders before each position (T,), averaged over the strands; values at a sequence's start stay."""
    return torch.where(packing.first, values, (values + values[_across(packing, 1)]) / 2)


def borders_on_both(marked: Tensor, packing: Packing) -> Tensor:
    """(T,) bool, borders marked on either strand -> marked on both."""
    return marked | (marked[_across(packing, 1)] & ~packing.first)


def opposite(packing: Packing) -> Tensor:
    """(T,) int64: packed position of the paired base on the other strand."""
    return _across(packing, 0)


def base_means(values: Tensor, packing: Packing) -> Tensor:
    """(T, ...) values per position, averaged with the values of the paired base."""
    return (values + values[opposite(packing)]) / 2


def sequence_means(values: Tensor) -> Tensor:
    """(2B, D) values of sequences -> (B, D), averaged over the strands."""
    return (values[: len(values) // 2] + values[len(values) // 2 :]) / 2
