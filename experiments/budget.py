"""Number of steps of a cell, from a budget of training bases or of model FLOPs."""

from typing import TYPE_CHECKING

from dnachunker.foundations.failures import BadInput
from dnachunker.pretrain.config import PretrainConfig

from .config import BudgetSettings

if TYPE_CHECKING:
    from dnachunker.model.configuration_dnachunker import DNAChunkerConfig


def steps_of(budget: BudgetSettings, run: PretrainConfig) -> int:
    """Number of optimizer steps that comes nearest to the budget, at least one.

    Raises:
        BadInput: the run changes its window length, so its steps differ in cost.
    """
    if run.data.curriculum:
        raise BadInput("a sweep needs steps of equal size to match budgets; leave data.curriculum out")
    bases = budget.bases if budget.bases is not None else (budget.flops or 0) / expected_flops_per_base(run)
    return max(1, round(bases / (run.data.global_batch * run.data.seq_len)))


def expected_flops_per_base(run: PretrainConfig) -> float:
    """Model FLOPs per training base, forward and backward, when the routers reach their target ratios."""
    from dnachunker.model.cost import flops_per_base
    from dnachunker.pretrain.engine.network import expected_chunks_per_base

    chunks = expected_chunks_per_base(run.model, run.tokenization, run.masking)
    return flops_per_base(network_of(run), run.data.seq_len, chunks).total


def network_of(run: PretrainConfig) -> "DNAChunkerConfig":
    """The config of the run's network."""
    from dnachunker.pretrain.engine.network import network_config

    return network_config(run.model, run.tokenization)
