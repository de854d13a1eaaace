"""Windows that are split over the ranks of context groups: the same numbers as on one rank, whatever the split."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dnachunker.model.alphabet import FIRST_BASE_ID, MASK_ID, PAD_ID
from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.model.context_group import ContextGroup
from dnachunker.model.modeling_dnachunker import DNAChunkerForMaskedLM

ROOT = Path(__file__).resolve().parents[3]
NETWORK = {
    "width": 24, "num_heads": 2, "trunk_layers": 1, "state_size": 4, "encoder_layers": [1, 1], "decoder_layers": [1, 1],
    "attention_backend": "sdpa",
}  # fmt: skip
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}

SIZES, DATA_RANKS = (1, 2, 3, 4), (1, 2)

Found = dict[str, dict[str, Any]]
Compute = Callable[[dict[str, Any]], list[Found]]  # see ranks.py


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compute]:
    """Computes a case on real ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    script = Path(__file__).with_name("ranks.py")
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"

    def run(case: dict[str, Any]) -> list[Found]:
        assert process.stdin is not None
        assert process.stdout is not None
        torch.save(case, folder / "case")
        process.stdin.write(f"{folder / 'case'}\n")
        process.stdin.flush()
        assert process.stdout.readline() == "done\n"
        return [torch.load(f"{folder}/case-{rank}") for rank in range((case["size"] or 1) * case["data_ranks"])]

    yield run
    process.stdin.close()
    process.wait(timeout=60)


def windows(
    lengths: list[int], masked: float, seed: int, stages: int = 2, cut: tuple[float, ...] = ()
) -> dict[str, torch.Tensor]:
    """Random windows of these lengths, padded to the longest; `cut` is the share of marked bases of each stage."""
    random = torch.Generator().manual_seed(seed)
    shape = len(lengths), max(lengths)
    bases = torch.randint(FIRST_BASE_ID, FIRST_BASE_ID + 4, shape, generator=random)
    hidden = torch.rand(shape, generator=random) < masked
    present = torch.arange(shape[1]) < torch.tensor(lengths)[:, None]
    ids = torch.where(present, torch.where(hidden, MASK_ID, bases), PAD_ID)
    labelled = present & (hidden | (torch.rand(shape, generator=random) < 0.1))
    inputs = {
        "input_ids": ids, "labels": torch.where(labelled, bases, -100),
        "loss_weights": torch.rand(shape, generator=random) * labelled,
    }  # fmt: skip
    if cut:
        marks = [torch.rand(shape, generator=random) < share for share in cut]
        inputs["boundaries"] = torch.stack(marks, dim=1)
    return inputs


def compare(found: list[Found], whole: Found, case: dict[str, Any]) -> None:
    """Losses and gradients add up over all ranks; outputs of a context group are those of its windows.

    In the trunk, the ranks of a group have equally many chunks of each window, to within one.
    """
    tolerance = TOLERANCE[case["dtype"]]
    for name, loss in whole["losses"].items():
        assert sum(share["losses"][name] for share in found) == pytest.approx(loss, abs=tolerance)
    for name, gradient in whole["gradients"].items():
        shares = [share["gradients"][name] for share in found]
        assert all(share is not None for share in shares), name
        torch.testing.assert_close(
            sum(shares), gradient, atol=tolerance, rtol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )
    for first in range(0, len(found), case["size"]):
        chunks = [share["trunk"]["chunks"] for share in found[first : first + case["size"]]]
        assert max(chunks) - min(chunks) <= len(found[first]["outputs"]["logits"])
    for number, share in enumerate(found):
        for name, values in share["outputs"].items():
            expected = whole["outputs"][name][number // case["size"] :: case["data_ranks"]]
            torch.testing.assert_close(
                values, expected, atol=tolerance, rtol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
            )


@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(  # one chunk over four ranks, windows shorter than the number of ranks, and an empty one
    size=4, data_ranks=2, dtype=torch.float64, lengths=[41, 2, 0, 3], masked=0.15, cut=(0.0, 0.0),
    network={"chunk_pooling": "mean", "mask_protection": False, "num_heads": 4},
    checkpointing=False, seed=0,
)  # fmt: skip
@example(
    size=3, data_ranks=1, dtype=torch.float32, lengths=[37, 40], masked=0.15, cut=(), network={"num_heads": 3},
    checkpointing=True, seed=1,
)  # fmt: skip
@given(
    size=st.sampled_from(SIZES),
    data_ranks=st.sampled_from(DATA_RANKS),
    dtype=st.sampled_from((torch.float64, torch.float64, torch.float32)),
    lengths=st.lists(st.integers(0, 41) | st.integers(0, 3), min_size=2, max_size=5).filter(any),
    masked=st.sampled_from((0.0, 0.15, 0.6)),
    cut=st.sampled_from(((), (), (0.3, 0.3), (0.02, 0.0), (0.0, 0.0), (1.0, 0.5))),
    network=st.fixed_dictionaries(
        {},
        optional={
            "chunk_pooling": st.just("mean"),
            "mask_protection": st.just(False),
            "protected_stages": st.just(1),
            "residual_gating": st.just(False),
            "qk_norm": st.just(True),
            "conv_width": st.sampled_from((1, 2, 7)),
            "num_heads": st.sampled_from((3, 4, 12)),  # which the ranks divide, or do not
            "ratio_boundaries": st.just("forced"),
        },
    ),
    checkpointing=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_windows_split_over_ranks_give_the_losses_and_gradients_of_one_rank(
    together: Compute, size: int, data_ranks: int, dtype: torch.dtype, lengths: list[int], masked: float,
    cut: tuple[float, ...], network: dict[str, Any], checkpointing: bool, seed: int,
) -> None:  # fmt: skip
    inputs = windows(lengths, masked, seed, cut=cut)
    case = {
        "config": {**NETWORK, **network}, "dtype": dtype, "checkpointing": checkpointing, "inputs": inputs,
        "size": size, "data_ranks": data_ranks,
    }  # fmt: skip
    (whole,) = together({**case, "size": None, "data_ranks": 1})
    compare(together(case), whole, case)


@pytest.mark.parametrize(
    ("changes", "inputs", "reason"),
    [
        ({"mixer": "conv"}, {}, "mixer=conv is made for windows on one rank"),
        ({"strand_symmetry": True}, {}, "strand_symmetry=True is made for windows on one rank"),
        ({}, {"chunk_capacity": [0.5, 0.5]}, "chunk_capacity is for windows on one rank"),
        ({}, {"labels": torch.full((1, 9), FIRST_BASE_ID)}, "need a loss_normalizer"),
    ],
)
def test_what_cannot_be_split_is_refused(changes: dict[str, Any], inputs: dict[str, Any], reason: str) -> None:
    model = DNAChunkerForMaskedLM(DNAChunkerConfig(**{**NETWORK, **changes}))
    ids = torch.full((1, 9), FIRST_BASE_ID)
    if "labels" not in inputs:
        model(ids, **inputs)
    model.dnachunker.context = ContextGroup(0, 1)
    with pytest.raises(ValueError, match=reason):
        model(ids, **inputs)
