"""Ranks of one machine that compute a model's loss and gradients together, over gloo; started as a script.

They are forked after the imports, so that eight of them start in seconds. Each line on stdin names a file with a case,
for `compute`. Each rank writes what it found beside it, and the script then answers with a line.
"""

import os
import sys
import traceback
from itertools import product
from typing import Any

import torch
import torch.distributed as dist

from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.model.context_group import ContextGroup
from dnachunker.model.modeling_dnachunker import DNAChunkerForMaskedLM

SIZES, DATA_RANKS = (1, 2, 3, 4), (1, 2)


Case = dict[str, Any]  # see `compute`


def model_of(case: Case) -> DNAChunkerForMaskedLM:
    """A model whose weights, those of the routers too, are random, and the same on every rank."""
    torch.manual_seed(0)
    model = DNAChunkerForMaskedLM(DNAChunkerConfig(**case["config"])).to(case["dtype"])
    with torch.no_grad():
        for router in model.dnachunker.hierarchy.routers:
            if router.probability is not None:
                router.probability.query.normal_(std=0.3)
                router.probability.key.normal_(std=0.3)
    if case["checkpointing"]:
        model.gradient_checkpointing_enable()
    return model.train()


def compute(case: Case, rank: int, groups: dict[tuple[int, int], Any]) -> dict[str, Any]:
    """Losses, gradients and outputs of this rank.

    Args:
        case: `config` of the model, its `dtype`, whether it is `checkpointing`; `inputs`, each (B, L), but for
            `boundaries`, (B, stages, L), which may be left out. The windows are dealt in turn to `data_ranks` context
            groups of `size` ranks; if `size` is None, one rank has them all, not split.

    Returns:
        `losses` and `gradients` (by the weight's name), this rank's share; `outputs` of the group's whole windows;
        `trunk`, the `chunks` that this rank has there.
    """
    model, size, inputs = model_of(case), case["size"] or 1, case["inputs"]
    group = ContextGroup(rank % size, size, groups.get((size, rank // size)))
    model.dnachunker.context = group if case["size"] else None
    chunks: list[int] = []
    layer = model.dnachunker.hierarchy.trunk.layers[0]
    layer.register_forward_pre_hook(lambda _module, given: chunks.append(len(given[0])))
    length = inputs["input_ids"].shape[1]
    rows = slice(rank // size, None, case["data_ranks"])
    mine = {name: values[rows][..., group.columns(length)] for name, values in inputs.items()}
    if "boundaries" in mine:
        mine["boundaries"] = mine["boundaries"].unbind(1)
    output = model(
        **mine, loss_normalizer=float(inputs["loss_weights"].sum()), sequence_normalizer=len(inputs["input_ids"])
    )
    output.loss.backward()
    joined = {
        name: group.join(output[name].detach(), length, dim)
        for name, dim in (("logits", 1), ("stage_boundaries", 2), ("stage_chunk_ids", 2))
    }
    for name in ("stage_chunk_counts", "stage_forced_counts"):
        joined[name] = group.gather(output[name]).sum(0)
    return {
        "losses": {name: float(output[name].detach()) for name in ("loss", "mlm_loss", "ratio_loss")},
        "gradients": {name: weight.grad for name, weight in model.named_parameters()},
        "outputs": joined | {"stage_natural_rates": output.stage_natural_rates},
        "trunk": {"chunks": chunks[0]},
    }


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
            case = torch.load(line.strip())
            if rank < (case["size"] or 1) * case["data_ranks"]:
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
