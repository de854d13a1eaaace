"""The only place that drives DeepSpeed: start the process group, take a step, save and load the sharded state."""

import datetime
import logging
import math
import warnings
from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed.utils import logger as deepspeed_logger

from dnachunker.pretrain.config import PretrainConfig

from .deepspeed_config import deepspeed_config
from .ranks import Rank

# What DeepSpeed itself writes lies in one folder of the checkpoint, under a name that never changes.
ENGINE_STATE = "engine"


def start_process_group(rank: Rank) -> None:
    """Join the other ranks: NCCL on GPUs, gloo on CPUs.

    From here on the rank's GPU is the current one. Object collectives put their bytes on the current GPU, and NCCL
    refuses them where that is not the GPU that DeepSpeed bound the process group to.
    """
    if rank.device.type == "cuda":
        torch.cuda.set_device(rank.device)
    deepspeed_logger.setLevel(logging.ERROR)
    # DeepSpeed's calls, not ours; one line a rank that a user can do nothing about
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    # Only DeepSpeed's inference all-reduce uses this op, yet every CPU start would compile it: 30-50 s, a compiler
    # needed, and a race between hosts that share the cache.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    backend = "nccl" if rank.device.type == "cuda" else "gloo"
    deepspeed.init_distributed(dist_backend=backend, timeout=datetime.timedelta(minutes=30), verbose=False)


class TrainingEngine:
    """A model and its optimizer under ZeRO. Collective: every rank calls the same methods in the same order."""

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        config: PretrainConfig,
        rank: Rank,
        *,
        load_universal: bool = False,
    ) -> None:
        """
        Args:
            load_universal: `load` will be given a universal checkpoint, which any world size can load.

        Raises:
            BadInput: engine.deepspeed holds a key or value that DeepSpeed does not take.
        """
        self._rank = rank
        self._universal = load_universal
        self._zero_stage = config.engine.zero_stage
        self._accumulation = config.accumulation(rank.world_size)
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=model,
            optimizer=optimizer,
            config=deepspeed_config(config, rank.world_size, load_universal=load_universal),
        )

    def forward(self, **inputs: Any) -> Any:
        """The model's output on this rank's windows; gradients flow unless evaluation mode is on."""
        return self._engine(**inputs)

    def train(self, mode: bool = True) -> None:
        """Switch between training and evaluation mode."""
        self._engine.train(mode)

    def backward(self, loss: torch.Tensor) -> None:
        """Accumulate gradients of a loss that is this rank's share of a sum over ranks and micro-batches."""
        # DeepSpeed averages over both; the loss is already normalised over the global batch
        self._engine.backward(loss * (self._rank.world_size * self._accumulation))
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()

    def step(self, learning_rate: float) -> float:
        """Clip, update and clear the gradients; call once after the last micro-batch of a step.

        Gradients that are not finite are thrown away on every rank: `updates` then stays as it was.

        Returns:
            The gradients' 2-norm over all ranks before clipping.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        if self._zero_stage:  # ZeRO looks for itself, and skips
            self._engine.step()
            # bf16 and fp32 gradients that overflow leave no norm, or that of the step before
            skipped = bool(getattr(self._optimizer, "overflow", False))
            return float("nan") if skipped else float(self._engine.get_global_grad_norm())
        # at stage 0 DeepSpeed reports no norm and applies anything, but every rank holds all gradients
        norm = self._whole_gradient_norm()
        if math.isfinite(norm):
            self._engine.step()
        else:
            self._skip_update()
        return norm

    def _skip_update(self) -> None:
        """What DeepSpeed does at stages 1 to 3 when gradients are not finite, for stage 0."""
        self._optimizer.zero_grad()
        self._engine.zero_grad()
        self._engine.micro_steps += 1
        self._engine.global_steps += 1
        self._engine.global_samples += self._engine.train_batch_size()
        self._engine.skipped_steps += 1

    def _whole_gradient_norm(self) -> float:
        gradients = [parameter.grad for parameter in self._engine.module.parameters() if parameter.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients)) if gradients else float("nan")

    def save(self, folder: Path) -> None:
        """Write every rank's share of model and optimizer under `folder`/engine."""
        self._engine.save_checkpoint(str(folder), tag=ENGINE_STATE, save_latest=False)

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote, with the same ZeRO stage; at another world size from its universal form.

        Raises:
            RuntimeError: DeepSpeed found nothing to load.
        """
        chosen = [{key: group[key] for key in group if key != "params"} for group in self._optimizer.param_groups]
        loaded, _ = self._engine.load_checkpoint(str(folder), tag=ENGINE_STATE, load_lr_scheduler_states=False)
        if loaded is None:
            raise RuntimeError(f"DeepSpeed found nothing to load in {folder}")
        if self._universal:
            # stage 3 gives every group the first one's settings, and with them its weight decay, and all parameters
            # one and the same step counter, which AdamW would then advance once for each
            for group, settings in zip(self._optimizer.param_groups, chosen, strict=True):
                group.update(settings)
            for state in self._optimizer.optimizer.state.values():
                state["step"] = state["step"].clone()

    def close(self) -> None:
        """Let go of the model, so that another engine may take its place."""
        self._engine.destroy()

    @property
    def network(self) -> torch.nn.Module:
        """The model to call for measurements; gathers its parameters as it goes where ZeRO-3 has scattered them."""
        return self._engine

    @property
    def updates(self) -> int:
        """Optimizer updates applied so far, as the engine counts them; a checkpoint restores it."""
        return int(self._engine.global_steps - self._engine.skipped_steps)

    @property
    def versions(self) -> dict[str, str]:
        """Versions worth writing down with a run."""
        return {"deepspeed": deepspeed.__version__, "torch": torch.__version__}


def stop_process_group(rank: Rank) -> None:
    """Leave together; keeps one rank's early exit from looking like a failure to the others."""
    rank.barrier()
    deepspeed.comm.destroy_process_group()
