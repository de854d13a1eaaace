"""Bytes, launches, operations and memory of a training step, by place, and the time that these suggest on named GPUs.

python benchmarks/step_cost.py [--bases 65536] [--window 8192] [--precision bf16] [--gpus h100] [--checkpointing]
    [--layer-block 65536] [--inference] [--operations 20]

The step of the default (172M) model runs on fake tensors, which have shapes and no values, so no GPU is needed. A
dispatch mode sees every operation of torch; every launch of a Triton kernel is recorded instead of run. An operation
counts each tensor that it reads or writes once, and belongs to the place in `model/` that called it; an operation of
the backward pass belongs to the place of the forward operation it differentiates.
"""

import argparse
import contextlib
import importlib
import sys
import weakref
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.gpu.roofline import HOPPER, Cost, StepCost
from dnachunker.model import attention, kernels, linear
from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.model.cost import flops_per_base
from dnachunker.model.modeling_dnachunker import DNAChunkerForMaskedLM
from dnachunker.pretrain.planning.hardware import HARDWARE, Hardware

PRECISIONS = ("bf16", "bf16-autocast")
GPUS = ("a100", "h100", "h200", "4090")
WINDOW = 8192
CHUNKS = (0.51, 0.31)  # a base, of each stage, in a healthy training run
LABELLED = 0.16
FREE = (
    "detach",
    "empty",
    "empty_like",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
    "alias",
    "_unsafe_view",
    "lift_fresh",
)
LISTS = ("_foreach_copy_",)  # of tensors to write, then of tensors to read
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "addmm_", "baddbmm_")
# On CUDA, torch copies the term that these add, unless they work in place or the term is a bias of one dimension.
COPYING = ("addmm", "baddbmm")
GATHERS = ("index", "index_select", "embedding", "gather")
# Of tensors that a kernel reads and writes: the share to add to one reading of the whole. `turn` reads and writes 2/3,
# queries and keys.
IN_PLACE = {"carry": {"ends": 1.0}, "smooth_carry": {"ends": 1.0}, "turn": {"qkv": 1 / 3}}
# Places by file of model/. `matrix products` and `norms, GELU, sums` are told apart by the operation.
PLACES = {
    "kernels_triton_scan": "scan",
    "kernels_triton_conv": "convolution",
    "kernels_triton_smooth": "smoothing",
    "kernels_triton_routing": "routers and chunks",
    "routing": "routers and chunks",
    "packing": "routers and chunks",
    "chunking": "smoothing",
    "hierarchy": "routers and chunks",
    "losses": "head and loss",
    "modeling_dnachunker": "head and loss",
}
ROTATING = ("rotate", "rotary_angles", "placed")
# Clocks of a warp a position and 32 channels (in the scan: of one direction), counted in the loops of the code for
# sm_90. They are instructions. But emit, reach_back and conv_forward wait for exponentials, logarithms and reciprocals,
# which take eight clocks each.
INSTRUCTIONS = {"reach": 130, "emit": 152, "reach_back": 144, "retreat": 428, "conv_forward": 32, "conv_backward": 54}
# These leave out the positions from the start of a span to the end of a sequence in it: half a span, on average.
SHORTENED = ("reach", "reach_back")


def size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


