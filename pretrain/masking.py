"""BERT corruption of DNA windows as a pure function of each window's key.

Paper: 15 % of the A/C/G/T positions are selected; of these 80 % become [MASK], 10 % a random base, 10 % stay.
N, pads and special tokens are never selected. Soft-masked (repeat) bases count less in the loss.
"""

from dataclasses import dataclass

import torch

from dataprep.packed_codes import PACKED_REPEAT_BIT
from model.alphabet import CODE_PAD, FIRST_BASE_ID, MASK_ID, PAD_ID

from .counter_random import hash_positions

IGNORED_LABEL = -100
_CODE_BITS = PACKED_REPEAT_BIT - 1


@dataclass(frozen=True)
class MaskingRates:
    """Shares in [0, 1]; `mask` and `random` are shares of the selected positions."""

    select: float = 0.15
    mask: float = 0.8
    random: float = 0.1
    repeat_weight: float = 0.1


@dataclass(frozen=True)
class Batch:
    """Windows ready for the model. B windows, L positions, all on one device."""

    input_ids: torch.Tensor  # (B, L) int64, corrupted
    attention_mask: torch.Tensor  # (B, L) bool, False at pads
    labels: torch.Tensor  # (B, L) int64 token ids at selected positions, IGNORED_LABEL elsewhere
    loss_weights: torch.Tensor  # (B, L) float32, 0 at unselected positions
    is_repeat: torch.Tensor  # (B, L) bool, soft-masked in the genome

    @property
    def weight_sum(self) -> torch.Tensor:
        """() float64: what the masked-LM loss of these windows is divided by."""
        return self.loss_weights.sum(dtype=torch.float64)


def corrupt(packed: torch.Tensor, keys: torch.Tensor, rates: MaskingRates) -> Batch:
    """Select and corrupt positions of a batch of windows.

    Args:
        packed: (B, L) uint8, base codes with the repeat bit, `CODE_PAD` beyond a window's end.
        keys: (B,) int64, the bits of each window's uint64 key.

    Returns:
        The batch, on the device of `packed`; the same keys and bases give the same batch on any device.
    """
    codes = (packed & _CODE_BITS).to(torch.int64)
    is_repeat = (packed & PACKED_REPEAT_BIT) != 0
    is_pad = codes == CODE_PAD
    ids = torch.where(is_pad, PAD_ID, codes + FIRST_BASE_ID)

    bits = hash_positions(keys, packed.shape[1])
    # high half: selected or not; next 16 bits: what happens; lowest 2 bits: which base. Independent uses.
    selected = (((bits >> 32) & 0xFFFFFFFF) < round(rates.select * 2**32)) & (codes < 4)
    action = (bits >> 16) & 0xFFFF
    masked = selected & (action < round(rates.mask * 2**16))
    replaced = selected & ~masked & (action < round((rates.mask + rates.random) * 2**16))
    corrupted = torch.where(masked, MASK_ID, torch.where(replaced, (bits & 3) + FIRST_BASE_ID, ids))

    weights = torch.where(is_repeat, rates.repeat_weight, 1.0) * selected
    labels = torch.where(selected, ids, IGNORED_LABEL)
    return Batch(corrupted, ~is_pad, labels, weights.to(torch.float32), is_repeat)


def uncorrupted_ids(packed: torch.Tensor) -> torch.Tensor:
    """(B, L) uint8 packed windows as (B, L) int64 token ids, pads included."""
    codes = (packed & _CODE_BITS).to(torch.int64)
    return torch.where(codes == CODE_PAD, PAD_ID, codes + FIRST_BASE_ID)
