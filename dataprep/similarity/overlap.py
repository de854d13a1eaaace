"""How many 31-mers of given sequences, on either strand, the training split of a corpus holds too.

Shows whether a model has seen the test sequences of a task. Counts a sample of the k-mers, as `leakage` does, so that
memory stays bounded for any corpus.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from dnachunker.dataprep.corpus.index import Corpus
from dnachunker.dataprep.genomes.prepared_sequence import Stretch
from dnachunker.dataprep.packed_codes import find_runs, pack_bases
from dnachunker.foundations.progress import Progress
from dnachunker.model.alphabet import BASES, CODE_N

from .kmer_sketch import SampleRate, sample_kmers, sample_rate
from .leakage import distinct

_SAMPLED_KMERS = 2**23  # of all groups together, 64 MiB; test sets of less than 8 Mbp are counted whole
_CODES = np.full(256, CODE_N, np.uint8)
_CODES[np.frombuffer(BASES.encode(), np.uint8)] = _CODES[np.frombuffer(BASES.lower().encode(), np.uint8)] = range(4)


def shares_in_train(corpus: Corpus, groups: Mapping[str, Sequence[str]], split: str = "train") -> dict[str, float]:
    """By group of sequences, the share of its distinct 31-mers that the split holds; NaN for a group without any.

    Args:
        groups: nucleotide letters in either case.
    """
    bases = sum(len(letters) for sequences in groups.values() for letters in sequences)
    rate = sample_rate(min(1.0, _SAMPLED_KMERS / max(bases, 1)))
    wanted = {name: distinct([_kmers_of(sequences, rate)]) for name, sequences in groups.items()}
    every = distinct(list(wanted.values()))
    seen = np.zeros(every.size, bool)
    blocks = corpus.blocks(split)
    with Progress("comparing with the corpus", int(blocks.bases.sum()), "bp") as bar:
        for row in range(len(blocks)):
            length = int(blocks.bases[row])
            bases_of_block, n_runs, soft_runs = corpus.decode_frame(blocks, row, corpus.read_frame(blocks, row))
            kmers, _ = sample_kmers(Stretch(length, bases_of_block, n_runs, soft_runs), rate)
            if every.size:
                places = np.minimum(np.searchsorted(every, kmers), every.size - 1)
                seen[places[every[places] == kmers]] = True
            bar.update(length)
    found = every[seen]
    return {
        name: float(np.isin(kmers, found, assume_unique=True).mean()) if kmers.size else float("nan")
        for name, kmers in wanted.items()
    }


def _kmers_of(sequences: Sequence[str], rate: SampleRate) -> NDArray[np.uint64]:
    joined = "N".join(sequences)  # no k-mer reaches over an N
    codes = _CODES[np.frombuffer(joined.encode("latin-1", "replace"), np.uint8)]
    stretch = Stretch(
        codes.size, np.frombuffer(pack_bases(codes), np.uint8), find_runs(codes == CODE_N), find_runs(codes > CODE_N)
    )
    return sample_kmers(stretch, rate)[0]
