"""Fixed segmentations for the same network without learned routers: single bases, k-mers, byte pairs.

Boundaries are a function of the masked ids that the network reads: the base under a [MASK] cannot move them.
Stage 0 cuts as the tokenizer does; stage 1 keeps every chunk, so that the trunk runs on the tokenizer's tokens (and on
the chunks that mask protection forces).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor

from .alphabet import A_ID, BASES, N_ID, T_ID
from .packing import Packing

# (T,) int64 ids of packed bases and their packing -> (T,) bool, where a token starts.
TokenStarts = Callable[[Tensor, Packing], Tensor]

_LETTERS = np.full(256, ord(" "), np.uint8)
_LETTERS[A_ID : A_ID + len(BASES)] = np.frombuffer(BASES.encode(), np.uint8)


def token_starts(segmentation: Mapping[str, Any]) -> TokenStarts:
    """The segmentation that a configuration describes.

    Args:
        segmentation: `{kind: base}`; `{kind: kmer, k: 6}`; or `{kind: bpe, merges: TEXT}`, one merge a line as
            in Hugging Face's merges.txt, without its header.

    Raises:
        ValueError: another kind, or a setting that is missing, wrong or of another kind.
    """
    settings = dict(segmentation)
    kind = settings.pop("kind", None)
    if kind == "base" and not settings:
        return every_base
    if kind == "kmer" and set(settings) == {"k"} and int(settings["k"]) > 0:
        return KmerGrid(int(settings["k"]))
    if kind == "bpe" and set(settings) == {"merges"}:
        return BytePairs(settings["merges"])
    described = {key: value for key, value in segmentation.items() if key != "merges"}
    raise ValueError(
        f"segmentation is {described}; it must be {{kind: base}}, {{kind: kmer, k: K}} or {{kind: bpe, merges: TEXT}}"
    )


def every_base(ids: Tensor, packing: Packing) -> Tensor:
    """(T,) bool, all True."""
    return torch.ones_like(ids, dtype=torch.bool)


@dataclass(frozen=True)
class KmerGrid:
    """A token starts at every k-th base of each sequence, masks and N counted; the last k-mer may be short."""

    k: int

    def __call__(self, ids: Tensor, packing: Packing) -> Tensor:
        """(T,) bool."""
        return packing.offset % self.k == 0


class BytePairs:
    """Byte-pair encoding of the stretches of A, C, G, T between masks and N.

    A run of N is one token; every other id is a token of its own.
    """

    def __init__(self, merges: str) -> None:
        """
        Args:
            merges: one merge a line, two tokens with a space between, in the order in which they were learned.

        Raises:
            ValueError: a line that is not a merge of earlier tokens.
        """
        vocabulary = {letter: number for number, letter in enumerate(BASES)}
        pairs = []
        for line in merges.splitlines():
            left, _, right = line.partition(" ")
            if left not in vocabulary or right not in vocabulary:
                raise ValueError(f"merges: {line!r} does not join two earlier tokens")
            pairs.append((left, right))
            vocabulary.setdefault(left + right, len(vocabulary))  # two merges may make the same token
        self._tokenizer = Tokenizer(BPE(vocabulary, pairs))
        self._tokenizer.pre_tokenizer = WhitespaceSplit()
        self._lengths = np.array([len(token) for token in vocabulary])

    def __call__(self, ids: Tensor, packing: Packing) -> Tensor:
        """(T,) int64 ids -> (T,) bool; waits for the device, because merging runs on the host."""
        starts = self.starts(ids.cpu().numpy(), packing.first.cpu().numpy())
        return torch.from_numpy(starts).to(ids.device)

    def starts(self, ids: NDArray[np.int64], first: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """(T,) bool: where a token starts. `first` (T,) marks the starts of sequences."""
        if not len(ids):
            return np.zeros(0, np.bool_)
        is_base = (ids >= A_ID) & (ids <= T_ID)
        merged = np.where(is_base, A_ID, ids)  # bases join bases and N joins N; every other id stands alone
        joins = ~first & (np.diff(merged, prepend=-1) == 0) & (is_base | (ids == N_ID))
        starts = ~joins
        text = _LETTERS[ids].tobytes().decode("ascii")  # a space for every id that is no base
        borders = [0, *np.flatnonzero(first).tolist(), len(ids)]
        sequences = [text[begin:end] for begin, end in zip(borders, borders[1:], strict=False)]
        tokens = [np.array(found.ids, np.int64) for found in self._tokenizer.encode_batch_fast(sequences)]
        lengths = self._lengths[np.concatenate(tokens)]
        # tokens tile the bases, stretch after stretch
        starts[np.flatnonzero(is_base)[np.cumsum(lengths) - lengths]] = True
        return starts
