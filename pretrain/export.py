"""A checkpoint of any ZeRO stage -> a Hugging Face folder, proven to load elsewhere before it appears."""

import io
import json
import shutil
import subprocess
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

from failures import BadInput
from model.configuration_dnachunker import DNAChunkerConfig
from model.modeling_dnachunker import (
    DNAChunkerForMaskedLM,
    DNAChunkerForSequenceClassification,
    DNAChunkerModel,
)
from model.tokenization_dnachunker import DNATokenizer

from .checkpoint import PROBE, choose_checkpoint, read_state
from .engine import ENGINE_STATE
from .fresh_load import RESULT
from .model_card import model_card
from .preflight import CONFIG, read_config

RECORD = "export.json"  # which step the folder holds and how its logits compared

_FRESH_LOAD = Path(__file__).with_name("fresh_load.py")
_TOLERANCE = {"fp32": 1e-5, "bf16": 0.25}  # bf16 training rounds its own logits to 8 bits


@dataclass(frozen=True)
class Exported:
    """Where the folder is, which step it holds, and how far its logits are from the training model's."""

    path: Path
    step: int
    max_abs_diff: float


def export_run(run: Path, output: Path, *, step: int | None = None, overwrite: bool = False) -> Exported:
    """Export the newest checkpoint of `run` (or the one of `step`) to the folder `output`.

    Raises:
        BadInput: no such run or checkpoint, a damaged checkpoint, or `output` exists.
        RuntimeError: the folder does not load in a fresh process, or its logits differ; nothing is left behind.
    """
    config = read_config(run)
    checkpoint = choose_checkpoint(run, step)
    if output.exists() and not overwrite:
        raise BadInput(f"{output}: already exists; choose another folder or pass --overwrite")
    state = read_state(checkpoint)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.partial-") as name:
        staging = Path(name) / output.name
        _write_folder(staging, DNAChunkerConfig(**config.model.model_dump()), checkpoint)
        shutil.copy(run / CONFIG, staging / "pretraining.yaml")
        (staging / "README.md").write_text(model_card(run, state, output.name))
        difference = _load_elsewhere(staging, checkpoint / PROBE)
        if not difference <= _TOLERANCE[state.precision]:
            raise RuntimeError(f"the export's logits differ from the training model's by {difference}")
        record = {"step": state.steps_done, "max_abs_diff": difference, "versions": state.versions}
        (staging / RECORD).write_text(json.dumps(record, indent=1) + "\n")
        if output.exists():
            shutil.rmtree(output)
        staging.rename(output)
    return Exported(output, state.steps_done, difference)


def _write_folder(folder: Path, config: DNAChunkerConfig, checkpoint: Path) -> None:
    transformers.utils.logging.disable_progress_bar()
    model = DNAChunkerForMaskedLM(config)
    model.load_state_dict(_weights(checkpoint), strict=True)
    DNAChunkerConfig.register_for_auto_class()
    DNAChunkerModel.register_for_auto_class("AutoModel")
    DNAChunkerForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
    DNAChunkerForMaskedLM.register_for_auto_class("AutoModelForMaskedLM")
    model.save_pretrained(folder)
    DNATokenizer().save_pretrained(folder)


def _weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    if read_state(checkpoint).zero_stage == 0:
        # the manifest has been verified: this run wrote the file
        states = torch.load(checkpoint / ENGINE_STATE / "mp_rank_00_model_states.pt", weights_only=False)
        return {name: tensor.float() for name, tensor in states["module"].items()}
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # DeepSpeed tells of every shard
        return get_fp32_state_dict_from_zero_checkpoint(str(checkpoint), tag=ENGINE_STATE)


def _load_elsewhere(folder: Path, probe: Path) -> float:
    with tempfile.TemporaryDirectory() as scratch:
        process = subprocess.run(
            [sys.executable, "-I", str(_FRESH_LOAD), str(folder.absolute()), str(probe.absolute()), scratch],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        if process.returncode:
            raise RuntimeError(f"the export does not load in a fresh process:\n{process.stderr}")
        return float(json.loads(Path(scratch, RESULT).read_text())["max_abs_diff"])
