"""Ranks of one machine that compute a model's loss and gradients together, over gloo; started as a script.

They are forked after the imports, so that eight of them start in seconds. Each line on stdin names a file with a case:
see `Case`. Each rank writes what it found beside it, and the script then answers with a line.
"""

import os
import sys
import traceback
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import torch
import torch.distributed as dist

from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.model.context_group import ContextGroup
from dnachunker.model.modeling_dnachunker import DNAChunkerForMaskedLM

SIZES, DATA_RANKS = (1, 2, 3, 4), (1, 2)


@dataclass
class Case:
    """Windows, dealt in turn to `data_ranks` context groups of `size` ranks.

    Attributes:
        inputs: arguments of the model, each (B, L), but for `boundaries`, (B, stages, L), which may be left out.
        context: whether the windows are split at all; without it one rank computes everything.
    """

    config: dict[str, Any]
    inputs: dict[str, torch.Tensor]
    dtype: torch.dtype
    size: int = 1
    data_ranks: int = 1
    context: bool = True
    checkpointing: bool = False


@dataclass
class Found:
    """One rank's share. Gradients are by name of the weight; outputs of this rank's stretches, joined over the group."""

    losses: dict[str, float]
    gradients: dict[str, torch.Tensor]
    outputs: dict[str, torch.Tensor] = field(default_factory=dict)


def model_of(case: Case) -> DNAChunkerForMaskedLM:
    """A model whose weights, those of the routers too, are random, and the same on every rank."""
    torch.manual_seed(0)
    model = DNAChunkerForMaskedLM(DNAChunkerConfig(**case.config)).to(case.dtype)
    with torch.no_grad():
        for router in model.dnachunker.hierarchy.routers:
            if router.probability is not None:
                router.probability.query.normal_(std=0.3)
                router.probability.key.normal_(std=0.3)
    if case.checkpointing:
        model.gradient_checkpointing_enable()
    return model.train()


def compute(case: Case, rank: int, groups: dict[tuple[int, int], Any]) -> Found:
    """The losses and gradients of this rank, which is one of `size * data_ranks`."""
    model = model_of(case)
    group = ContextGroup(rank % case.size, case.size, groups.get((case.size, rank // case.size)))
    model.dnachunker.context = group if case.context else None
    length = case.inputs["input_ids"].shape[1]
    rows = slice(rank // case.size, None, case.data_ranks)
    inputs = {name: values[rows][..., group.columns(length)] for name, values in case.inputs.items()}
    if "boundaries" in inputs:
        inputs["boundaries"] = inputs["boundaries"].unbind(1)
    output = model(
        **inputs, loss_normalizer=float(case.inputs["loss_weights"].sum()),
        sequence_normalizer=len(case.inputs["input_ids"]),
    )  # fmt: skip
    output.loss.backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters()}
    joined = {
        name: group.join(output[name].detach(), length, dim)
        for name, dim in (("logits", 1), ("stage_boundaries", 2), ("stage_chunk_ids", 2))
    }
    for name in ("stage_chunk_counts", "stage_forced_counts"):
        joined[name] = group.gather(output[name]).sum(0)
    joined["stage_natural_rates"] = output.stage_natural_rates
    losses = {name: float(output[name].detach()) for name in ("loss", "mlm_loss", "ratio_loss")}
    return Found(losses, gradients, joined)


def be_rank(rank: int, folder: str, commands: int, answers: int) -> None:
    """Compute case after case, until the pipe of commands ends."""
    torch.set_num_threads(1)
    world = max(SIZES) * max(DATA_RANKS)
    dist.init_process_group("gloo", init_method=f"file://{folder}/ranks", rank=rank, world_size=world)
    groups = {
        (size, number): dist.new_group(list(range(number * size, (number + 1) * size)))
        for size, number in product(SIZES[1:], range(max(DATA_RANKS)))
    }
    with os.fdopen(commands) as lines:
        for line in lines:
            case = torch.load(line.strip(), weights_only=False)
            if rank < case.size * case.data_ranks:
                torch.save(compute(case, rank, groups), f"{line.strip()}-{rank}")
            os.write(answers, b".")


def main(folder: str) -> None:
    """Start the ranks, and hand each line on to all of them."""
    pipes = []
    answers, answer = os.pipe()
    for rank in range(max(SIZES) * max(DATA_RANKS)):
        commands, command = os.pipe()
        if os.fork() == 0:
            os.close(command)
            for _, other in pipes:
                os.close(other)
            try:
                be_rank(rank, folder, commands, answer)
            except Exception:
                traceback.print_exc()
                os.write(answer, b"x")
            finally:
                os._exit(0)
        os.close(commands)
        pipes.append((rank, command))
    print("ready", flush=True)
    for line in sys.stdin:
        for _, command in pipes:
            os.write(command, line.encode())
        told = b""
        while len(told) < len(pipes) and b"x" not in told:
            told += os.read(answers, len(pipes))
        print("failed" if b"x" in told else "done", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
