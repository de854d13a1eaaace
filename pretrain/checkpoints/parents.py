"""The model that a run starts from: an export, or the newest checkpoint of another run."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from dnachunker.foundations.failures import BadInput, one_line
from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.pretrain.config import ModelSettings, PretrainConfig, TokenizationSettings
from dnachunker.pretrain.engine.build_model import class_of
from dnachunker.pretrain.engine.network import network_config
from dnachunker.pretrain.run_folder import CONFIG

from .state import RunState, complete_checkpoints, read_state

Shapes = dict[str, tuple[int, ...]]

# Fields that change what weights of the same shapes compute; `num_heads` is refused, the others may be meant.
_SAME_SHAPES = (
    "rope_theta", "local_window", "chunk_pooling", "mask_protection", "protected_stages", "residual_gating",
    "strand_symmetry", "router",
)  # fmt: skip


@dataclass(frozen=True)
class ParentModel:
    """What is known of a parent before its weights are read.

    Attributes:
        folder: of the export or run.
        is_run: whether the folder is a run, whose weights lie in a checkpoint; else an export.
        network: its configuration.
        shapes: of its parameters, by name.
        steps_done: optimizer steps of its own training; None if the folder does not say.
    """

    folder: Path
    is_run: bool
    network: DNAChunkerConfig
    shapes: Shapes
    steps_done: int | None

    @classmethod
    def open(cls, folder: Path) -> "ParentModel":
        """Reads configuration and shapes.

        Raises:
            BadInput: the folder is neither an export nor a run with a checkpoint, or is not readable.
        """
        if (folder / CONFIG).is_file():
            found = complete_checkpoints(folder)
            if not found:
                raise BadInput(f"{folder} (init.model): this run has no complete checkpoint yet; wait for the first")
            state = read_state(found[-1])
            network = network_of(state)
            return cls(folder, True, network, parameter_shapes(network), state.steps_done)
        files = weight_files(folder)
        if not files or not (folder / "config.json").is_file():
            raise BadInput(
                f"{folder} (init.model): neither a run folder ({CONFIG}) nor an export (config.json and *.safetensors)"
            )
        try:
            described = json.loads((folder / "config.json").read_text())
            if described["model_type"] != DNAChunkerConfig.model_type:
                raise ValueError(f"its model_type is {described['model_type']}, not {DNAChunkerConfig.model_type}")
            shapes: Shapes = {}
            for path in files:
                with safe_open(path, framework="pt") as file:
                    shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            record = folder / "export.json"
            steps = json.loads(record.read_text()).get("step") if record.is_file() else None
            return cls(folder, False, DNAChunkerConfig.from_dict(described), shapes, steps)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise BadInput(f"{folder} (init.model): not a readable export: {one_line(error)}") from error

    def require_fits(self, network: DNAChunkerConfig, shapes: Shapes, reset: tuple[str, ...]) -> None:
        """Refuse a parent of another architecture.

        Args:
            network, shapes: of the new run's model.
            reset: parts that are not taken from the parent, as `InitSettings.reset`.

        Raises:
            BadInput: naming the first parameter that differs, and both shapes.
        """
        for name in (*shapes, *(name for name in self.shapes if name not in shapes)):
            theirs, ours = self.shapes.get(name), shapes.get(name)
            if theirs != ours and not is_reset(name, reset):
                raise BadInput(
                    f"{self.folder} (init.model): does not fit this run's model: {name} {_shape(theirs)} there and "
                    f"{_shape(ours)} here; set `model` and `tokenization` as that model has them"
                )
        if self.network.num_heads != network.num_heads:
            raise BadInput(
                f"{self.folder} (init.model): does not fit this run's model: hierarchy.trunk has "
                f"{self.network.num_heads} heads there and {network.num_heads} here; set model.num_heads"
            )

    def other_settings(self, network: DNAChunkerConfig) -> list[str]:
        """Settings that fit both models and change what the weights compute, such as `rope_theta 10000.0 -> 1e6`."""
        pairs = ((name, getattr(self.network, name), getattr(network, name)) for name in _SAME_SHAPES)
        return [f"{name} {before} -> {after}" for name, before, after in pairs if before != after]


def require_parent_fits(config: PretrainConfig) -> None:
    """Refuse `init.model` if the new run cannot start from it; reads no weights.

    Raises:
        BadInput: as `ParentModel.open` and `ParentModel.require_fits`.
    """
    if config.init.model is not None:
        network = network_config(config.model, config.tokenization)
        ParentModel.open(Path(config.init.model)).require_fits(network, parameter_shapes(network), config.init.reset)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of an export."""
    return sorted(folder.glob("*.safetensors")) if folder.is_dir() else []


def is_reset(name: str, reset: tuple[str, ...]) -> bool:
    """Whether a parameter belongs to one of the parts that start as in a new model."""
    part = "routers" if ".hierarchy.routers." in name else "head" if not name.startswith("dnachunker.") else ""
    return part in reset


def network_of(state: RunState) -> DNAChunkerConfig:
    """The configuration of the network that a checkpoint holds."""
    model = ModelSettings.model_validate(state.identity["model"])
    tokenization = TokenizationSettings.model_validate(state.identity.get("tokenization", {}))
    return network_config(model, tokenization, merges=state.merges)


def parameter_shapes(network: DNAChunkerConfig) -> Shapes:
    """Shapes of the parameters of a network's language model, by name; allocates none of them."""
    bare = DNAChunkerConfig.from_dict({**network.to_dict(), "segmentation": None})  # which has no parameters
    with torch.device("meta"):
        return shapes_of(dict(class_of(bare)(bare).named_parameters()))


def shapes_of(tensors: Mapping[str, torch.Tensor]) -> Shapes:
    """Shapes by name."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _shape(shape: tuple[int, ...] | None) -> str:
    return "is absent" if shape is None else f"is {list(shape)}"
