"""Reads stretches of weights, of Adam's moments and of the average from a checkpoint of any ranks and ZeRO stage.

Each rank writes the parts that it holds (`TrainingEngine.moments`), and weights lie whole in one file. So a part of
another number of ranks or another ZeRO stage is put together from the parts that overlap it. The files are mapped into
memory: a rank reads from the disk only the stretches that it asks for.
"""

from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from dnachunker.foundations.failures import BadInput, one_line

WEIGHTS = "weights.safetensors"
OPTIMIZER = "optimizer"  # folder of the files with moments


def moments_file(rank: int) -> str:
    """The file of a rank's moments, in a checkpoint."""
    return f"{OPTIMIZER}/rank-{rank:05d}.safetensors"


class StoredParts:
    """Weights and moments of one checkpoint, opened and not read yet."""

    def __init__(self, checkpoint: Path) -> None:
        """
        Raises:
            BadInput: a file is not readable as safetensors, or a vector in it has another name than docs/checkpoints.md
                says.
        """
        self._checkpoint = checkpoint
        self._weights = _open(checkpoint / WEIGHTS)
        # by kind and parameter: start of the stretch, its file and its name there
        self._stretches: dict[tuple[str, str], list[tuple[int, Any, str]]] = defaultdict(list)
        for path in sorted((checkpoint / OPTIMIZER).glob("*.safetensors")):
            file = _open(path)
            for name in file.keys():  # noqa: SIM118 - it is no dict
                kind, _, rest = name.partition("/")
                start, _, parameter = rest.partition("/")
                if not start.isdecimal():
                    raise BadInput(f"{path}: {name!r} is not KIND/START/PARAMETER; dnachunker did not write this file")
                self._stretches[kind, parameter].append((int(start), file, name))

    def fill(self, parameter: str, kind: str, start: int, into: torch.Tensor) -> None:
        """Fill a vector with values of a flattened parameter, from position `start` on; see `TrainingEngine.load`.

        Raises:
            BadInput: the checkpoint does not hold all of them.
        """
        end, filled = start + len(into), 0
        stretches = [(0, self._weights, parameter)] if kind == "weight" else self._stretches[kind, parameter]
        try:
            for begin, file, name in stretches:
                values = file.get_tensor(name).flatten()
                first, last = max(start, begin), min(end, begin + len(values))
                if first < last:
                    into[first - start : last - start].copy_(values[first - begin : last - begin])
                    filled += last - first
        except SafetensorError as error:
            raise BadInput(f"{self._checkpoint}: {parameter}: not readable: {one_line(error)}") from error
        if filled != len(into):
            raise BadInput(
                f"{self._checkpoint}: holds {filled} of {len(into)} values of {kind} of {parameter}; remove this "
                "checkpoint folder to use the one before it"
            )


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise BadInput(
            f"{path}: refused: it is not a safetensors file ({one_line(error)}); dnachunker did not write this file. "
            "Remove this checkpoint folder to use the one before it"
        ) from error
