"""The README.md of an exported folder: how to load the model, and what it was trained on."""

from pathlib import Path

from dnachunker.pretrain.checkpoints.state import RunState
from dnachunker.pretrain.data.headline import headline_of
from dnachunker.pretrain.evaluation.markov import ORDERS
from dnachunker.pretrain.records.event_log import read_events
from dnachunker.pretrain.run_folder import read_config

_TEXT = """---
library_name: transformers
pipeline_tag: {task}
tags: [dna, genomics, dnachunker]
---

# {name}

A DNACHUNKER {what} language model of DNA (arXiv 2601.03019), pretrained with dnachunker {version}. It needs torch,
transformers and safetensors; numba makes it fast on a CPU.

```python
import torch
from transformers import {auto_class}, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}", trust_remote_code=False)  # plain transformers, no code from here
model = {auto_class}.from_pretrained("{name}", trust_remote_code=True).eval()
inputs = tokenizer("{example}", return_tensors="pt")
with torch.no_grad():
    output = model(**inputs)
print(output.logits.shape, output.boundaries[0])  # (1, L, 16), and where the model starts its chunks
```

## Training

{steps:,} steps of {batch:,} windows of {length:,} bases ({bases:,} bases with padding) on the corpus with fingerprint
`{fingerprint}`. The resolved configuration is in `pretraining.yaml`, the comparison of this folder's logits with the
training model's in `export.json`.

{evaluation}
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


def model_card(run: Path, state: RunState, name: str) -> str:
    """Markdown text about the checkpoint `state` of `run`, exported as `name`."""
    config = read_config(run)
    found = [e for e in read_events(run) if e["event"] == "evaluation" and e["steps_done"] <= state.steps_done]
    return _TEXT.format(
        **(_CAUSAL if config.model.causal else _MASKED),
        name=name,
        version=state.versions.get("dnachunker", "of an unknown version"),
        steps=state.steps_done,
        batch=config.data.global_batch,
        length=config.data.seq_len,
        bases=state.samples_seen * config.data.seq_len,
        fingerprint=state.corpus_fingerprint,
        evaluation=_evaluation(found[-1]) if found else "This checkpoint was not evaluated.",
    )


def _evaluation(event: dict[str, float]) -> str:
    header = " | ".join(f"order {order} Markov" for order in ORDERS)
    key, title = headline_of(event)
    values = " | ".join(f"{event[f'order{order}_loss']:.4f}" for order in ORDERS)
    return (
        f"Held-out loss after step {event['steps_done']}, nats per {title} position, beside baselines on the same:\n\n"
        f"| model | {header} |\n|{'---|' * (len(ORDERS) + 1)}\n| {event[f'{key}_loss']:.4f} | {values} |"
    )
