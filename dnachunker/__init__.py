"""dnachunker: pretrain DNA language models that learn their own tokens.

What a program needs of it is here, and is imported when it is first used:

    from dnachunker import Corpus, webdataset_split                      # read a corpus
    from dnachunker import DNAChunkerConfig, DNAChunkerForMaskedLM       # build a model
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dnachunker.foundations.version import __version__

if TYPE_CHECKING:
    from dnachunker.dataprep.corpus.index import Corpus
    from dnachunker.dataprep.corpus.webdataset_view import webdataset_split
    from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
    from dnachunker.model.modeling_causal import DNAChunkerForCausalLM
    from dnachunker.model.modeling_dnachunker import (
        DNAChunkerForMaskedLM,
        DNAChunkerForSequenceClassification,
        DNAChunkerForTokenClassification,
        DNAChunkerModel,
    )
    from dnachunker.model.tokenization_dnachunker import DNATokenizer

__all__ = [
    "Corpus",
    "DNAChunkerConfig",
    "DNAChunkerForCausalLM",
    "DNAChunkerForMaskedLM",
    "DNAChunkerForSequenceClassification",
    "DNAChunkerForTokenClassification",
    "DNAChunkerModel",
    "DNATokenizer",
    "__version__",
    "webdataset_split",
]

# By name, the module that holds it. Importing `dnachunker` imports none of them: torch alone takes seconds.
_HOMES = {
    "Corpus": "dataprep.corpus.index",
    "webdataset_split": "dataprep.corpus.webdataset_view",
    "DNAChunkerConfig": "model.configuration_dnachunker",
    "DNAChunkerForCausalLM": "model.modeling_causal",
    "DNAChunkerForMaskedLM": "model.modeling_dnachunker",
    "DNAChunkerForSequenceClassification": "model.modeling_dnachunker",
    "DNAChunkerForTokenClassification": "model.modeling_dnachunker",
    "DNAChunkerModel": "model.modeling_dnachunker",
    "DNATokenizer": "model.tokenization_dnachunker",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dnachunker' has no attribute {name!r}")
    return getattr(import_module(f"dnachunker.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