class Meter(TorchDispatchMode):
    """Counts what torch dispatches and what our kernels launch, and follows the memory that tensors hold."""

    def __init__(self, sequences: int, longest: int) -> None:
        """`sequences` of the batch, and the number of positions that attention sees in each."""
        super().__init__()
        self.sequences, self.longest = sequences, longest
        self.found: dict[tuple[str, str], Cost] = defaultdict(Cost)
        self.default = "other"  # where no frame of model/ is on the stack and no forward operation is known
        self.live = self.peak = 0
        self._sizes: dict[int, int] = {}
        self._places: dict[int, str] = {}  # of autograd nodes, by sequence number

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        result = function(*arguments, **(options or {}))
        returned = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        for tensor in returned:
            self._hold(tensor)
        name = function.name().partition("::")[2].partition(".")[0]
        place = self.place()
        written = returned
        if name in LISTS:  # it returns nothing
            written = list(arguments[0])
            arguments = arguments[1:]
        if function.is_view or not written or name in FREE:
            return result
        others = {key: value for key, value in (options or {}).items() if key != "out"}  # that is written
        read = [x for x in tree_leaves((arguments, others)) if isinstance(x, Tensor)]
        self._add(place, name, self._cost(name, read, written))
        return result

    def launch(self, name: str, arguments: dict[str, Any]) -> None:
        tensors = {key: x for key, x in arguments.items() if isinstance(x, Tensor)}
        different = {id(tensor): tensor for tensor in tensors.values()}.values()
        moved = sum(map(size, different)) + sum(
            share * size(tensors[key]) for key, share in IN_PLACE.get(name, {}).items()
        )
        read = tensors.get("raw", tensors.get("x"))  # (2, T, D), of both directions, or (T, D)
        instructions = INSTRUCTIONS[name] * read.numel() / 32 if name in INSTRUCTIONS and read is not None else 0.0
        if name in SHORTENED and read is not None:
            instructions *= max(0.0, 1 - self.sequences * arguments["SPAN"] / (2 * read.shape[-2]))
        self._add(self.place(), name, Cost(launches=1, bytes=moved, instructions=instructions))

    def _add(self, place: str, name: str, cost: Cost) -> None:
        if name.lstrip("_") in PRODUCTS and place in ("norms, GELU, sums", "other"):
            place = "matrix products"
        self.found[place, name] += cost

    def _cost(self, name: str, read: list[Tensor], written: list[Tensor]) -> Cost:
        moved = sum(map(size, (*read, *written)))
        if name in GATHERS:  # reads only what it writes
            moved = 2 * sum(map(size, written))
        cost = Cost(launches=1, bytes=moved)
        if name in PRODUCTS:
            left, right = read[-2:]
            flops = 2.0 * left.numel() * right.shape[-1]
            cost.half, cost.full = (flops, 0.0) if left.dtype == torch.bfloat16 else (0.0, flops)
        if name in COPYING and read[0].shape == written[0].shape:
            cost.launches, cost.bytes = 2, cost.bytes + 2 * size(written[0])
        if "varlen_attn" in name:
            forward = 4.0 * read[0].numel() * self.longest  # every query meets the keys of its sequence
            if "backward" in name:
                cost.attention_backward = 2.5 * forward
            else:
                cost.attention = forward
        return cost

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._sizes:
            return
        self._sizes[key] = storage.nbytes()
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)

        def gone() -> None:
            self.live -= self._sizes.pop(key, 0)

        weakref.finalize(storage, gone)

    def place(self) -> str:
        """The place of the operation that runs now."""
        node = torch._C._current_autograd_node()
        if node is not None:
            return self._places.get(node._sequence_nr(), self.default)
        place = self._on_stack()
        self._places.setdefault(torch.autograd._get_sequence_nr() - 1, place)  # of the newest node; it may be older
        return place

    def _on_stack(self) -> str:
        frame: Any = sys._getframe(2)
        inner = ""
        while frame is not None:
            path = Path(frame.f_code.co_filename)
            if path.parent.name == "model" and path.stem != "kernels":
                inner = inner or frame.f_code.co_name
                if path.stem in PLACES:
                    return PLACES[path.stem]
                if inner in ROTATING or frame.f_code.co_name in ROTATING:
                    return "RoPE"
                if path.stem == "attention" and frame.f_code.co_name == "packed_attention":
                    return "attention"
                if path.stem in ("attention", "mixers", "bimamba", "kernels_triton_norm"):
                    return "norms, GELU, sums"
            frame = frame.f_back
        return self.default


