"""An exported folder as the rest of this package sees it: letters in, tensors out, through the Auto classes alone."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from dnachunker.foundations.failures import BadInput
from dnachunker.model.alphabet import BASES, IUPAC_AMBIGUOUS

Head = Literal["none", "masked", "causal", "classifier"]
_HEADS = {
    "none": AutoModel,
    "masked": AutoModelForMaskedLM,
    "causal": AutoModelForCausalLM,
    "classifier": AutoModelForSequenceClassification,
}
_COMPLEMENT = {"A": "T", "C": "G", "G": "C", "T": "A", "N": "N"}


@dataclass(frozen=True)
class Exported:
    """The folder's vocabulary, and its networks on request.

    Attributes:
        folder: what `dnachunker export` wrote, or a fine-tuned model.
        device: where networks are put: the first GPU, if there is one.
    """

    folder: Path
    device: torch.device

    @cached_property
    def config(self) -> Any:
        """The network's configuration."""
        return AutoConfig.from_pretrained(self.folder, trust_remote_code=True)

    @cached_property
    def ids(self) -> dict[str, int]:
        """Token ids of A, C, G, T, N, mask, pad and bos, as the folder's tokenizer gives them."""
        tokenizer: Any = AutoTokenizer.from_pretrained(self.folder, trust_remote_code=False)
        letters = {letter: int(tokenizer.convert_tokens_to_ids(letter)) for letter in BASES + "N"}
        special = {name: int(getattr(tokenizer, f"{name}_token_id")) for name in ("mask", "pad", "bos")}
        return {**letters, **special}

    @cached_property
    def _table(self) -> NDArray[np.int64]:
        table = np.full(256, -1, np.int64)
        for letter in BASES + "N":
            table[[ord(letter), ord(letter.lower())]] = self.ids[letter]
        for letter in IUPAC_AMBIGUOUS + IUPAC_AMBIGUOUS.lower():
            table[ord(letter)] = self.ids["N"]
        return table

    @cached_property
    def _opposite(self) -> NDArray[np.int64]:
        table = np.arange(self.config.vocab_size)
        for letter, other in _COMPLEMENT.items():
            table[self.ids[letter]] = self.ids[other]
        return table

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over names and contents of the config and the weights."""
        digest = hashlib.sha256()
        for path in sorted([self.folder / "config.json", *self.folder.glob("*.safetensors")]):
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def encode(self, letters: str) -> NDArray[np.int64]:
        """Token ids (L,) of nucleotide letters in either case; ambiguity letters are N.

        Raises:
            BadInput: another letter.
        """
        codes = np.frombuffer(letters.encode("latin-1", "replace"), np.uint8)
        ids = self._table[codes]
        if (ids < 0).any():
            raise BadInput(f"{chr(int(codes[ids < 0][0]))!r} is no nucleotide letter; remove or replace it")
        return ids

    def reverse_complement(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The opposite strand (L,); masks stay masks."""
        return np.ascontiguousarray(self._opposite[ids[::-1]])

    @cached_property
    def lead(self) -> NDArray[np.int64]:
        """What `batch` puts before each sequence: [BOS] for a causal model, as in all windows it was trained on."""
        causal = getattr(self.config, "causal", False)  # folders from before there were any do not say
        return np.array([self.ids["bos"]] if causal else [], np.int64)

    def batch(self, sequences: Sequence[NDArray[np.int64]]) -> tuple[Tensor, Tensor]:
        """Ids (B, L), after the `lead` and padded on the right, and the attention mask (B, L) bool, on the device."""
        sequences = [np.concatenate([self.lead, ids]) for ids in sequences]
        longest = max(len(ids) for ids in sequences)
        table = np.full((len(sequences), longest), self.ids["pad"], np.int64)
        mask = np.zeros((len(sequences), longest), bool)
        for row, ids in enumerate(sequences):
            table[row, : len(ids)] = ids
            mask[row, : len(ids)] = True
        return torch.from_numpy(table).to(self.device), torch.from_numpy(mask).to(self.device)

    def network(self, head: Head, *, classes: int = 2, random_weights: bool = False, seed: int = 0) -> nn.Module:
        """A network with the folder's weights, or one of the same shape that has learned nothing.

        Args:
            classes: outputs of the classifier's head, which is always drawn anew unless the folder holds one.
            seed: of whatever is drawn.

        Raises:
            BadInput: a masked head is asked of a causal model, or a causal one of another.
        """
        causal = len(self.lead) > 0
        if head in ("masked", "causal") and (head == "causal") != causal:
            kind = "causal: it has no predictions at masks" if causal else "not causal; pretrain with model.causal=true"
            raise BadInput(f"{self.folder}: this model is {kind}")
        torch.manual_seed(seed)
        extra = {"num_labels": classes} if head == "classifier" else {}
        auto_class = _HEADS[head]
        if random_weights:
            config = AutoConfig.from_pretrained(self.folder, trust_remote_code=True, **extra)
            network = auto_class.from_config(config, trust_remote_code=True)
        else:
            network = auto_class.from_pretrained(
                self.folder, trust_remote_code=True, dtype=torch.float32, use_safetensors=True, **extra
            )
        return network.to(self.device).eval()


def open_exported(folder: str | Path) -> Exported:
    """The model in a folder.

    Raises:
        BadInput: no export there.
    """
    path = Path(folder)
    missing = [name for name in ("config.json", "tokenizer.json", "*.safetensors") if not any(path.glob(name))]
    if missing:
        raise BadInput(f"{path}: no exported model: {missing[0]} is missing; `dnachunker export RUN OUT` makes one")
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # transformers may import DeepSpeed, which would look and warn
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()  # that a new head's weights are new is no news
    exported = Exported(path.absolute(), torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    if exported.config.model_type != "dnachunker":
        raise BadInput(f"{path}: holds a {exported.config.model_type} model, not one that dnachunker exported")
    return exported


def batches(count: int, size: int) -> Iterator[slice]:
    """Slices of `size` over `count` things."""
    return (slice(start, start + size) for start in range(0, count, size))


def make_deterministic(seed: int) -> None:
    """The same numbers from the same inputs, on the same machine."""
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)  # some CUDA sums have no deterministic form
