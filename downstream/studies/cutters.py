"""The segmentations that studies compare: the model's stages, k-mers, and BPE."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from torch import nn

from dnachunker.dataprep.genomes.region import Region
from dnachunker.downstream.exported import Exported
from dnachunker.downstream.windows import run_windows, tile

# By name of the segmentation, (L,) bool: where a token starts. The first base always starts one.
Cuts = dict[str, NDArray[np.bool_]]

_PIECE = 256  # bases of a training piece for BPE; tokens are far shorter


class Cutter(Protocol):
    """Cuts sequences into tokens; the model gives one segmentation per stage, other cutters give one."""

    def cut(self, letters: str) -> Cuts:
        """Token starts of one sequence."""
        ...


@dataclass(frozen=True)
class ModelCutter:
    """The exported model's chunks, named `stage 0`, `stage 1`, ..."""

    exported: Exported
    network: nn.Module
    window: int
    flank: int

    def cut(self, letters: str) -> Cuts:
        whole = Region("sequence", 0, len(letters))
        windows = list(tile(whole, len(letters), self.window, self.flank))
        parts = list(run_windows(self.exported, self.network, _Letters(letters), windows))
        stages = range(len(parts[0].boundaries))
        cuts = {f"stage {s}": np.concatenate([part.boundaries[s] for part in parts]) for s in stages}
        for starts in cuts.values():
            starts[0] = True  # a causal model may start the first token at [BOS]
        return cuts


@dataclass(frozen=True)
class KmerCutter:
    """Every k bases, counted from the first."""

    k: int

    def cut(self, letters: str) -> Cuts:
        return {f"{self.k}-mer": np.arange(len(letters)) % self.k == 0}


@dataclass(frozen=True)
class BpeCutter:
    """Byte-pair encoding."""

    tokenizer: Any

    def cut(self, letters: str) -> Cuts:
        starts = np.zeros(len(letters), bool)
        starts[[start for start, _ in self.tokenizer.encode(letters.upper()).offsets]] = True
        return {"BPE": starts}


def train_bpe(sequences: Sequence[str], vocabulary: int) -> BpeCutter:
    """Train BPE on sequences; N is left out."""
    tokenizer = Tokenizer(BPE(unk_token="N"))
    trainer = BpeTrainer(
        vocab_size=vocabulary, initial_alphabet=list("ACGT"), special_tokens=["N"], show_progress=False
    )
    tokenizer.train_from_iterator(_pieces(sequences), trainer)
    return BpeCutter(tokenizer)


def cut_all(cutters: Sequence[Cutter], letters: str) -> Cuts:
    """Every segmentation of one sequence."""
    return {name: starts for cutter in cutters for name, starts in cutter.cut(letters).items()}


def _pieces(sequences: Sequence[str]) -> Iterator[str]:
    for letters in sequences:
        for stretch in letters.upper().split("N"):
            for start in range(0, len(stretch), _PIECE):
                yield stretch[start : start + _PIECE]


@dataclass(frozen=True)
class _Letters:
    """One sequence, to be read like a genome."""

    letters: str
    path: Path = Path("sequence")

    def fetch(self, contig: str, start: int, end: int) -> str:
        return self.letters[start:end]
