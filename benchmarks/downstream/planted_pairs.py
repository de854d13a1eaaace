"""Does a model learn pairs that lie far apart, and which rotary positions extend it? Experiments on one CPU core.

python benchmarks/downstream/planted_pairs.py short --models DIR [--theta T]  # windows of 256, 512 and 1,024 bases
python benchmarks/downstream/planted_pairs.py extend --models DIR  # then of 8,192, by theta and interpolation
python benchmarks/downstream/planted_pairs.py long --models DIR [--theta T]  # then of 32,768; loss by context

A planted window is random but for eight sites: four in its first 128 bases and four in its last. A site is a word that
is the same in all windows; at the beginning sixteen equal bases follow, at the end one, which is masked. The base is
drawn for each window. So masked bases (ln 4 = 1.386 nats without the first sites) can be read only across all but 256
bases of the window. Losses are means over these bases in held-out windows. The network is small, and its chunks are
8-mers: these experiments are about the trunk.

`extend` starts from `short`. `theta` is the base of RoPE; interpolation by s divides all positions by s.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from dnachunker.model.alphabet import FIRST_BASE_ID, MASK_ID
from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.model.modeling_dnachunker import DNAChunkerForMaskedLM

NETWORK = {
    "width": 64, "num_heads": 2, "trunk_layers": 2, "encoder_layers": (1, 1), "decoder_layers": (1, 1),
    "initializer_range": 0.1, "router": "fixed", "segmentation": {"kind": "kmer", "k": 8}, "ratio_loss_weight": 0.0,
}  # fmt: skip
SHORT, MIDDLE, LONG = 1024, 8192, 32768
WORD = (0, 3, 2, 2, 1, 0, 3, 1, 1, 2, 0, 3)  # twelve bases
RUN, SITES, SLOT = 16, 4, 32  # bases after a word; sites at either end, each somewhere in so many bases
THETA, LARGE = 10_000.0, 1e6


def planted(count: int, length: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """So many planted windows: ids and labels, (B, L) int64."""
    random = torch.Generator().manual_seed(seed)
    bases = torch.randint(4, (count, length), generator=random)
    chosen = torch.randint(4, (count,), generator=random)
    labels = torch.full((count, length), -100)
    site = len(WORD) + RUN
    begins = [number * SLOT for number in range(SITES)]
    begins += [length - SITES * SLOT + begin for begin in begins]
    runs = []
    for begin in begins:
        start = begin + torch.randint(SLOT - site + 1, (count, 1), generator=random)
        bases.scatter_(1, start + torch.arange(len(WORD)), torch.tensor(WORD).expand(count, -1))
        count_here = RUN if begin < SITES * SLOT else 1
        runs.append(start + torch.arange(len(WORD), len(WORD) + count_here))
        bases.scatter_(1, runs[-1], chosen[:, None].expand(-1, count_here))
    ids = bases + FIRST_BASE_ID
    for hidden in runs[SITES:]:
        labels.scatter_(1, hidden, ids.gather(1, hidden))
        ids.scatter_(1, hidden, MASK_ID)
    return ids, labels


@torch.no_grad()
def held_out_loss(model: DNAChunkerForMaskedLM, length: int, *, context: int | None = None, windows: int = 32) -> float:
    """Mean loss of masked bases of planted windows, of which the model sees the last `context` bases."""
    ids, labels = planted(windows, length, seed=-1)
    total = 0.0
    model.eval()
    for row in range(windows):
        seen = slice(row, row + 1), slice(-(context or length), None)
        output = model(ids[seen], labels=labels[seen])
        total += float(output.mlm_loss)
    model.train()
    return total / windows


def train(
    model: DNAChunkerForMaskedLM, length: int, batch: int, steps: int, *, lr: float, seed: int,
    said: Sequence[int] = (), until: float = 0.0,
) -> list[float]:  # fmt: skip
    """Train on planted windows, until the mean training loss of twenty steps is at most `until`.

    Returns:
        The held-out losses after so many steps each of `said`.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.0)
    found, losses, began = [], [], time.process_time()
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, step / 20, (steps + 1 - step) / (steps / 5))
        ids, labels = planted(batch, length, seed=seed * 1_000_000 + step)
        output = model(ids, labels=labels)
        optimizer.zero_grad()
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(float(output.mlm_loss.detach()))
        recent = sum(losses[-20:]) / len(losses[-20:])
        if step in said:
            found.append(held_out_loss(model, length))
        done = step >= 20 and recent <= until
        if done or step % max(1, steps // 10) == 0:
            chunks = ", ".join(f"{int(count.sum()) / ids.numel():.3f}" for count in output.chunk_counts)
            rate = step * ids.numel() / (time.process_time() - began)
            print(f"  {length:,} step {step}: loss {recent:.3f}, chunks {chunks}, {rate:,.0f} bases/s", flush=True)
        if done:
            break
    return found


def set_positions(model: DNAChunkerForMaskedLM, theta: float, interpolation: float = 1.0) -> None:
    """Give the trunk another base of RoPE, and positions divided by `interpolation`."""
    trunk = model.dnachunker.hierarchy.trunk
    trunk.theta = theta
    trunk._forward_pre_hooks.clear()
    trunk.register_forward_pre_hook(lambda _, given: (*given[:2], given[2] / interpolation))


def load(path: Path) -> DNAChunkerForMaskedLM:
    """A model that `short` or `extend` has saved."""
    model = DNAChunkerForMaskedLM(DNAChunkerConfig(**NETWORK))
    model.load_state_dict(torch.load(path, weights_only=True))
    return model


def larger_base(factor: float) -> float:
    """The base that slows the slowest angle down by `factor`."""
    head = NETWORK["width"] // NETWORK["num_heads"]
    return THETA * factor ** (head / (head - 2))


def short(options: argparse.Namespace) -> None:
    """Train on short windows, whose length doubles when the pairs have been learned."""
    torch.manual_seed(options.seed)
    model = DNAChunkerForMaskedLM(DNAChunkerConfig(**NETWORK))
    set_positions(model, options.theta or THETA)
    for length in (SHORT // 4, SHORT // 2, SHORT):
        steps = options.steps or 100
        train(model, length, MIDDLE // length, steps, lr=3e-3, seed=options.seed + length, until=0.05)
        print(f"| {length:,} | {held_out_loss(model, length, windows=64):.3f} |", flush=True)
    torch.save(model.state_dict(), options.models / "short.pt")


def extend(options: argparse.Namespace) -> None:
    """Compare positions in windows that are eight times as long, before and after training on them."""
    steps = options.steps or 40
    said = [steps // 4, steps // 2, steps]
    print(f"| positions | before | {' | '.join(f'{number} steps' for number in said)} |")
    kinds = [("theta 10,000", THETA, 1.0), (f"theta {larger_base(8):,.0f}", larger_base(8), 1.0),
             (f"theta {LARGE:,.0f}", LARGE, 1.0), ("interpolation by 8", THETA, 8.0)]  # fmt: skip
    rows = []
    for name, theta, interpolation in kinds:
        model = load(options.models / "short.pt")
        set_positions(model, theta, interpolation)
        losses = [held_out_loss(model, MIDDLE)]
        losses += train(model, MIDDLE, 1, steps, lr=1e-3, seed=options.seed + 1, said=said)
        rows.append(f"| {name} | {' | '.join(f'{loss:.3f}' for loss in losses)} |")
        torch.save(model.state_dict(), options.models / f"{theta:.0f}-{interpolation:.0f}.pt")
    print(*rows, sep="\n")


def long(options: argparse.Namespace) -> None:
    """A third phase, in windows of 32,768 bases; the loss before and after, by how much of a window is seen."""
    theta = options.theta or LARGE
    model = load(options.models / f"{theta:.0f}-1.pt")
    set_positions(model, theta)
    print_by_context(model, MIDDLE)
    train(model, LONG, 1, options.steps or 70, lr=1e-3, seed=options.seed + 2)
    torch.save(model.state_dict(), options.models / "long.pt")
    print_by_context(model, LONG)


def print_by_context(model: DNAChunkerForMaskedLM, length: int, windows: int = 32) -> None:
    """The loss at the end of windows of which only the last bases are seen, and of whole windows."""
    for context in (SHORT, length // 2, length):
        loss = held_out_loss(model, length, context=context, windows=windows)
        print(f"| {length:,} | {context:,} | {loss:.3f} |", flush=True)


def main() -> None:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["short", "extend", "long"])
    parser.add_argument("--models", type=Path, required=True, help="folder of the models")
    parser.add_argument(
        "--theta", type=float, help="of `short`, default 10,000; of the model that `long` takes, default 1,000,000"
    )
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.models.mkdir(parents=True, exist_ok=True)
    {"short": short, "extend": extend, "long": long}[options.what](options)


if __name__ == "__main__":
    main()
