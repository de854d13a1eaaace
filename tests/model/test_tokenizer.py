"""The tokenizer: ids of the shared alphabet, and a saved folder that needs none of our code."""

import json
import subprocess
import sys

import pytest

from dnachunker.model.alphabet import VOCABULARY
from dnachunker.model.tokenization_dnachunker import DNATokenizer


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("ACGTN", [7, 8, 9, 10, 11]),
        ("acgtn", [7, 8, 9, 10, 11]),
        ("RYSWKMBDHVNU", [11] * 12),
        ("A[MASK]C", [7, 3, 8]),
        ("A C\r\n\tG", [7, 8, 9]),
        ("", []),
    ],
)
def test_one_id_per_letter_and_no_specials(text: str, ids: list[int]) -> None:
    assert DNATokenizer()(text)["input_ids"] == ids


def test_ids_are_those_of_the_alphabet_and_padding_is_on_the_right() -> None:
    tokenizer = DNATokenizer()
    assert [tokenizer.convert_tokens_to_ids(token) for token in VOCABULARY] == list(range(len(VOCABULARY)))
    batch = tokenizer(["ACG", "A"], padding=True)
    assert batch["input_ids"] == [[7, 8, 9], [7, 4, 4]]
    assert batch["attention_mask"] == [[1, 1, 1], [1, 0, 0]]
    assert tokenizer.decode([7, 8, 9, 10, 11]) == "ACGTN"


def test_a_saved_folder_names_the_generic_class_and_loads_without_remote_code(tmp_path) -> None:
    DNATokenizer().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
    code = (
        "from transformers import AutoTokenizer\n"
        f"t = AutoTokenizer.from_pretrained({str(tmp_path)!r})\n"
        "assert t('acgtR[MASK]')['input_ids'] == [7, 8, 9, 10, 11, 3], t('acgtR[MASK]')\n"
        "assert t.mask_token_id == 3 and t.pad_token_id == 4 and t.decode([7, 8]) == 'AC'\n"
    )
    subprocess.run([sys.executable, "-I", "-c", code], check=True, cwd=tmp_path, timeout=120)
