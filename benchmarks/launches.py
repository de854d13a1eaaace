"""Counts the operations that torch dispatches in a training step, and the bytes that some parts of the step touch.

python benchmarks/launches.py     (runs on a CPU; the counts are the same on every device)

On a GPU each operation is at least one kernel launch, so the counts show what fewer launches, fused kernels for the
boundaries or CUDA graphs could save. The model has the layers of the 172M model, but is narrower, which changes no
count. Scan, convolution and smoothing have kernels of their own and are not counted.
"""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.model.losses import labelled_rows, mlm_loss
from dnachunker.model.modeling_dnachunker import DNAChunkerForMaskedLM
from dnachunker.model.packing import Packing, unpack
from dnachunker.model.routing import Router, Segmentation

POSITIONS = 131_072


class Counter(TorchDispatchMode):
    """Counts operations that compute something, and the bytes they read and write; views cost nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.operations, self.bytes = 0, 0

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), options: dict[str, Any] | None = None
    ) -> Any:
        result = function(*arguments, **(options or {}))
        read = [x for x in tree_leaves((arguments, options)) if isinstance(x, Tensor)]
        written = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        if not function.is_view and written and "empty" not in str(function):
            self.operations += 1
            touched = [*read, *written]
            if "index_select" in str(function):  # reads only the selected rows, which it writes
                touched = [*written, *written]
            elif "index_add" in str(function):  # reads the source, and reads and writes as many rows of the target
                touched = [arguments[3]] * 3
            self.bytes += sum(x.numel() * x.element_size() for x in touched)
        return result


@contextmanager
def counting() -> Iterator[Counter]:
    counter = Counter()
    with counter:
        yield counter


class Given(torch.nn.Module):
    """Stands in for a router's module `probability`: returns given probabilities."""

    def __init__(self, probability: Tensor) -> None:
        super().__init__()
        self.values = probability

    def forward(self, x: Tensor, packing: Packing) -> Tensor:
        return self.values


def boundaries() -> Counter:
    """Count one stage: from the boundary probabilities to all facts about its chunks that the model uses."""
    generator = torch.Generator().manual_seed(0)
    packing = Packing(torch.arange(0, POSITIONS + 1, 8192, dtype=torch.int32), POSITIONS, 8192)
    router = Router(DNAChunkerConfig(width=32, num_heads=2), 0)
    router.probability = Given(torch.rand(POSITIONS, generator=generator))
    masked = torch.rand(POSITIONS, generator=generator) < 0.12
    _ = packing.first, packing.last, packing.sequence, packing.steps  # computed before, by embedding and encoder
    with counting() as counter:
        cut: Segmentation = router(torch.empty(POSITIONS, 0), packing, masked, None, POSITIONS * 6 // 10)
        _ = cut.starts, cut.chunk, cut.chunks, cut.overflowed, cut.chunk_holds_mask, cut.gate
    return counter


def head(share: float | None) -> Counter:
    """Count head and loss in bf16, forward and backward.

    Args:
        share: capacity for labels, as a share of the positions; None: over all positions.
    """
    generator = torch.Generator().manual_seed(0)
    labels = torch.where(torch.rand(POSITIONS, generator=generator) < 0.15, 7, -100)
    weight = torch.randn(16, 640, dtype=torch.bfloat16, requires_grad=True)
    hidden = torch.randn(POSITIONS, 640, dtype=torch.bfloat16, requires_grad=True)
    with counting() as counter:
        if share is None:
            logits = F.linear(hidden, weight).float()
            unpack(logits, torch.arange(POSITIONS), (16, POSITIONS // 16))
            loss = mlm_loss(logits, labels, None, 1.0)
        else:
            rows, truth, _ = labelled_rows(labels, math.ceil(share * POSITIONS))
            loss = mlm_loss(F.linear(hidden.index_select(0, rows), weight).float(), truth, None, 1.0)
        loss.backward()
    return counter


def step() -> tuple[int, int]:
    """Operations of a training step, forward and backward, and how many of them the trunk's forward pass has."""
    small = {"width": 32, "num_heads": 2, "state_size": 4, "chunk_capacity": (0.9, 0.9), "label_capacity": 0.5}
    torch.manual_seed(0)
    model = DNAChunkerForMaskedLM(DNAChunkerConfig(**small))
    ids = torch.randint(7, 11, (1, 64), generator=torch.Generator().manual_seed(0))
    trunk: list[int] = []
    inner = model.dnachunker.hierarchy.trunk
    with counting() as counter:
        inner.register_forward_pre_hook(lambda *_: trunk.append(counter.operations))
        inner.register_forward_hook(lambda *_: trunk.append(counter.operations))
        model(ids, labels=ids.where(ids == 7, -100)).loss.backward()
    return counter.operations, trunk[1] - trunk[0]


def main() -> None:
    cut = boundaries()
    size = cut.bytes / POSITIONS
    print(f"one stage, from probabilities to chunks: {cut.operations} operations, {size:.0f} bytes a position")
    everywhere, labelled = (head(share).bytes / POSITIONS for share in (None, 0.16))
    print(f"head and loss: {everywhere:.0f} bytes a base everywhere, {labelled:.0f} on 16 % of the positions")
    whole, trunk = step()
    print(f"a training step: {whole} operations forward and backward, {trunk} of them in the trunk's forward pass")


if __name__ == "__main__":
    main()
