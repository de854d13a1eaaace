"""Fixed segmentations: where they cut, that only the ids decide, and that a saved folder cuts without this project."""

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dnachunker.model.alphabet import A_ID, BASES, MASK_ID, N_ID, PAD_ID
from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.model.fixed_segmentation import BytePairs
from dnachunker.model.modeling_dnachunker import DNAChunkerForMaskedLM
from dnachunker.model.tokenization_dnachunker import DNATokenizer

MERGES = "A C\nA A\nAC AC\nG T\nAA A\nA AA\nGT ACAC\nT T\n"  # two ways to AAA
IDS = {letter: A_ID + number for number, letter in enumerate(BASES)} | {"N": N_ID, "M": MASK_ID, ".": PAD_ID}


def ids_of(*rows: str) -> torch.Tensor:
    """Token ids (B, L): M for a mask, a dot for a pad."""
    return torch.tensor([[IDS[letter] for letter in row] for row in rows])


def build(segmentation: dict, **changes) -> DNAChunkerForMaskedLM:
    torch.manual_seed(0)
    sizes = {"width": 32, "encoder_layers": (1, 1), "decoder_layers": (1, 1), "trunk_layers": 1, "num_heads": 2}
    return DNAChunkerForMaskedLM(DNAChunkerConfig(**sizes, router="fixed", segmentation=segmentation, **changes)).eval()


def cuts(
    segmentation: dict, ids: torch.Tensor, *, chunk_capacity: tuple[float, float] | None = None, **changes
) -> list[str]:
    """Stage 0's chunk starts as bars, after checking that stage 1 keeps every chunk."""
    with torch.no_grad():
        output = build(segmentation, **changes)(ids, chunk_capacity=chunk_capacity)
    assert torch.equal(*output.boundaries)
    return ["".join(".|"[int(cut)] for cut in row) for row in output.boundaries[0]]


def merged(stretch: str) -> list[str]:
    """Byte-pair encoding by its definition: the earliest merge that applies anywhere, leftmost first, until none."""
    ranks = {tuple(line.split()): rank for rank, line in reversed(list(enumerate(MERGES.splitlines())))}
    tokens = list(stretch)
    while applicable := [
        (ranks[pair], place)
        for place, pair in enumerate(zip(tokens, tokens[1:], strict=False))
        if pair in ranks
    ]:  # fmt: skip
        _, place = min(applicable)
        tokens[place : place + 2] = ["".join(tokens[place : place + 2])]
    return tokens


@settings(max_examples=200, deadline=None)
@given(st.text("ACGTNM", max_size=120), st.integers(0, 120))
def test_byte_pairs_are_those_of_each_stretch_between_masks_and_n(text: str, border: int) -> None:
    border = min(border, len(text))
    expected = []
    for part in (text[:border], text[border:]):
        for place, letter in enumerate(part):  # a mask starts a token, and so does a run of N
            expected.append(letter in "M" or (letter == "N" and part[place - 1 : place] != "N"))
        for stretch_start in [p for p, c in enumerate(part) if c in BASES and part[p - 1 : p] not in tuple(BASES)]:
            stretch = part[stretch_start:].split("N")[0].split("M")[0]
            place = stretch_start + len(expected) - len(part)
            for token in merged(stretch):
                expected[place] = True
                place += len(token)
    first = np.zeros(len(text), np.bool_)
    first[[place for place in (0, border) if place < len(text)]] = True
    ids = np.array([IDS[letter] for letter in text], np.int64)
    assert BytePairs(MERGES).starts(ids, first).tolist() == expected


def test_each_kind_cuts_as_its_tokenizer_does_and_every_mask_is_a_chunk() -> None:
    ids = ids_of("ACACGTACACMGTTNNNAAACC", "GTACACTT..............")
    assert cuts({"kind": "base"}, ids) == ["|" * 22, "|" * 8 + "." * 14]
    assert cuts({"kind": "kmer", "k": 6}, ids) == ["|.....|...|||.....|...", "|.....|..............."]
    assert cuts({"kind": "bpe", "merges": MERGES}, ids) == ["|...|.....||.||..|.|.|", "|.....|..............."]
    # with no protection the trunk sees the tokenizer's tokens and nothing else
    bare = cuts({"kind": "kmer", "k": 6}, ids, mask_protection=False)
    assert bare[0] == "|.....|.....|.....|..."


def test_pads_on_either_side_move_no_boundary() -> None:
    for segmentation in ({"kind": "kmer", "k": 5}, {"kind": "bpe", "merges": MERGES}):
        right, left = cuts(segmentation, ids_of("ACACGTACAAMGT...", "...ACACGTACAAMGT"))
        assert right[:13] == left[3:]


@pytest.mark.parametrize(
    "segmentation", [{"kind": "base"}, {"kind": "kmer", "k": 3}, {"kind": "bpe", "merges": MERGES}]
)
def test_a_capacity_fixed_beforehand_changes_no_boundary(segmentation: dict) -> None:
    ids = ids_of("ACACGTACACMGTTNNNAAACC", "GTACACTT..............")
    assert cuts(segmentation, ids, chunk_capacity=(1.0, 1.0)) == cuts(segmentation, ids)


def test_boundaries_with_the_batch_come_before_the_networks_own() -> None:
    ids = ids_of("ACGTACGTAC")
    given = [(torch.arange(10) % 4 == 0).expand(1, 10)] * 2
    with torch.no_grad():
        output = build({"kind": "kmer", "k": 3})(ids, boundaries=given)
    assert torch.equal(output.boundaries[0], given[0])


@pytest.mark.parametrize("wrong", [{}, {"kind": "kmer"}, {"kind": "kmer", "k": 0}, {"kind": "word"},
                                   {"kind": "base", "k": 3}, {"kind": "bpe"}])  # fmt: skip
def test_what_is_no_segmentation_is_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="segmentation is"):
        build(wrong)


def test_merges_must_follow_from_each_other_and_a_learned_router_takes_none() -> None:
    with pytest.raises(ValueError, match="'AC G' does not join two earlier tokens"):
        build({"kind": "bpe", "merges": "AC G\n"})
    with pytest.raises(ValueError, match="needs router='fixed'"):
        DNAChunkerConfig(segmentation={"kind": "base"})
    with pytest.raises(ValueError, match="strand_symmetry"):
        build({"kind": "kmer", "k": 3}, strand_symmetry=True)


FRESH = """
    import sys, torch
    from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification

    folder = sys.argv[1]
    expected = torch.load(folder + "/../expected.pt", weights_only=True)
    for kind in (AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification):
        model = kind.from_pretrained(folder, trust_remote_code=True).eval()
        assert type(model).__module__.startswith("transformers_modules")
        with torch.no_grad():
            assert torch.equal(model(expected["ids"]).boundaries[0], expected["boundaries"]), kind
    assert not any(name == "model" or name.startswith("model.") for name in sys.modules)
"""


def test_a_saved_folder_cuts_alike_without_this_project(tmp_path: Path) -> None:
    model = build({"kind": "bpe", "merges": MERGES})
    folder = tmp_path / "exported"
    model.save_pretrained(folder)
    DNATokenizer().save_pretrained(folder)
    ids = torch.randint(A_ID, A_ID + 4, (2, 90), generator=torch.Generator().manual_seed(0))
    ids[:, ::11] = MASK_ID
    with torch.no_grad():
        torch.save({"ids": ids, "boundaries": model(ids).boundaries[0]}, tmp_path / "expected.pt")
    process = subprocess.run(
        [sys.executable, "-I", "-c", textwrap.dedent(FRESH), str(folder)], capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
