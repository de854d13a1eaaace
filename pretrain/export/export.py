"""A checkpoint of any ZeRO stage -> a Hugging Face folder, which appears only after a fresh process has loaded it."""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import transformers
from yaml import safe_dump

from dnachunker.foundations.atomic_files import new_folder
from dnachunker.foundations.failures import BadInput
from dnachunker.foundations.version import __version__
from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.model.tokenization_dnachunker import DNATokenizer
from dnachunker.pretrain.checkpoints.loading import read_weights
from dnachunker.pretrain.checkpoints.parents import network_of
from dnachunker.pretrain.checkpoints.saving import PROBE
from dnachunker.pretrain.checkpoints.state import read_state
from dnachunker.pretrain.engine.build_model import class_of
from dnachunker.pretrain.records.mlflow_mirror import read_cursor

from .choice import checkpoint_to_export
from .fresh_load import RESULT
from .model_card import longest_window, model_card

RECORD = "export.json"  # the step of the checkpoint, how far the folder's logits differ, and the run's id in MLflow

_FRESH_LOAD = Path(__file__).with_name("fresh_load.py")
# With the same boundaries logits differ only by rounding: by the order of sums on a GPU, by 8-bit mantissas in bf16.
_TOLERANCE = {"cpu": 1e-5, "cuda": 1e-3}  # of a run in fp32, by its device
_TOLERANCE_BF16 = 0.25


@dataclass(frozen=True)
class Exported:
    """The exported folder, the step of its checkpoint, and how far its logits are from the training model's.

    `warning` says why the checkpoint, or a newer one that was not taken, may be bad; empty if nothing is wrong.
    """

    path: Path
    step: int
    max_abs_diff: float
    warning: str


def export_run(
    run: Path,
    output: Path,
    *,
    step: int | None = None,
    overwrite: bool = False,
    name: str | None = None,
    license: str = "apache-2.0",
) -> Exported:
    """Export the newest sound checkpoint of `run` (or the one of `step`) to the folder `output`.

    Args:
        name: of the model on its card; default: that of the folder.
        license: of the weights, on the card.

    Raises:
        BadInput: no such run or checkpoint, no sound one, a damaged checkpoint, or `output` exists.
        RuntimeError: the folder does not load in a fresh process, or its logits differ; nothing is left behind.
    """
    checkpoint, warning = checkpoint_to_export(run, step)
    if output.exists() and not overwrite:
        raise BadInput(f"{output}: already exists; choose another folder or pass --overwrite")
    if output.exists() and not (output / RECORD).is_file():
        raise BadInput(f"{output}: not an earlier export, so --overwrite does not replace it; choose another folder")
    state = read_state(checkpoint)
    with new_folder(output) as folder:
        _write_folder(folder, network_of(state), checkpoint, longest_window(state))
        # only settings that the weights depend on: paths and tracking servers stay private
        (folder / "pretraining.yaml").write_text(safe_dump(state.identity, sort_keys=False))
        (folder / "README.md").write_text(model_card(run, state, name or output.name, license=license))
        found = _load_elsewhere(folder, checkpoint / PROBE)
        difference = found["max_abs_diff"]
        if not difference <= (_TOLERANCE[state.device] if state.precision == "fp32" else _TOLERANCE_BF16):
            raise RuntimeError(f"the export's logits differ from the training model's by {difference}")
        record = {
            "step": state.steps_done, **found, "versions": state.versions, "exported_by": __version__,
            "mlflow_run": read_cursor(run).get("run_id"),
        }  # fmt: skip
        (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n")
        for path in folder.iterdir():
            path.chmod(0o644)  # safetensors writes for the owner only
    return Exported(output, state.steps_done, difference, warning)


def _write_folder(folder: Path, config: DNAChunkerConfig, checkpoint: Path, longest: int) -> None:
    transformers.utils.logging.disable_progress_bar()
    model = class_of(config)(config)
    model.load_state_dict(read_weights(checkpoint), strict=True)
    model.save_pretrained(folder)
    DNATokenizer(model_max_length=longest + config.causal).save_pretrained(folder)  # causal models start with [BOS]


def _load_elsewhere(folder: Path, probe: Path) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as scratch:
        process = subprocess.run(
            [sys.executable, "-I", str(_FRESH_LOAD), str(folder.absolute()), str(probe.absolute()), scratch],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        if process.returncode:
            raise RuntimeError(f"the export does not load in a fresh process:\n{process.stderr}")
        return dict(json.loads(Path(scratch, RESULT).read_text()))
