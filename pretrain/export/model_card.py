"""The README.md of an exported folder: metadata for the Hub, how to load the model, what it was trained on and how."""

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from dnachunker.dataprep.corpus.held_out_doubts import held_out_doubts
from dnachunker.dataprep.corpus.index import Corpus
from dnachunker.dataprep.corpus.markov import ORDERS
from dnachunker.foundations.failures import BadInput
from dnachunker.pretrain.checkpoints.state import RunState
from dnachunker.pretrain.config import PretrainConfig
from dnachunker.pretrain.data.headline import headline_of
from dnachunker.pretrain.records.event_log import read_events
from dnachunker.pretrain.run_folder import read_config

_TEXT = """---
{metadata}
---

# {name}

A DNACHUNKER {what} language model of DNA ([arXiv 2601.03019](https://arxiv.org/abs/2601.03019)), pretrained with
dnachunker {version}. It reads single bases and learns where to cut them into chunks.

## Use

It needs torch, safetensors and transformers 5.0 or newer; numba makes it fast on a CPU.

```python
import torch
from transformers import {auto_class}, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}", trust_remote_code=True)
model = {auto_class}.from_pretrained("{name}", trust_remote_code=True).eval()
inputs = tokenizer("{example}", return_tensors="pt")
with torch.no_grad():
    output = model(**inputs)
print(output.logits.shape, output.boundaries[0])  # (1, L, 16), and where the model starts its chunks
```

- The tokenizer has one token a base. It leaves white space out, reads lower case as upper case and IUPAC codes as N,
  and refuses every other character with a `ValueError`. With `trust_remote_code=False` it is a plain tokenizer of
  transformers that gives the same ids; its error is then an `Exception` of the tokenizers library.
- `AutoModel` gives a vector per base, `AutoModelForSequenceClassification` a label per sequence,
  `AutoModelForTokenClassification` a label per base. Pipelines, Trainer and peft work with them.
{collator}
## Training data

{data}

## Training

- {steps:,} steps of {batch:,} windows of {length:,} bases ({bases:,} bases with padding), seed {seed}
{parent}{ema}- {precision}, ZeRO stage {zero_stage}, {hardware}
- {software}

The resolved configuration is in `pretraining.yaml`, the comparison of this folder's logits with the training model's in
`export.json`.

## Evaluation

{evaluation}

## Intended use and limits

For research: embeddings and fine-tuning for tasks on DNA sequence, scores of sequence variants, and the study of
learned segmentation. The model has seen only the species above, as reference genomes, which do not show the variation
within a species. Other species were not tested. It read windows of up to {longest:,} bases in training; longer inputs
work, but were not tested. It is not made or validated for medical decisions.

## Licence

The code in this folder is part of dnachunker (Apache-2.0). The weights are published under `{license}`. Licences of the
genomes are those of their providers.

## Citation

```bibtex
@misc{{dnachunker,
  title = {{DNACHUNKER: learnable tokenization for DNA language models}},
  eprint = {{2601.03019}},
  archivePrefix = {{arXiv}},
  url = {{https://arxiv.org/abs/2601.03019}}
}}
```
"""

_COLLATOR = """- To continue pretraining with Trainer, take the collator that masks and draws bases only:

```python
from transformers.dynamic_module_utils import get_class_from_dynamic_module

DNADataCollator = get_class_from_dynamic_module("collator_dnachunker.DNADataCollator", "{name}")
collator = DNADataCollator(tokenizer, mlm_probability=0.15)
```
"""

_MASKED = {
    "task": "fill-mask",
    "what": "masked",
    "auto_class": "AutoModelForMaskedLM",
    "example": "ACGTACGT[MASK]ACGTTGCA",
}
_CAUSAL = {
    "task": "text-generation",
    "what": "causal",
    "auto_class": "AutoModelForCausalLM",
    "example": "[BOS]ACGTACGTACGTTGCA",
}


def model_card(run: Path, state: RunState, name: str, *, license: str = "apache-2.0") -> str:
    """Markdown text about the checkpoint `state` of `run`, exported as `name`; paths and host names stay private.

    Args:
        license: of the weights, as the Hub names licences.
    """
    config, events = read_config(run), read_events(run)
    corpus = _corpus(config, state)
    evaluations = [e for e in events if e["event"] == "evaluation" and e["steps_done"] <= state.steps_done]
    kind = _CAUSAL if config.model.causal else _MASKED
    metadata = ModelCardData(
        license=license,
        library_name="transformers",
        pipeline_tag=kind["task"],
        tags=["dna", "genomics", "biology", "dnachunker"],
        datasets=[source.name for source in corpus.sources] if corpus else None,
        metrics=["loss", "accuracy"] if evaluations else None,
        model_name=name.rpartition("/")[2],
        eval_results=_results(evaluations[-1], kind["task"], state) if evaluations else None,
    )
    return _TEXT.format(
        **kind,
        metadata=metadata.to_yaml(),
        name=name,
        license=license,
        collator="" if config.model.causal else _COLLATOR.format(name=name),
        version=state.versions.get("dnachunker", "of an unknown version"),
        data=_data(corpus, state),
        steps=state.steps_done,
        batch=config.data.global_batch,
        length=config.data.seq_len,
        longest=longest_window(state),
        bases=state.samples_seen * config.data.seq_len,
        parent=_parent(state),
        ema=_ema(state),
        precision=state.precision,
        zero_stage=state.zero_stage,
        seed=config.seed,
        hardware=_hardware(events, state),
        software=_software(events, state),
        evaluation=_evaluation(evaluations[-1]) if evaluations else "This checkpoint was not evaluated.",
    )


