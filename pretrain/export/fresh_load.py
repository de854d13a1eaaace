"""Run as a script: load an exported folder without this project and compare its logits with recorded ones.

    python -I fresh_load.py FOLDER PROBE.safetensors SCRATCH

Imports of this project are refused, which proves that the folder does not need it. SCRATCH receives the copies of the
model code that transformers makes, and the result as result.json (libraries may print to stdout).
"""

import importlib.abc
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULT = "result.json"


class _RefuseThisProject(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> None:
        if name.partition(".")[0] == "dnachunker":
            raise ModuleNotFoundError(f"the exported folder must not need {name}")


def compare(folder: str, probe: str) -> dict[str, float]:
    """How the folder's logits compare with the recorded ones at valid positions.

    Returns:
        `max_abs_diff` of the logits, computed with the recorded chunk boundaries: on another device or in another
        precision, a boundary probability near 1/2 may round the other way. `boundary_flips`: the share of positions
        where a boundary differs, at the stage where most do.
    """
    import torch
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

    recorded = load_file(probe)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    causal = AutoConfig.from_pretrained(folder, trust_remote_code=True).causal
    auto_class = AutoModelForCausalLM if causal else AutoModelForMaskedLM
    loaded = auto_class.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32).eval()
    ids = recorded["input_ids"][0][recorded["attention_mask"][0]].tolist()
    if tokenizer("".join(tokenizer.convert_ids_to_tokens(ids)))["input_ids"] != ids:
        raise SystemExit("the tokenizer does not give back the ids it decoded")
    valid = recorded["attention_mask"]
    inputs = {"input_ids": recorded["input_ids"], "attention_mask": valid}
    stages = sum(name.startswith("boundaries") for name in recorded)
    cuts = tuple(recorded[f"boundaries{stage}"] for stage in range(stages))
    with torch.no_grad():
        logits = loaded(**inputs, boundaries=cuts).logits
        own = loaded(**inputs).boundaries
    flips = [(mine != theirs)[valid].double().mean() for mine, theirs in zip(own, cuts, strict=True)]
    return {
        "max_abs_diff": float((logits - recorded["logits"])[valid].abs().max()),
        "boundary_flips": float(max(flips)),
    }


if __name__ == "__main__":
    sys.meta_path.insert(0, _RefuseThisProject())
    os.environ.update(HF_HOME=sys.argv[3], HF_MODULES_CACHE=sys.argv[3], HF_HUB_OFFLINE="1")
    Path(sys.argv[3], RESULT).write_text(json.dumps(compare(sys.argv[1], sys.argv[2])))
