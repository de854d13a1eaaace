"""Computes the chunks of a stage from its boundary probabilities, by kernels and by plain torch; both must agree."""

import math
from functools import partial

import torch

from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.model.routing import Router, Segmentation

from .inputs import Given, packed
from .machine import Machine

BACKENDS = {"triton": "kernels", "reference": "plain torch"}
FACTS = ("natural", "forced", "boundary", "starts", "chunk", "overflowed", "chunk_holds_mask", "gate")


def by_kernels_and_torch(machine: Machine) -> dict[str, dict[str, float]]:
    """Milliseconds of one stage, with a fixed capacity for chunks, so that the host never waits for the device.

    Raises:
        AssertionError: kernels and plain torch disagree in any number; the message names the fields.
    """
    packing = packed([5, 1, 3] if machine.smoke else [8192] * 8, machine.device)
    generator = torch.Generator().manual_seed(0)
    probability, chance = (torch.rand(packing.total, generator=generator).to(machine.device) for _ in range(2))
    probability, masked = torch.where(packing.first, 1.0, probability), chance < 0.12
    nothing = torch.empty(packing.total, 0, device=machine.device)
    packing.steps, packing.sequence  # noqa: B018  (computed here, because a model computes them once a batch)

    def cut(router: Router, share: float = 0.8) -> dict[str, torch.Tensor]:
        found: Segmentation = router(nothing, packing, masked, None, math.ceil(share * packing.total))
        return {name: getattr(found, name) for name in FACTS} | {"borders": found.chunks.cu_seqlens}

    routers = {name: Router(DNAChunkerConfig(width=32, num_heads=2, scan_backend=name), 0) for name in BACKENDS}
    for router in routers.values():
        router.probability = Given(probability)
    for share in (0.8, 0.3):  # capacity for more chunks than there are, and for fewer
        ours, theirs = (cut(router, share) for router in routers.values())
        if wrong := [name for name, value in theirs.items() if not ours[name].equal(value)]:
            raise AssertionError(f"kernels and plain torch disagree about {', '.join(wrong)}")
    seconds = {name: machine.seconds_of(partial(cut, router)) for name, router in routers.items()}
    return {BACKENDS[name]: {"ms": round(1e3 * taken, 3)} for name, taken in seconds.items()}
