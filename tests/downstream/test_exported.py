"""An exported folder gives networks that stop where the rest is not needed."""

from pathlib import Path
from typing import Any

import pytest
import torch

from dnachunker.downstream.exported import open_exported


def test_a_network_for_boundaries_finds_those_of_the_whole_and_runs_nothing_above(
    export: Path, causal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in (export, causal):
        exported = open_exported(folder)
        whole, cutting = exported.network("none"), exported.network("boundaries")
        ids = torch.randint(
            exported.ids["A"], exported.ids["T"] + 1, (2, 300), generator=torch.Generator().manual_seed(0)
        )
        ids[:, 50:53], ids[1, 200:] = exported.ids["mask"], exported.ids["pad"]
        present = ids != exported.ids["pad"]
        with torch.no_grad():
            expected = whole(input_ids=ids, attention_mask=present)
            hierarchy = cutting.network.hierarchy
            for name, module in (("trunk", hierarchy.trunk), ("norm", cutting.network.norm)):
                monkeypatch.setattr(module, "forward", lambda *_, name=name: pytest.fail(f"{name} ran"))
            found: Any = cutting(input_ids=ids, attention_mask=present)
        for field in ("boundaries", "boundary_probabilities", "chunk_ids"):
            for ours, theirs in zip(getattr(found, field), getattr(expected, field), strict=True):
                assert torch.equal(ours, theirs), field
        assert 0 < int(found.boundaries[1].sum()) < int(found.boundaries[0].sum())
        assert found.last_hidden_state is None
