"""How close the k-mers of generated sequence come to those of real sequence, beside Markov chains and real sequence.

Both strands are counted, since a model writes either. Divergences are Jensen-Shannon's, in bits: 0 for the same
frequencies, 1 for k-mers of which none is shared.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from failures import BadInput
from model.alphabet import BASES

from .figures import divergence_figure
from .genome import Genome
from .output_folder import new_folder
from .science_tables import write_study

LENGTHS = range(1, 9)
ORDERS = (0, 3, 5)
GENERATED, LEFT_OUT = "generated", "real, left out"
Codes = NDArray[np.int64]  # (L,) 0 to 3 for A, C, G, T, -1 for anything else


def compare_spectra(written: Sequence[str], real: Path, folder: Path, *, seed: int) -> None:
    """Write table.md, table.csv and figure.svg on generated sequences to `folder`.

    Of the real sequence, as many pieces as were generated are left out, evenly spread; the rest is the reference.
    Order-k Markov chains are counted on the reference and write sequences of the same number and length.

    Raises:
        BadInput: no such FASTA, or less than three times as much real sequence as was generated.
    """
    with Genome(real) as genome:
        contigs = [_codes(genome.fetch(name, 0, length)) for name, length in genome.lengths.items()]
    length, count = len(written[0]), len(written)
    reference, left_out = _split(contigs, length, count)
    if reference is None:
        raise BadInput(
            f"{real}: has fewer than {3 * count} pieces of {length:,} bases; generate less, or compare with more"
        )
    samples = {GENERATED: [_codes(letters) for letters in written]}
    random = np.random.default_rng(seed)
    for order in ORDERS:
        samples[f"Markov order {order}"] = _markov(_counts(reference, order + 1), order, length, count, random)
    samples[LEFT_OUT] = left_out
    rows = []
    for k in LENGTHS:
        expected = _counts(reference, k)
        rows.append({"k": k} | {name: divergence(_counts(found, k), expected) for name, found in samples.items()})
    known = sum(int((codes >= 0).sum()) for codes in reference)
    notes = [
        f"Jensen-Shannon divergence in bits of k-mer frequencies, both strands, to {real.name} without the pieces left "
        f"out ({known:,} bases); {count:,} sequences of {length:,} bases each.",
        f"'{LEFT_OUT}' is what as much real sequence reaches: its composition varies along the genome, so that "
        "samples from one distribution may come closer.",
        "An order-k chain knows the frequencies of (k+1)-mers by construction; longer words are what tests it.",
    ]
    with new_folder(folder) as staging:
        write_study(staging, "k-mer spectrum", rows, divergence_figure(rows, "k", "Distance to real sequence"), notes)


def divergence(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Jensen-Shannon divergence, in bits, of two tables of counts."""
    p, q = first / first.sum(), second / second.sum()
    middle = (p + q) / 2
    parts = [one[one > 0] @ np.log2(one[one > 0] / middle[one > 0]) for one in (p, q)]
    return max(0.0, float(sum(parts)) / 2)


def _split(contigs: Sequence[Codes], length: int, count: int) -> tuple[list[Codes] | None, list[Codes]]:
    """Every n-th window of all is left out. None for too little sequence."""
    windows = [(number, at) for number, codes in enumerate(contigs) for at in range(0, len(codes) - length + 1, length)]
    if len(windows) < 3 * count:
        return None, []
    chosen = [windows[(2 * i + 1) * len(windows) // (2 * count)] for i in range(count)]
    left_out = [contigs[number][at : at + length] for number, at in chosen]
    reference = []
    for number, codes in enumerate(contigs):
        masked = codes.copy()
        for _, at in (place for place in chosen if place[0] == number):
            masked[at : at + length] = -1
        reference.append(masked)
    return reference, left_out


def _codes(letters: str) -> Codes:
    table = np.full(256, -1, np.int64)
    for code, letter in enumerate(BASES):
        table[[ord(letter), ord(letter.lower())]] = code
    return table[np.frombuffer(letters.encode("latin-1", "replace"), np.uint8)]


def _counts(sequences: Sequence[Codes], k: int) -> NDArray[np.float64]:
    """(4 ** k,) occurrences of each word of k bases on either strand, the first base in the highest digit."""
    total = np.zeros(4**k)
    for codes in sequences:
        for strand in (codes, np.where(codes[::-1] < 0, -1, 3 - codes[::-1])):
            places = max(0, len(strand) - k + 1)
            word, known = np.zeros(places, np.int64), np.ones(places, bool)
            for i in range(k):
                letters = strand[i : i + places]
                word, known = 4 * word + letters, known & (letters >= 0)
            total += np.bincount(word[known], minlength=4**k)
    return total


def _markov(
    counts: NDArray[np.float64], order: int, length: int, count: int, random: np.random.Generator
) -> list[Codes]:
    """Sequences of an order-k chain, from its (4 ** (k + 1),) word counts; each begins with a word as frequent."""
    table = counts.reshape(-1, 4) + 0.5
    reached = (table / table.sum(axis=1, keepdims=True)).cumsum(axis=1)
    context = random.choice(len(table), size=count, p=table.sum(axis=1) / table.sum())
    found = np.empty((count, length + order), np.int64)
    for i in range(order):
        found[:, i] = context // 4 ** (order - 1 - i) % 4
    for i in range(order, length + order):
        base = (reached[context, :3] < random.random((count, 1))).sum(axis=1)
        found[:, i] = base
        context = (4 * context + base) % len(table)
    return list(found[:, :length])
