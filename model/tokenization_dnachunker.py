"""One token per letter, with the ids of `alphabet.py`; saved so that AutoTokenizer loads it without any of our code."""

import json
import os
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from .alphabet import BASES, IUPAC_AMBIGUOUS, VOCABULARY


def build_backend() -> Tokenizer:
    """Upper-case, ambiguity letters to N, one token per character; anything else is [UNK]. Adds no special tokens."""
    ids = {token: number for number, token in enumerate(VOCABULARY)}
    backend = Tokenizer(WordLevel(ids, unk_token="[UNK]"))
    ambiguous = Regex(f"[{IUPAC_AMBIGUOUS}{IUPAC_AMBIGUOUS.lower()}]")
    upper_case = [normalizers.Replace(letter.lower(), letter) for letter in BASES + "N"]
    backend.normalizer = normalizers.Sequence([*upper_case, normalizers.Replace(ambiguous, "N")])
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    return backend


class DNATokenizer(PreTrainedTokenizerFast):
    """Character-level DNA tokenizer: `ACGTN` in either case, IUPAC letters as N; pads on the right."""

    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012  (as the base class has it)

    def __init__(self, **kwargs: Any) -> None:
        if "tokenizer_file" not in kwargs and "tokenizer_object" not in kwargs:
            kwargs["tokenizer_object"] = build_backend()
        specials = {
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "bos_token": "[BOS]",
            "mask_token": "[MASK]",
            "pad_token": "[PAD]",
            "unk_token": "[UNK]",
            "clean_up_tokenization_spaces": False,
        }
        super().__init__(**{**specials, **kwargs})

    def save_pretrained(self, save_directory: str | os.PathLike[Any], *args: Any, **kwargs: Any) -> tuple[str, ...]:
        """As the base class's, but names the generic fast class: the saved files need no code of ours."""
        files: tuple[str, ...] = super().save_pretrained(save_directory, *args, **kwargs)
        path = Path(save_directory) / "tokenizer_config.json"
        described = json.loads(path.read_text(encoding="utf-8"))
        described["tokenizer_class"] = "PreTrainedTokenizerFast"
        path.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        return files
