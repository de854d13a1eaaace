"""Held-out [MASK] loss of one model by the length of what it reads.

python benchmarks/downstream/loss_by_context.py --corpus DIR --model EXPORT

The same windows with the same masks are read whole, and in pieces of a half, a quarter and so on. A line has the
length, the mean loss in nats, and how much less it is than in the shortest pieces, with its standard error over
windows.
"""

import argparse
import math
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from dnachunker.dataprep.corpus.index import Corpus
from dnachunker.model.alphabet import MASK_ID
from dnachunker.model.modeling_dnachunker import DNAChunkerForMaskedLM
from dnachunker.pretrain.data.masking import MaskingRates, corrupt
from dnachunker.pretrain.data.training_data import window_keys
from dnachunker.pretrain.data.window_reader import WindowReader
from dnachunker.pretrain.order.sample_order import held_out_windows

SHORTEST = 256
BASES = 8192  # in a forward pass


@torch.no_grad()
def measure(options: argparse.Namespace) -> None:
    """Held-out loss over [MASK] positions, which are the same for all lengths, by the length of the pieces read."""
    model = DNAChunkerForMaskedLM.from_pretrained(options.model).eval()
    reader = WindowReader(Corpus.open(options.corpus), "valid")
    windows = held_out_windows(reader.block_bases, seq_len=options.length, count=options.windows)
    whole = (windows.end - windows.start) == options.length
    windows = windows.take(whole.nonzero()[0])
    packed = torch.from_numpy(reader.read(windows, options.length))
    batch = corrupt(packed, window_keys(windows), MaskingRates())
    masked = batch.input_ids == MASK_ID
    print(f"{len(windows)} windows, {int(masked.sum())} masked bases")
    labels, counts, shortest = batch.labels.masked_fill(~masked, -100), masked.sum(1), torch.empty(0)
    context = SHORTEST
    while context <= options.length:
        together = max(1, BASES // context)
        pieces = (values.view(-1, context).split(together) for values in (batch.input_ids, labels))
        found = [
            torch.nn.functional.cross_entropy(model(ids).logits.flatten(0, 1), truth.flatten(), reduction="none")
            for ids, truth in zip(*pieces, strict=True)
        ]
        sums = torch.cat(found).view(len(windows), -1).sum(1)
        shortest = sums if context == SHORTEST else shortest
        gain = (shortest - sums) / counts
        error = float(gain.std()) / math.sqrt(len(gain))
        mean = float(sums.sum() / counts.sum())
        print(f"| {context:,} | {mean:.4f} | {float(gain.mean()):+.4f} ± {error:.4f} |", flush=True)
        context *= 2


def main() -> None:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, help="as benchmarks/speedrun.py makes it")
    parser.add_argument("--model", type=Path, required=True, help="an exported model")
    parser.add_argument("--length", type=int, default=8192, help="of the windows: 256 times a power of two")
    parser.add_argument("--windows", type=int, default=48)
    measure(parser.parse_args())


if __name__ == "__main__":
    main()
