"""One token per letter, with the ids of `alphabet.py`; saved so that AutoTokenizer loads it without any of our code.

White space is left out, lower case counts as upper case, IUPAC codes of ambiguity count as N. Any other character is
refused: as [UNK] it would be read as part of the sequence without a word.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from .alphabet import BASES, IUPAC_AMBIGUOUS, VOCABULARY

_KNOWN = "A, C, G, T, N, IUPAC codes and white space"
_UNKNOWN = f"a character other than {_KNOWN}"  # quoted by the error that the tokenizers library raises


def build_backend() -> Tokenizer:
    """One token per character, without special tokens; encoding raises an Exception that quotes `_UNKNOWN`."""
    ids = {token: number for number, token in enumerate(VOCABULARY)}
    # byte pairs without merges are single characters; only this model's error says which token is missing
    backend = Tokenizer(BPE(ids, [], unk_token=_UNKNOWN))
    ambiguous = Regex(f"[{IUPAC_AMBIGUOUS}{IUPAC_AMBIGUOUS.lower()}]")
    upper_case = [normalizers.Replace(letter.lower(), letter) for letter in BASES + "N"]
    blanks = normalizers.Replace(Regex(r"\s+"), "")
    backend.normalizer = normalizers.Sequence([blanks, *upper_case, normalizers.Replace(ambiguous, "N")])
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    return backend


class DNATokenizer(PreTrainedTokenizerFast):
    """Character-level DNA tokenizer; pads on the right.

    Raises:
        ValueError: on encoding, a character that is no nucleotide code, white space or special token.
    """

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

    def _encode_plus(self, text: Any, text_pair: Any = None, *args: Any, **kwargs: Any) -> Any:
        try:
            return super()._encode_plus(text, text_pair, *args, **kwargs)
        except Exception as error:  # the library has no narrower type
            if _UNKNOWN not in str(error):
                raise
            raise ValueError(self._refusal([text, text_pair])) from None

    def _refusal(self, given: Any) -> str:
        """Names the first character in strings, or nested lists of strings, that is not known."""
        if isinstance(given, list | tuple):
            found = (self._refusal(part) for part in given)
            return next((message for message in found if message), "")
        specials = "|".join(map(re.escape, self.all_special_tokens))
        known = rf"(?:{specials}|[\s{BASES}N{IUPAC_AMBIGUOUS}{BASES.lower()}n{IUPAC_AMBIGUOUS.lower()}])*"
        end = re.match(known, given or "").end()  # type: ignore[union-attr]  # it matches the empty string too
        if not given or end == len(given):
            return ""
        return f"{given[end]!r} at position {end} is no base: a sequence holds {_KNOWN} only; remove or replace it"

    def save_pretrained(self, save_directory: str | os.PathLike[Any], *args: Any, **kwargs: Any) -> tuple[str, ...]:
        """As the base class's, but names the generic fast class: the saved files need no code of ours."""
        files: tuple[str, ...] = super().save_pretrained(save_directory, *args, **kwargs)
        path = Path(save_directory) / "tokenizer_config.json"
        described = json.loads(path.read_text(encoding="utf-8"))
        described["tokenizer_class"] = "PreTrainedTokenizerFast"
        path.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        return files


DNATokenizer.register_for_auto_class("AutoTokenizer")
