"""Replaces the trunk's output during forward passes, to measure how much the predictions need the trunk."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from dnachunker.model.hierarchy import Hierarchy
from dnachunker.model.packing import Packing
from dnachunker.model.routing import Segmentation
from dnachunker.model.split_packing import SplitPacking

# From the trunk's output (C, D), the packing of its C chunks, and (C,) bool, chunks that hold a mask, to (C, D).
Replacement = Callable[[Tensor, Packing, Tensor], Tensor]


@contextmanager
def trunk_replaced(model: nn.Module, replacement: Replacement) -> Iterator[None]:
    """While entered, every forward pass of `model` hands `replacement(output, ...)` to the decoders.

    Args:
        model: any module that contains one Hierarchy, wrapped by a training engine or not.

    Raises:
        ValueError: the model contains no Hierarchy.
    """
    hierarchy = next((module for module in model.modules() if isinstance(module, Hierarchy)), None)
    if hierarchy is None:
        raise ValueError(f"{type(model).__name__} contains no Hierarchy whose trunk could be replaced")
    cuts: list[Segmentation] = []

    def note(_module: nn.Module, _inputs: Any, cut: Segmentation) -> None:
        cuts[:] = [cut]

    def replace(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        chunks, holds_mask = cuts[0].chunks, cuts[0].chunk_holds_mask
        if not isinstance(chunks, SplitPacking):
            return replacement(output, chunks, holds_mask)
        gather = chunks.gather_whole
        return replacement(gather(output), chunks.whole, gather(holds_mask))[chunks.in_whole]

    hooks = [
        hierarchy.routers[-1].register_forward_hook(note),
        hierarchy.trunk.register_forward_hook(replace),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