class Recorder:
    """Stands in for a kernel: `kernel[grid](...)` counts the launch."""

    def __init__(self, kernel: Any, meter: "SimpleNamespace") -> None:
        self._names, self._kernel, self._meter = list(kernel.arg_names), kernel, meter

    def __getitem__(self, grid: Any) -> Any:
        def launch(*arguments: Any, **options: Any) -> None:
            if self._meter.now is not None:
                name = self._kernel.fn.__name__
                self._meter.now.launch(name, dict(zip(self._names, arguments, strict=False)) | options)

        return launch


@contextlib.contextmanager
def faked() -> Iterator[SimpleNamespace]:
    """Fake tensors of the CPU, on which the model takes the paths of CUDA. `.now` of the result counts launches.

    Fake tensors of CUDA would not do: a build of torch without CUDA differentiates none.
    """
    slot = SimpleNamespace(now=None)
    with contextlib.ExitStack() as stack:
        shared = importlib.import_module(f"{kernels.__package__}.kernels_triton")
        routing = importlib.import_module(f"{kernels.__package__}.kernels_triton_routing")
        for path in sorted(Path(kernels.__file__).parent.glob("kernels_triton_*.py")):
            module = importlib.import_module(f"{kernels.__package__}.{path.stem}")
            for name, kernel in list(vars(module).items()):
                if isinstance(kernel, shared.Launched):
                    stack.enter_context(mock.patch.object(module, name, Recorder(kernel.jit, slot)))
        for owner, name, value in (
            (kernels, "triton_works", lambda device: True),
            (attention, "attention_backend", lambda *_: "torch_varlen"),
            (linear, "takes_onednn", lambda *_: False),
            (linear, "is_ordinary", lambda _: True),
            (routing, "product_in_float32", lambda a, b: torch.mm(a, b, out_dtype=torch.float32)),
            # on CUDA, RMSNorm is one kernel as LayerNorm is
            (F, "rms_norm", lambda x, shape, weight=None, eps=None: F.layer_norm(x, shape, weight, None, eps or 1e-5)),
            (torch.cuda, "device_of", lambda tensor: contextlib.nullcontext()),
        ):
            stack.enter_context(mock.patch.object(owner, name, value))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield slot


def optimizer_cost(parameters: int, value_bytes: int) -> Cost:
    """Clipping and fused AdamW: the norm reads the gradients and scales them; AdamW reads them, weights and both
    moments, and writes all but the gradients. Each is a few launches over lists of tensors.
    """
    return Cost(launches=30, bytes=(1 + 2 + 7) * value_bytes * parameters)


