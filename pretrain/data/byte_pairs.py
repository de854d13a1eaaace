"""The byte-pair vocabulary of a run, learned from its training split: the same corpus gives the same merges."""

import json
from collections.abc import Iterator

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from dnachunker.dataprep.corpus.index import Corpus
from dnachunker.dataprep.packed_codes import LETTERS
from dnachunker.model.alphabet import BASES
from dnachunker.pretrain.config import DataSettings, TokenizationSettings
from dnachunker.pretrain.engine.ranks import Rank

from .window_reader import WindowReader

_BLOCKS = 256  # most blocks that the sample comes from
_PIECE = 512  # bases of one word of the trainer; a merge costs more in longer words
_COMPLEMENT = str.maketrans(BASES, BASES[::-1])


def learn_merges(reader: WindowReader, *, vocabulary: int, sample_bases: int, both_strands: bool) -> str:
    """Learn the merges of a byte-pair vocabulary; one merge a line.

    The sample is the beginnings of blocks spread evenly over the split, cut into short pieces. Nothing is random.

    Args:
        vocabulary: tokens, the four bases included.
        sample_bases: most bases that the merges are learned from.
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
    """The sample in pieces of at most `_PIECE` bases, upper case and without N."""
    blocks = len(reader.block_bases)
    chosen = np.unique(np.linspace(0, blocks - 1, min(blocks, _BLOCKS)).round().astype(int))
    share = -(-bases // len(chosen))
    for index in chosen.tolist():
        codes = reader.block(index)[:share] & 7
        text = codes.tobytes().translate(LETTERS).decode("ascii")
        for stretch in text.split("N"):
            yield from (stretch[start : start + _PIECE] for start in range(0, len(stretch), _PIECE))


def merges_of_run(corpus: Corpus, data: DataSettings, tokenization: TokenizationSettings, rank: Rank) -> str:
    """The merges of a run, learned by rank 0 and sent to all ranks; empty if the run has no byte pairs. Collective."""
    if tokenization.vocabulary is None or tokenization.sample_bases is None:
        return ""
    merges = ""
    if rank.is_main:
        merges = learn_merges(
            WindowReader(corpus, data.train_split), both_strands=data.reverse_complement,
            vocabulary=tokenization.vocabulary, sample_bases=tokenization.sample_bases,
        )  # fmt: skip
    shared: str = rank.from_main(merges)
    return shared
