"""An exported model, loaded through Hugging Face's Auto classes only: letters in, tensors out."""

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
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from dnachunker.foundations.failures import BadInput
from dnachunker.model.alphabet import BASES, IUPAC_AMBIGUOUS

Head = Literal["none", "boundaries", "trunk", "masked", "causal", "classifier", "bases"]
_HEADS = {
    "none": AutoModel,
    "boundaries": AutoModel,
    "trunk": AutoModel,
    "masked": AutoModelForMaskedLM,
    "causal": AutoModelForCausalLM,
    "classifier": AutoModelForSequenceClassification,
    "bases": AutoModelForTokenClassification,
}
_BATCH_BASES = {"cuda": 65_536, "cpu": 8192}  # larger batches do not fit into the caches of a CPU
_COMPLEMENT = {"A": "T", "C": "G", "G": "C", "T": "A", "N": "N"}


@dataclass(frozen=True)
class Exported:
    """An exported folder: its vocabulary, and its networks when they are asked for.

    Attributes:
        folder: what `dnachunker export` wrote, or a fine-tuned model.
        device: of the networks: the first GPU if there is one, else the CPU.
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
        """Token ids (L,) of nucleotide letters in either case; ambiguity letters become N.

        Raises:
            BadInput: a letter is not a nucleotide.
        """
        codes = np.frombuffer(letters.encode("latin-1", "replace"), np.uint8)
        ids = self._table[codes]
        if (ids < 0).any():
            raise BadInput(f"{chr(int(codes[ids < 0][0]))!r} is not a nucleotide letter; remove or replace it")
        return ids

    def reverse_complement(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The opposite strand (L,); masks stay masks."""
        return np.ascontiguousarray(self._opposite[ids[::-1]])

    def batch_rows(self, longest: int) -> int:
        """How many sequences of up to `longest` bases to run at once; at least 1."""
        return max(1, _BATCH_BASES.get(self.device.type, _BATCH_BASES["cpu"]) // max(1, longest))

    @cached_property
    def lead(self) -> NDArray[np.int64]:
        """Token ids that `batch` puts before each sequence: [BOS] for a causal model, as in training; else none."""
        causal = getattr(self.config, "causal", False)  # the config of an older export lacks this key
        return np.array([self.ids["bos"]] if causal else [], np.int64)

    def batch(self, sequences: Sequence[NDArray[np.int64]]) -> tuple[Tensor, Tensor]:
        """Ids (B, L), each row `lead` + sequence + padding, and the attention mask (B, L) bool; on the device."""
        sequences = [np.concatenate([self.lead, ids]) for ids in sequences]
        longest = max(len(ids) for ids in sequences)
        table = np.full((len(sequences), longest), self.ids["pad"], np.int64)
        mask = np.zeros((len(sequences), longest), bool)
        for row, ids in enumerate(sequences):
            table[row, : len(ids)] = ids
            mask[row, : len(ids)] = True
        return torch.from_numpy(table).to(self.device), torch.from_numpy(mask).to(self.device)

    def network(self, head: Head, *, classes: int = 2, random_weights: bool = False, seed: int = 0) -> nn.Module:
        """A network with the folder's weights, or one of the same shape with random weights.

        Args:
            head: "boundaries" leaves out the trunk and the decoders: the same boundaries and probabilities in about
                half the time, but no meaningful vectors. "trunk" leaves out the decoders: hidden states up to the
                trunk's are meaningful.
            classes: outputs of the head of "classifier" (per sequence) and "bases" (per base); the head is random
                unless the folder holds one.
            seed: of random weights.

        Raises:
            BadInput: `head` is "masked" and the model is causal, or `head` is "causal" and the model is not.
        """
        causal = len(self.lead) > 0
        if head in ("masked", "causal") and (head == "causal") != causal:
            kind = "causal: it has no predictions at masks" if causal else "not causal; pretrain with model.causal=true"
            raise BadInput(f"{self.folder}: this model is {kind}")
        torch.manual_seed(seed)
        extra: dict[str, Any] = {"num_labels": classes} if head in ("classifier", "bases") else {}
        if head == "boundaries":
            extra = {"trunk_layers": 0, "decoder_layers": [0] * self.config.stages}
        if head == "trunk":
            extra = {"decoder_layers": [0] * self.config.stages}
        auto_class = _HEADS[head]
        if random_weights:
            config = AutoConfig.from_pretrained(self.folder, trust_remote_code=True, **extra)
            network = auto_class.from_config(config, trust_remote_code=True)
        else:
            network = auto_class.from_pretrained(
                self.folder, trust_remote_code=True, dtype=torch.float32, use_safetensors=True, **extra
            )
        if head in ("boundaries", "trunk"):
            network.hierarchy.ends_at_trunk = True
        return network.to(self.device).eval()


def open_exported(folder: str | Path) -> Exported:
    """Open the model in a folder.

    Raises:
        BadInput: the folder holds no export.
    """
    path = Path(folder)
    missing = [name for name in ("config.json", "tokenizer.json", "*.safetensors") if not any(path.glob(name))]
    if missing:
        raise BadInput(f"{path}: no exported model: {missing[0]} is missing; `dnachunker export RUN OUT` makes one")
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # transformers may import DeepSpeed, which warns without a GPU
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()  # else it warns that a new head has random weights
    exported = Exported(path.absolute(), torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    if exported.config.model_type != "dnachunker":
        raise BadInput(f"{path}: holds a {exported.config.model_type} model, not one that dnachunker exported")
    return exported


def batches(count: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` items that cover `count` items."""
    return (slice(start, start + size) for start in range(0, count, size))


def make_deterministic(seed: int) -> None:
    """Make torch give the same numbers for the same inputs on the same machine."""
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)  # some CUDA sums have no deterministic form
