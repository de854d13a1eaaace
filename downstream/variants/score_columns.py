"""The scores that a benchmark compares: of a model, of the same network with random weights, of Markov chains."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from dnachunker.dataprep.corpus.index import Corpus
from dnachunker.dataprep.corpus.markov import MarkovTables
from dnachunker.downstream.exported import Exported
from dnachunker.foundations.progress import Progress
from dnachunker.model.alphabet import BASES, CODE_N

from .alleles import Alleles, Fetch
from .likelihoods import FURTHER, Scorer, VariantScore
from .ranking import Floats

MARKOV_ORDERS = (5, 8)
MOST_MARKOV_BASES = 2**28  # that Markov chains are counted on; of a larger corpus, blocks evenly spread
LIKELIHOOD, COMBINED, ALL_COMBINED, RANDOM = "likelihood", "architecture", "likelihood_architecture", "random_"
_GROUP = 48  # variants scored between two looks at the progress, or more at one position
_MEANINGS = {
    LIKELIHOOD: "log P(ref) - log P(alt), nats, averaged over strands",
    "likelihood_size": "its absolute value",
    "trunk_cosine": "change of the trunk's chunk vector over the site, cosine distance",
    "trunk_cosine_near": "the same, mean over the bases nearby",
    "trunk_l2": "change of the trunk's chunk vector over the site, L2 distance",
    "trunk_l2_near": "the same, mean over the bases nearby",
    "entropy": "entropy of the prediction at the masked site; low counts as positive",
    "entropy_near": "mean entropy of the predictions nearby; low counts as positive",
}
_CODES = np.full(256, CODE_N, np.uint8)
_CODES[np.frombuffer(BASES.encode(), np.uint8)] = range(4)

ScoredVariant = tuple[Alleles, Fetch, int]  # alleles, the letters of their contig, and its length


@dataclass(frozen=True)
class Score:
    """One score of all variants.

    Attributes:
        values: (n,), NaN where there is none; a high value counts as positive unless `low_is_positive`.
    """

    name: str
    meaning: str
    values: Floats
    low_is_positive: bool = False

    @property
    def ranked(self) -> Floats:
        """The values, turned so that high counts as positive."""
        return -self.values if self.low_is_positive else self.values


def model_scores(
    exported: Exported,
    variants: Sequence[ScoredVariant],
    *,
    context: int,
    radius: int,
    architecture: bool,
    random_weights: bool,
    seed: int,
) -> list[Score]:
    """Scores of a network.

    Args:
        variants: sorted by position, since variants at one position share passes.
        context, radius: as for `Scorer`.
        architecture: boundary shifts, changes of chunk vectors and entropies too, not likelihoods alone.
        random_weights: of the same network with random weights from `seed`.
    """
    masked = exported.network("masked", random_weights=random_weights, seed=seed)
    trunk = exported.network("trunk", random_weights=random_weights, seed=seed) if architecture else None
    scorer = Scorer(exported, masked, trunk, context, radius, architecture)
    found: list[VariantScore] = []
    with Progress("random weights" if random_weights else "scoring", len(variants), "variant") as bar:
        for group in _groups(variants):
            found += scorer.scores(group)
            bar.update(len(group))
    ratios = np.array([score.likelihood_ratio for score in found])
    columns = {LIKELIHOOD: -ratios, "likelihood_size": np.abs(ratios)}
    meanings = dict(_MEANINGS)
    if architecture:
        for stage, values in enumerate(np.array([score.shifts for score in found]).T):
            columns[f"shift{stage}"] = values
            meanings[f"shift{stage}"] = f"change of the chunk boundaries of stage {stage} nearby, 1 - Jaccard index"
        columns |= {name: np.array([score.further[name] for score in found]) for name in FURTHER}
    prefix, suffix = (RANDOM, ", random weights") if random_weights else ("", "")
    return [
        Score(prefix + name, meanings[name] + suffix, values, name.startswith("entropy"))
        for name, values in columns.items()
    ]


def markov_scores(corpus: Corpus, split: str, variants: Sequence[ScoredVariant]) -> list[Score]:
    """Log-likelihood ratios of Markov chains that are counted on a split of a corpus."""
    blocks = corpus.blocks(split)
    stride = -(-int(blocks.bases.sum()) // MOST_MARKOV_BASES)
    tables = MarkovTables.cached(
        f"{corpus.fingerprint[:16]}-{split}-{stride}",
        lambda: (corpus.read_block(blocks, row).codes for row in range(0, len(blocks), stride)),
        max(MARKOV_ORDERS),
    )
    return [
        Score(
            f"markov{order}",
            f"log P(ref) - log P(alt), nats, of an order-{order} Markov chain, averaged over strands",
            np.array([-markov_ratio(tables, order, *variant) for variant in variants]),
        )
        for order in MARKOV_ORDERS
    ]


def _groups(variants: Sequence[ScoredVariant]) -> Iterator[list[ScoredVariant]]:
    group: list[ScoredVariant] = []
    for _, there in groupby(variants, key=lambda variant: (variant[0].start, variant[0].end)):
        group += there
        if len(group) >= _GROUP:
            yield group
            group = []
    if group:
        yield group


def markov_ratio(tables: MarkovTables, order: int, alleles: Alleles, fetch: Fetch, length: int) -> float:
    """log P(alternative) - log P(reference): over the allele and the bases whose context it is in, both strands."""
    left = fetch(max(0, alleles.start - order), alleles.start)
    right = fetch(alleles.end, min(length, alleles.end + order))
    likelihoods = []
    for allele in (alleles.reference, alleles.alternative):
        codes = _CODES[np.frombuffer((left + allele + right).encode(), np.uint8)]
        strands: tuple[NDArray[np.uint8], ...] = (codes, np.where(codes < CODE_N, 3 - codes, CODE_N)[::-1])
        likelihoods.append(-sum(float(np.nansum(tables.losses(strand, order))) for strand in strands) / 2)
    return likelihoods[1] - likelihoods[0]
