"""The loss of every base of a sequence, each predicted once while it is masked."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dnachunker.dataprep.genomes.region import Region
from dnachunker.downstream.exported import Exported
from dnachunker.downstream.windows import tile
from dnachunker.foundations.progress import Progress

_PASSES = 8  # an eighth of the bases is masked at a time, about the share of pretraining


def base_losses(exported: Exported, network: nn.Module, letters: str, window: int, seed: int) -> NDArray[np.float32]:
    """Nats (L,) of each base given the others; NaN where the letter is not A, C, G or T.

    Every window is read eight times, each time with another random eighth of its bases masked.

    Args:
        network: `exported.network("masked")`.
    """
    ids = exported.encode(letters)
    bases = [exported.ids[letter] for letter in "ACGT"]
    turn = np.random.default_rng(seed).integers(0, _PASSES, len(ids))
    turn[~np.isin(ids, bases)] = -1
    losses = np.full(len(ids), np.nan, np.float32)
    windows = list(tile(Region("sequence", 0, len(ids)), len(ids), window, window // 8))
    with Progress("losses", len(ids), "bp") as bar:
        for place in windows:
            read = slice(place.start, place.end)
            masked = [np.where(turn[read] == number, exported.ids["mask"], ids[read]) for number in range(_PASSES)]
            tokens, present = exported.batch(masked)
            with torch.no_grad():
                logits = network(input_ids=tokens, attention_mask=present).logits.float()
            found = torch.log_softmax(logits, -1).cpu().numpy()
            at = np.arange(place.keep_start, place.keep_end)
            at = at[turn[at] >= 0]
            losses[at] = -found[turn[at], at - place.start, ids[at]]
            bar.update(place.keep_end - place.keep_start)
    return losses
