"""How fast a run is: bases a second, and model-FLOPs utilisation (model FLOPs as a share of what devices can do)."""

import time
from collections.abc import Sequence
from itertools import accumulate
from operator import mul

import torch

from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.model.cost import flops_per_base
from dnachunker.pretrain.engine.ranks import Rank

_SECONDS = 0.2
_ROUNDS = 3


class Speed:
    """Turns a step's counts and duration into rates.

    Args:
        matrix_rate: FLOP per second one device reaches in matrix products; see `matrix_rate`.
    """

    def __init__(self, network: DNAChunkerConfig, rank: Rank, matrix_rate: float) -> None:
        self._network, self._world_size, self._matrix_rate = network, rank.world_size, matrix_rate

    def of_step(self, bases: float, seq_len: int, compression: Sequence[float], seconds: float) -> dict[str, float]:
        """Rates of a step.

        Args:
            bases: over all ranks.
            seq_len: bases of a window.
            compression: per stage, outermost first, chunks per position of that stage.
            seconds: the step took.

        Returns:
            `flops`: model FLOPs of the step, see `model/cost.py`. `bases_per_second`, `bases_per_second_per_device`.
            `utilisation`: `flops` as a share of what all devices reach in matrix products in the same time.
        """
        chunks_per_base = list(accumulate(compression, mul))
        flops = bases * flops_per_base(self._network, seq_len, chunks_per_base).total
        return {
            "flops": flops,
            "bases_per_second": bases / seconds,
            "bases_per_second_per_device": bases / seconds / self._world_size,
            "utilisation": flops / seconds / self._world_size / self._matrix_rate,
        }


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP per second of large square matrix products: the best of a few short rounds, with the cores a rank has."""
    size = 8192 if device.type == "cuda" else 768
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = 0.0
    for _ in range(_ROUNDS):
        products, began = 0, time.perf_counter()
        while time.perf_counter() - began < _SECONDS / _ROUNDS:
            left @ right
            products += 1
            if device.type == "cuda":
                torch.cuda.synchronize(device)
        best = max(best, products * 2 * size**3 / (time.perf_counter() - began))
    return best
