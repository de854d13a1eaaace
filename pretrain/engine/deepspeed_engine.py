"""The only module that trains with DeepSpeed: start the process group, take a step, give and take the sharded state."""

import contextlib
import datetime
import importlib
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import deepspeed
import torch
from deepspeed.utils import logger as deepspeed_logger
from deepspeed.utils import safe_get_full_fp32_param, set_z3_leaf_modules

from dnachunker.model.attention import TrunkLayer
from dnachunker.model.bimamba import BiMambaLayer
from dnachunker.pretrain.config import EngineSettings

from .deepspeed_config import deepspeed_config
from .optimizer import LR_FACTOR
from .optimizer_parts import Part, make_moments, parts_of, take_over_weights
from .ranks import Rank, context_group
from .weight_average import AVERAGE, WeightAverage
from .whole_windows import WholeWindows

# Fills a vector with the values of a parameter from a position on: the parameter's name, the kind ("weight", "average"
# or one of `optimizer_parts.MOMENTS`), the position in the flattened parameter, and the vector.
Fill = Callable[[str, str, int, torch.Tensor], None]


def start_process_group(rank: Rank) -> None:
    """Join the other ranks: NCCL on GPUs, gloo on CPUs.

    The rank's GPU becomes the current one first: object collectives put their bytes on the current GPU, and NCCL fails
    if the process group is bound to another GPU.
    """
    backend = "nccl" if rank.device.type == "cuda" else "gloo"
    if backend == "nccl":
        torch.cuda.set_device(rank.device)
    deepspeed_logger.setLevel(logging.ERROR)
    # they are about calls inside DeepSpeed, which a user cannot change
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    # DeepSpeed looks in this table for one op only, that of its inference all-reduce, which every CPU start would
    # compile: 30-50 s, a compiler needed, and a race between hosts that share the cache. DeepSpeed fills a table that
    # nobody has set: it probes every op, and prints a line for each that needs the CUDA toolkit.
    deepspeed.ops.__compatible_ops__ = {}
    timeout = datetime.timedelta(minutes=30)
    if backend == "nccl":
        # DeepSpeed would bind no GPU to the group of a single rank; then torch guesses one, and warns twice
        torch.distributed.init_process_group(backend, timeout=timeout, device_id=rank.device)
    deepspeed.init_distributed(dist_backend=backend, timeout=timeout, verbose=False)


def _import_muon() -> None:
    """Import DeepSpeed's Muon without compiling it.

    ZeRO imports it to ask whether our optimizer is one. Its functions, which nobody calls here, are compiled as they
    are defined, and for that torch loads its compiler, which takes a second.
    """
    kept, torch.compile = torch.compile, lambda function: function  # type: ignore[assignment]
    try:
        importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    finally:
        torch.compile = kept