def longest_window(state: RunState) -> int:
    """Bases of the longest windows that the run has read so far."""
    data = state.identity["data"]
    phases = (phase for phase in data.get("curriculum", ()) if phase["from_step"] < state.steps_done)
    return max(int(phase["seq_len"]) for phase in (data, *phases))


def _corpus(config: PretrainConfig, state: RunState) -> Corpus | None:
    """The corpus trained on; None if it is no longer where the run read it."""
    try:
        corpus = Corpus.open(config.data.corpus)
    except (BadInput, OSError):
        return None
    return corpus if corpus.fingerprint == state.corpus_fingerprint else None


def _data(corpus: Corpus | None, state: RunState) -> str:
    named = f"The corpus has the fingerprint `{state.corpus_fingerprint}`."
    if corpus is None:
        return f"{named} It could not be read at the time of export, so its genomes are not listed here."
    rows = "\n".join(
        f"| {s.name} | {s.species} | {s.assembly} | {s.bases:,} | {s.licence or 'not stated'} |" for s in corpus.sources
    )
    header = "| source | species | assembly | bases | licence |\n| --- | --- | --- | --- | --- |"
    doubts = "".join(f"\n\n**Warning.** {line}" for line in held_out_doubts(corpus.index, corpus.blocks()))
    told = "It was built from reference sequence; held-out splits were not trained on."
    if state.parent:
        told += f" The model that training started from, `{Path(state.parent.model).name}`, has seen other data."
    return f"{header}\n{rows}\n\n{named} {told}{doubts}"


def _parent(state: RunState) -> str:
    if state.parent is None:
        return ""
    parent = state.parent
    trained = "" if parent.steps_done is None else f" after {parent.steps_done:,} steps"
    fresh = f", but for {' and '.join(parent.reset)}" if parent.reset else ""
    return (
        f"- started from the weights of `{Path(parent.model).name}`{trained}{fresh}, with a fresh optimizer "
        f"(fingerprint of these weights: `{parent.fingerprint}`)\n"
    )


def _ema(state: RunState) -> str:
    share = state.identity["optimizer"].get("ema")
    return f"- the weights are a running average of those of training (`optimizer.ema: {share}`)\n" if share else ""


def _hardware(events: list[dict[str, Any]], state: RunState) -> str:
    started = [e for e in events if e["event"] in ("start", "resume") and e["steps_done"] <= state.steps_done]
    machines = started[-1].get("machines", []) if started else []
    kinds = sorted({machine.get("gpu") or f"CPUs with {machine.get('cores')} cores" for machine in machines})
    ranks, count = state.world_size, len(machines) or 1
    return f"{ranks} rank{'s' * (ranks > 1)} on {count} machine{'s' * (count > 1)} ({', '.join(kinds) or state.device})"


def _software(events: list[dict[str, Any]], state: RunState) -> str:
    code: dict[str, Any] = next((e["code"] for e in reversed(events) if e.get("code")), {})
    commit = f", commit {code['commit']}{' with changes' if code.get('changed') else ''}" if code.get("commit") else ""
    return ", ".join(f"{name} {version}" for name, version in state.versions.items()) + commit


def _results(event: dict[str, Any], task: str, state: RunState) -> list[EvalResult]:
    key, title = headline_of(event)
    return [
        EvalResult(
            task_type=task,
            dataset_type="dnachunker-corpus",
            dataset_name=f"held-out split of corpus {state.corpus_fingerprint[:12]}",
            metric_type=metric,
            metric_name=f"{title} {metric}" + (", nats" if metric == "loss" else ""),
            metric_value=round(event[f"{key}_{metric}"], 4),
        )
        for metric in ("loss", "accuracy")
        if event.get(f"{key}_{metric}") is not None
    ]


def _evaluation(event: dict[str, Any]) -> str:
    header = " | ".join(f"order {order} Markov" for order in ORDERS)
    key, title = headline_of(event)
    values = " | ".join(f"{event[f'order{order}_loss']:.4f}" for order in ORDERS)
    return (
        f"Held-out loss after step {event['steps_done']}, nats per {title} position, beside baselines on the same:\n\n"
        f"| model | {header} |\n|{'---|' * (len(ORDERS) + 1)}\n| {event[f'{key}_loss']:.4f} | {values} |"
    )
