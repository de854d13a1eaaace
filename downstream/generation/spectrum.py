"""Compare the k-mer frequencies of generated sequence, of Markov chains and of real sequence with real sequence.

Both strands are counted, because a model may write either. The divergence is Jensen-Shannon's, in bits: 0 for equal
frequencies, 1 where no k-mer is shared.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dnachunker.dataprep.genomes.genome import Genome
from dnachunker.downstream.studies.figures import divergence_figure
from dnachunker.downstream.studies.tables import write_study
from dnachunker.foundations.atomic_files import new_folder
from dnachunker.foundations.failures import BadInput
from dnachunker.model.alphabet import BASES

LENGTHS = range(1, 9)
ORDERS = (0, 3, 5)
GENERATED, LEFT_OUT = "generated", "real, left out"
Codes = NDArray[np.int8]  # (L,) 0 to 3 for A, C, G, T, -1 for anything else
_PIECE = 2**20  # bases counted at a time, to save memory: a k-mer number takes eight bytes, a base one


@dataclass(frozen=True)
class RealSequence:
    """Real sequence, split into pieces that are left out and the rest, which is the reference.

    Attributes:
        name: of the file.
        reference: all contigs, with -1 where a piece was left out.
        left_out: pieces of A, C, G and T, evenly spread; as many and as long as the generated sequences.
    """

    name: str
    reference: list[Codes]
    left_out: list[Codes]

    @classmethod
    def read(cls, path: Path, *, length: int, count: int) -> "RealSequence":
        """Read a FASTA and leave out `count` pieces of `length` bases.

        Raises:
            BadInput: no such FASTA; it has fewer than 3 * `count` pieces; `length` is shorter than the longest k-mer.
        """
        if length < LENGTHS[-1]:
            raise BadInput(
                f"--length {length}: --compare counts k-mers of up to {LENGTHS[-1]} bases; generate at least as many"
            )
        with Genome(path) as genome:
            contigs = [_codes(genome.fetch(name, 0, bases)) for name, bases in genome.lengths.items()]
        pieces = [
            (number, at)
            for number, codes in enumerate(contigs)
            for at in range(0, len(codes) - length + 1, length)
            if codes[at : at + length].min() >= 0
        ]
        if len(pieces) < 3 * count:
            raise BadInput(
                f"{path}: fewer than {3 * count} pieces of {length:,} known bases; generate less or compare with more"
            )
        left_out = []
        for i in range(count):
            number, at = pieces[(2 * i + 1) * len(pieces) // (2 * count)]
            left_out.append(contigs[number][at : at + length].copy())
            contigs[number][at : at + length] = -1
        return cls(path.name, contigs, left_out)

    def compare(self, written: Sequence[str], folder: Path, *, seed: int) -> None:
        """Write table.md, table.csv and figure.svg about generated sequences to `folder`.

        Order-k Markov chains are counted on the reference; each generates as many sequences of the same length.
        """
        count, length = len(self.left_out), len(self.left_out[0])
        samples = {GENERATED: [_codes(letters) for letters in written]}
        random = np.random.default_rng(seed)
        expected = {k: _counts(self.reference, k) for k in LENGTHS}
        for order in ORDERS:
            samples[f"Markov order {order}"] = _markov(expected[order + 1], order, length, count, random)
        samples[LEFT_OUT] = self.left_out
        rows = [
            {"k": k} | {name: divergence(_counts(found, k), expected[k]) for name, found in samples.items()}
            for k in LENGTHS
        ]
        known = sum(int((codes >= 0).sum()) for codes in self.reference)
        notes = [
            f"Jensen-Shannon divergence, in bits, between the k-mer frequencies (both strands) of {count:,} sequences "
            f"of {length:,} bases each and those of {self.name} without the pieces left out ({known:,} bases).",
            f"'{LEFT_OUT}' is as much real sequence. Its composition varies along the genome, so samples from one "
            "distribution may come closer.",
            "An order-k chain has the frequencies of (k+1)-mers by construction; only longer k-mers test it.",
        ]
        with new_folder(folder) as partial:
            write_study(
                partial, "k-mer spectrum", rows, divergence_figure(rows, "k", "Distance to real sequence"), notes
            )


def divergence(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Jensen-Shannon divergence, in bits, of two tables of counts."""
    p, q = first / first.sum(), second / second.sum()
    middle = (p + q) / 2
    parts = [one[one > 0] @ np.log2(one[one > 0] / middle[one > 0]) for one in (p, q)]
    return max(0.0, float(sum(parts)) / 2)


def _codes(letters: str) -> Codes:
    table = np.full(256, -1, np.int8)
    for code, letter in enumerate(BASES):
        table[[ord(letter), ord(letter.lower())]] = code
    return table[np.frombuffer(letters.encode("latin-1", "replace"), np.uint8)]


def _counts(sequences: Sequence[Codes], k: int) -> NDArray[np.float64]:
    """(4 ** k,) occurrences of each k-mer on either strand; the first base is the highest digit of its number."""
    total = np.zeros((4,) * k)
    for codes in sequences:
        for begin in range(0, len(codes) - k + 1, _PIECE):
            piece = codes[begin : begin + _PIECE + k - 1]
            places = len(piece) - k + 1
            kmer, known = np.zeros(places, np.int64), np.ones(places, bool)
            for i in range(k):
                letters = piece[i : i + places]
                kmer, known = 4 * kmer + letters, known & (letters >= 0)
            total += np.bincount(kmer[known], minlength=4**k).reshape(total.shape)
    return (total + np.flip(total.T)).ravel()  # the other strand: digits in reverse order, 3 - d for each digit d


def _markov(
    counts: NDArray[np.float64], order: int, length: int, count: int, random: np.random.Generator
) -> list[Codes]:
    """Sequences of an order-k chain, from (k + 1)-mer counts (4 ** (k + 1),); first k bases by their frequency."""
    table = counts.reshape(-1, 4) + 0.5
    reached = (table / table.sum(axis=1, keepdims=True)).cumsum(axis=1)
    context = random.choice(len(table), size=count, p=table.sum(axis=1) / table.sum())
    found = np.empty((count, length + order), np.int8)
    for i in range(order):
        found[:, i] = context // 4 ** (order - 1 - i) % 4
    for i in range(order, length + order):
        base = (reached[context, :3] < random.random((count, 1))).sum(axis=1)
        found[:, i] = base
        context = (4 * context + base) % len(table)
    return list(found[:, :length])