def step_cost(
    bases: int = 65_536, precision: str = "bf16", *, window: int = WINDOW, checkpointing: bool = False,
    inference: bool = False, **changes: Any,
) -> StepCost:  # fmt: skip
    """Count one step of the 172M model: forward, backward, clipping and AdamW.

    Args:
        bases: a multiple of `window`, the length of each sequence.
        precision: `bf16`, weights too; or `bf16-autocast`, with float32 weights.
        checkpointing: each layer is computed again in the backward pass.
        inference: the forward pass alone, without gradients.
        changes: of the configuration.
    """
    config = DNAChunkerConfig(
        **{"chunk_capacity": CHUNKS, "label_capacity": LABELLED, "scan_backend": "triton", **changes}
    )
    half = precision == "bf16"
    meter = Meter(bases // window, round(window * CHUNKS[-1]))
    with faked() as slot:
        usual = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16 if half else torch.float32)
        model = DNAChunkerForMaskedLM(config)
        torch.set_default_dtype(usual)
        if checkpointing:
            model.train().gradient_checkpointing_enable()
        ids = torch.zeros(bases // window, window, dtype=torch.int64)
        given: dict[str, Any] = {"input_ids": ids, "chunk_capacity": CHUNKS}
        if not inference:
            given |= {"labels": ids, "loss_weights": torch.ones(ids.shape), "loss_normalizer": 1e4}
        slot.now = meter
        with meter, torch.set_grad_enabled(not inference):
            with torch.autocast("cpu", torch.bfloat16, enabled=not half):
                output = model(**given)
            kept = meter.live
            if not inference:
                output.loss.backward()
        count = sum(parameter.numel() for parameter in model.parameters())
    operations = dict(meter.found)
    if not inference:
        operations["optimizer", "AdamW"] = optimizer_cost(count, 2 if half else 4)
    places: dict[str, Cost] = defaultdict(Cost)
    for (place, _), cost in operations.items():
        places[place] += cost
    flops = flops_per_base(config, window, CHUNKS)
    return StepCost(dict(places), operations, kept, meter.peak, (flops.forward if inference else flops.total) * bases)


def table(found: StepCost, gpus: Sequence[Hardware]) -> list[str]:
    """Markdown: a row for each place, the most bytes first, and the whole step; for Hopper GPUs also with
    FlashAttention-3.
    """
    rows = [["place", "launches", "GB", "TFLOP bf16", "TFLOP fp32", *(f"ms, {gpu.name}" for gpu in gpus)]]
    rows.append(["---", *["---:"] * (len(rows[0]) - 1)])
    by_bytes = sorted(found.places.items(), key=lambda item: -item[1].bytes)
    for place, cost in [*by_bytes, ("whole step", found.total)]:
        times = [found.seconds(gpu, None if place == "whole step" else place) for gpu in gpus]
        flops = [
            f"{x / 1e12:.2f}" if x else "" for x in (cost.half + cost.attention + cost.attention_backward, cost.full)
        ]
        cells = [f"{cost.launches:,}", f"{cost.bytes / 1e9:.1f}", *flops, *(f"{1e3 * time:.1f}" for time in times)]
        rows.append([place, *cells])
    with_3 = [f"{1e3 * found.seconds(gpu, flash_attention_3=True):.1f}" if gpu.name in HOPPER else "" for gpu in gpus]
    if any(with_3):
        rows.append(["with FlashAttention-3", *[""] * 4, *with_3])
    return [f"| {' | '.join(row)} |" for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--bases", type=int, default=65_536, help="of a step")
    parser.add_argument("--window", type=int, default=WINDOW, help="bases of a window")
    parser.add_argument("--checkpointing", action="store_true", help="compute layers again in the backward pass")
    parser.add_argument("--layer-block", type=int, default=DNAChunkerConfig.layer_block, help="of the configuration")
    parser.add_argument("--precision", nargs="+", default=PRECISIONS, choices=PRECISIONS)
    parser.add_argument("--gpus", nargs="+", default=GPUS, choices=sorted(HARDWARE))
    parser.add_argument("--inference", action="store_true", help="the forward pass alone")
    parser.add_argument("--operations", type=int, default=0, metavar="N", help="also the N operations of most bytes")
    arguments = parser.parse_args()
    if arguments.window < 1 or arguments.bases < arguments.window or arguments.bases % arguments.window:
        parser.error(f"--bases {arguments.bases}: give a multiple of --window {arguments.window}")
    gpus = [HARDWARE[name] for name in arguments.gpus]
    for precision in arguments.precision:
        found = step_cost(
            arguments.bases, precision, window=arguments.window, checkpointing=arguments.checkpointing,
            inference=arguments.inference, layer_block=arguments.layer_block,
        )  # fmt: skip
        print(f"## {precision}, {arguments.bases:,} bases\n")
        print("\n".join(table(found, gpus)))
        print(f"\nMemory beside the weights: {found.kept / 2**30:.1f} GiB after the forward pass, at most ", end="")
        print(f"{found.peak / 2**30:.1f} GiB.")
        for gpu in gpus:
            speed = arguments.bases / found.seconds(gpu)
            print(f"- {gpu.name}: {speed / 1e6:.2f} Mbp/s, {found.utilisation(gpu):.1%} of the matrix rate")
        largest = sorted(found.operations.items(), key=lambda item: -item[1].bytes)[: arguments.operations]
        for (place, name), cost in largest:
            print(f"- {place}, {name}: {cost.launches:,} launches, {cost.bytes / 1e9:.2f} GB")
        print()


if __name__ == "__main__":
    main()