class TrainingEngine:
    """A model and its optimizer under ZeRO. Collective: every rank calls the same methods in the same order."""

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        settings: EngineSettings,
        rank: Rank,
        *,
        global_batch: int,
        accumulation: int,
        clip_grad_norm: float,
        average: float | None = None,
    ) -> None:
        """
        Args:
            global_batch: windows of an optimizer step, over all ranks.
            accumulation: forward passes of one rank in one optimizer step.
            average: keep a running average of the weights over this share of the updates; see weight_average.py.

        Raises:
            BadInput: engine.deepspeed holds a key or value that DeepSpeed does not take.
        """
        self._rank = rank
        self._zero_stage = settings.zero_stage
        self._accumulation = accumulation
        for group in optimizer.param_groups:
            group["lr"] = 0.0  # `step` sets it; until then no step may change a weight
        # ZeRO-3 gathers the parameters of such a layer at its start and keeps them to its end. Part by part, all ranks
        # would have to use them equally often; but how many blocks of time a layer has depends on a rank's chunks. And
        # layers cast their weights together.
        set_z3_leaf_modules(model, [BiMambaLayer, TrunkLayer], raise_if_not_found=False)
        made = deepspeed_config(
            settings,
            global_batch=global_batch * rank.context_size,  # DeepSpeed takes every rank for a data rank
            accumulation=accumulation,
            world_size=rank.world_size,
            clip_grad_norm=clip_grad_norm,
        )
        _import_muon()
        self._engine, self._optimizer, _, _ = deepspeed.initialize(model=model, optimizer=optimizer, config=made)
        shared = context_group(rank)
        self._network = self._engine if shared is None else WholeWindows(self._engine, shared)
        if not settings.zero_stage:
            # In bf16 DeepSpeed has made an empty step here to allocate the states. AdamW would count it, and make the
            # first updates too small.
            getattr(self._optimizer, "optimizer", self._optimizer).state.clear()
        self._average: WeightAverage | None = None
        if average:
            self._average = WeightAverage(self._parts(), average)

    def forward(self, **inputs: Any) -> Any:
        """The model's output on this rank's windows, or its stretches of them; for training."""
        return self._engine(**inputs)

    def train(self, mode: bool = True) -> None:
        """Switch between training and evaluation mode."""
        self._engine.train(mode)

    def backward(self, loss: torch.Tensor) -> None:
        """Accumulate gradients of a loss that is this rank's share of a sum over ranks and micro-batches."""
        # DeepSpeed averages over ranks and micro-batches; the loss is already normalised over the global batch
        self._engine.backward(loss * (self._rank.world_size * self._accumulation))
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()

    def step(self, learning_rate: float) -> float:
        """Clip, update and clear the gradients; call once after the last micro-batch of a step.

        A group's rate is `learning_rate` times its factor. If gradients are not finite, every rank drops them and
        `updates` stays as it was.

        Returns:
            The gradients' 2-norm over all ranks before clipping.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate * group.get(LR_FACTOR, 1.0)
        before = self.updates
        norm = self._apply()
        if self._average and self.updates > before:
            self._average.update(self.updates)
        return norm

    def _apply(self) -> float:
        if self._zero_stage:  # ZeRO itself checks the gradients and skips the update
            self._engine.step()
            # after an overflow the reported norm is missing, or that of the step before
            skipped = bool(getattr(self._optimizer, "overflow", False))
            return float("nan") if skipped else float(self._engine.get_global_grad_norm())
        # at ZeRO stage 0 DeepSpeed reports no norm and applies any gradients, but every rank holds all of them
        norm = self._whole_gradient_norm()
        if math.isfinite(norm):
            self._engine.step()
        else:
            self._skip_update()
        return norm

    def _skip_update(self) -> None:
        """Do at ZeRO stage 0 what DeepSpeed does at the others when gradients are not finite."""
        self._optimizer.zero_grad()
        self._engine.zero_grad()
        self._engine.micro_steps += 1
        self._engine.global_steps += 1
        self._engine.global_samples += self._engine.train_batch_size()
        self._engine.skipped_steps += 1

    def _whole_gradient_norm(self) -> float:
        gradients = [parameter.grad for parameter in self._engine.module.parameters() if parameter.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients)) if gradients else float("nan")

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """On rank 0 names and float32 values of all weights, one by one. Collective; the other ranks get none.

        The tensors may be the engine's own, which the next step changes.
        """
        if self._zero_stage == 0:
            if self._rank.is_main:
                for part, (name, parameter) in zip(self._parts(), self._engine.module.named_parameters(), strict=True):
                    yield name, part.weight.view_as(parameter)
            return
        for name, parameter in self._engine.module.named_parameters():
            sharded = self._zero_stage == 3 or parameter.dtype != torch.float32
            whole = safe_get_full_fp32_param(parameter) if sharded else parameter
            if self._rank.is_main:
                yield name, whole.detach()

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Lend the model the average of its weights, if the engine keeps one; no step may be taken then. Collective.

        After an exception the model keeps the average: one rank alone must not begin a collective.
        """
        if self._average is None or self._average.lent:
            yield
            return
        self._average.exchange()
        self._take_over_weights()
        yield
        self._average.exchange()
        self._take_over_weights()

    def moments(self) -> dict[str, torch.Tensor]:
        """This rank's share of Adam's moments and of the average: float32 vectors by KIND/START/PARAMETER.

        KIND is one of `optimizer_parts.MOMENTS` or `average`, and START the position of the vector in the flattened
        parameter. The tensors are the engine's own, which the next step changes.
        """
        parts = self._parts()
        if not self._zero_stage:  # every rank holds everything
            parts = parts[self._rank.rank :: self._rank.world_size]
        return {
            f"{kind}/{part.start}/{part.parameter}": moment for part in parts for kind, moment in part.moments.items()
        }

    def load(self, fill: Fill, *, steps_done: int, updates: int) -> None:
        """Take weights and moments that were saved at any ZeRO stage, precision and number of ranks; collective.

        Args:
            fill: called for every part that this rank holds.
            steps_done, updates: of the optimizer when they were saved; at the other steps gradients were not finite.
        """
        make_moments(self._optimizer, self._zero_stage, updates)
        for part in self._parts():
            fill(part.parameter, "weight", part.start, part.weight)
            for kind, moment in part.moments.items():
                fill(part.parameter, kind, part.start, moment)
        self._take_over_weights()
        self._engine.global_steps, self._engine.skipped_steps = steps_done, steps_done - updates
        self._engine.global_samples = steps_done * self._engine.train_batch_size()

    def _take_over_weights(self) -> None:
        if self._zero_stage == 3:  # DeepSpeed keeps small parameters whole on every rank
            self._optimizer.checkpoint_event_prologue()
        take_over_weights(self._optimizer, self._zero_stage)
        if self._zero_stage == 3:
            self._optimizer.checkpoint_event_epilogue()

    def _parts(self) -> list[Part]:
        parts = parts_of(self._optimizer, self._engine.module, self._zero_stage, self._rank.rank)
        if self._average:
            for part, value in zip(parts, self._average.values, strict=True):
                part.moments[AVERAGE] = value
        return parts

    def close(self) -> None:
        """Free the model, so that another engine can be made."""
        self._engine.destroy()

    @property
    def network(self) -> torch.nn.Module:
        """The model to call for measurements, with whole windows; collective at ZeRO stage 3 and in a context group."""
        return self._network

    @property
    def updates(self) -> int:
        """Optimizer updates applied so far, as the engine counts them; a checkpoint restores it."""
        return int(self._engine.global_steps - self._engine.skipped_steps)

    @property
    def versions(self) -> dict[str, str]:
        """Versions to record with a run."""
        return {"deepspeed": deepspeed.__version__, "torch": torch.__version__}


def stop_process_group(rank: Rank) -> None:
    """Leave the process group together, so that no rank's exit looks like a failure to the others."""
    rank.barrier()
    deepspeed.comm.destroy_process_group()
