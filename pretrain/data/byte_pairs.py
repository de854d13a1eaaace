"""The byte-pair vocabulary of a run, learned from its training split: the same corpus gives the same merges."""

import json
from collections.abc import Iterator

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from dnachunker.dataprep.packed_codes import LETTERS
from dnachunker.model.alphabet import BASES

from .window_reader import WindowReader

_BLOCKS = 256  # the sample comes from so many, at most
_PIECE = 512  # bases merged as one word; the cost of a merge grows with the words it is found in
_COMPLEMENT = str.maketrans(BASES, BASES[::-1])


def learn_merges(reader: WindowReader, *, vocabulary: int, sample_bases: int, both_strands: bool) -> str:
    """Merges of a vocabulary of so many tokens, the four bases included, a merge a line.

    The sample is the beginning of blocks spread evenly over the split, cut into short pieces; there is no randomness.

    Args:
        sample_bases: merges are learned from, at most.
        both_strands: read every second piece as its reverse complement, for training that reads both strands.

    Raises:
        BadInput: a block is missing or corrupt.
    """
    tokenizer = Tokenizer(BPE())
    trainer = BpeTrainer(vocab_size=vocabulary, min_frequency=2, initial_alphabet=list(BASES), show_progress=False)
    pieces = _pieces(reader, sample_bases)
    turned = (p.translate(_COMPLEMENT)[::-1] if both_strands and i % 2 else p for i, p in enumerate(pieces))
    tokenizer.train_from_iterator(turned, trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return "".join(f"{left} {right}\n" for left, right in merges)


def _pieces(reader: WindowReader, bases: int) -> Iterator[str]:
    """Stretches of A, C, G, T of at most `_PIECE` bases, upper case."""
    blocks = len(reader.block_bases)
    chosen = np.unique(np.linspace(0, blocks - 1, min(blocks, _BLOCKS)).round().astype(int))
    share = -(-bases // len(chosen))
    for index in chosen.tolist():
        codes = reader.block(index)[:share] & 7
        text = codes.tobytes().translate(LETTERS).decode("ascii")
        for stretch in text.split("N"):
            yield from (stretch[start : start + _PIECE] for start in range(0, len(stretch), _PIECE))
