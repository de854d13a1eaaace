"""Makes DeepSpeed's checkpoint files plain: tensors, numbers, text, lists and dicts, and no pickled class.

A pickle can run code when it is loaded. torch's `weights_only=True` loads plain values alone and refuses the rest, but
DeepSpeed writes three classes of its own, and loads with `weights_only=False`. So `PlainStates` replaces the classes
when DeepSpeed writes, and `plain_loads_only` makes every load of torch refuse what is not plain.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine
from deepspeed.runtime.fp16.loss_scaler import LossScaler

from dnachunker.foundations.failures import BadInput

# The folder of a checkpoint that DeepSpeed writes.
ENGINE_STATE = "engine"
_OPTIMIZER = "optimizer_state_dict"
_LOSS_SCALER = "loss_scaler"  # always the constant 1: no precision that a run may have scales its loss
_SLICES = "param_slice_mappings"
_STAGE = "zero_stage"
_ONLY_PLAIN, _NOT_ONLY_PLAIN = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


class PlainStates(TorchCheckpointEngine):
    """What DeepSpeed saves and reads its checkpoint files with. The weights themselves are not in these files.

    `save` writes nothing: `saved` has what DeepSpeed wants in each file, in tensors that the next step changes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.saved: dict[Path, dict[str, Any]] = {}

    def save(self, state_dict: Mapping[str, Any], path: str) -> None:
        """Keep the plain form of one file's content."""
        self.saved[Path(path)] = _plain(state_dict)

    def load(self, path: str, map_location: Any = None) -> dict[str, Any]:
        """Read one file, and give DeepSpeed back what `save` has left out."""
        state: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
        if isinstance(state.get(_OPTIMIZER), dict):
            state[_OPTIMIZER][_LOSS_SCALER] = LossScaler(scale=1.0)
        return state


def write_plain(state: Mapping[str, Any], path: Path) -> None:
    """Write one file.

    Raises:
        RuntimeError: the file would not load with `weights_only=True`.
    """
    torch.save(state, path)
    classes = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    if classes:
        raise RuntimeError(f"{path} would hold {', '.join(classes)}, which a resume refuses")


def host_copy(value: Any) -> Any:
    """A plain value with every tensor copied to host memory; from a GPU through pinned memory."""
    if isinstance(value, torch.Tensor):
        if value.device.type == "cpu":
            return value.detach().clone()
        return torch.empty(value.shape, dtype=value.dtype, pin_memory=True).copy_(value.detach())
    if isinstance(value, Mapping):
        return {key: host_copy(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(host_copy, value))
    return value


@contextmanager
def plain_loads_only() -> Iterator[None]:
    """Inside, `torch.load` of this process refuses what is not plain, also where DeepSpeed asks it not to."""
    before = {name: os.environ.pop(name, None) for name in (_ONLY_PLAIN, _NOT_ONLY_PLAIN)}
    os.environ[_ONLY_PLAIN] = "1"
    try:
        yield
    finally:
        del os.environ[_ONLY_PLAIN]
        os.environ.update({name: value for name, value in before.items() if value is not None})


def require_plain(checkpoint: Path) -> None:
    """Refuse a checkpoint with a file that is not plain. Tensors are mapped into memory and not read.

    Raises:
        BadInput: naming the first such file.
    """
    for path in sorted((checkpoint / ENGINE_STATE).glob("*.pt")):
        try:
            torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # whoever made the file chooses the kind
            named = re.search(r"Unsupported \w+: \w+ (\S+)", str(error))
            raise BadInput(
                f"{path}: refused: it holds more than tensors and plain values{f' ({named[1]})' if named else ''}, and "
                "could run code; dnachunker did not write this file. Remove this checkpoint folder to use the one "
                "before it"
            ) from error


def _plain(state: Mapping[str, Any]) -> dict[str, Any]:
    plain = dict(state)
    if "module" in plain:
        plain["module"] = {}  # they lie beside these files, see `TrainingEngine.weights`
    optimizer = plain.get(_OPTIMIZER)
    if isinstance(optimizer, Mapping):
        optimizer = {name: value for name, value in optimizer.items() if name != _LOSS_SCALER}
        optimizer[_STAGE] = int(optimizer[_STAGE])
        if _SLICES in optimizer:
            optimizer[_SLICES] = [
                {name: (piece.start, piece.numel) for name, piece in group.items()} for group in optimizer[_SLICES]
            ]
        plain[_OPTIMIZER] = optimizer
    return plain
