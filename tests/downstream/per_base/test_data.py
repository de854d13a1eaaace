"""Regions to train on and to hold out, and windows at the ends of contigs."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dnachunker.dataprep.genomes.genome import Genome
from dnachunker.dataprep.genomes.region import Region
from dnachunker.downstream.per_base.data import draw_windows, split_genome
from dnachunker.foundations.failures import BadInput


@pytest.fixture(scope="module")
def genome(fasta: Path) -> Iterator[Genome]:
    with Genome(fasta) as opened:
        yield opened


def test_what_is_held_out_is_not_trained_on(genome: Genome) -> None:
    split = split_genome(genome, [], ["a:1-100", "a:201-300"], ["a:1501-2600", "c"])
    assert split.validation == (Region("a", 0, 100), Region("a", 200, 300))
    assert split.train == (Region("a", 100, 200), Region("a", 300, 1500), Region("b", 0, 300))
    chosen = split_genome(genome, ["a:50-150"], ["a:1-100"], ["a:120-130"])
    assert chosen.train == (Region("a", 100, 119), Region("a", 130, 150))
    with pytest.raises(BadInput, match="--validation a:1-100 and --test a:100-200 have bases in common"):
        split_genome(genome, [], ["a:1-100"], ["a:100-200"])
    with pytest.raises(BadInput, match="leave nothing to train on"):
        split_genome(genome, ["c"], ["b", "c"], ["a"])


def test_windows_stay_in_their_regions_reach_both_ends_and_follow_from_the_seed() -> None:
    regions = [Region("a", 10, 40), Region("b", 0, 5)]
    drawn = [w for step in range(300) for w in draw_windows(regions, 8, 4, np.random.default_rng([0, step]))]
    assert {window for window, _ in drawn if window.contig == "b"} == {regions[1]}
    starts = {window.start for window, _ in drawn if window.contig == "a"}
    assert starts == set(range(10, 33))
    assert all(window.length == 8 for window, _ in drawn if window.contig == "a")
    assert {flip for _, flip in drawn} == {True, False}
    assert drawn[:4] == draw_windows(regions, 8, 4, np.random.default_rng([0, 0]))
