"""What `kernel_check.py` compares: each kernel and plain torch on the same small ragged batch."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import SimpleNamespace

import torch
from torch import Tensor
from torch.nn import functional as F

from dnachunker.model import kernels, kernels_reference
from dnachunker.model.attention import packed_attention, rotary_angles, rotate
from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.model.packing import Packing
from dnachunker.model.routing import Segmentation

LENGTHS = (300, 1, 0, 33, 64)  # many blocks of time, a single position, nothing
LONGEST_INTERPRETED = 12  # Triton's interpreter takes a tenth of a second for a position
EPS, THETA = 1e-5, 1e4  # of norms and of rotary positions
MOST_CHANNELS, MOST_CHANNELS_CPU, MOST_HEADS = 256, 32, 2  # the check of a CPU takes less than a second

Compared = list[tuple[Tensor, Tensor]]  # the kernel's tensor and plain torch's: the result, then each gradient
Case = tuple[str, Callable[[], Compared]]
Function = Callable[..., Tensor]


def scan_cases(
    backend: str,
    network: DNAChunkerConfig,
    dtype: torch.dtype,
    device: torch.device,
    weights: torch.dtype,
    lengths: Sequence[int] | None = None,
) -> Iterator[Case]:
    """The kernels that `scan_backend` chooses, by name; each comparison runs when it is called.

    Args:
        network: gives the channels (at most 256, on a CPU 32), the states and the width of the convolution.
        dtype: of the results of matrix products.
        weights: of parameters and of the residual stream. A is float32.
        lengths: of the packed sequences; default: LENGTHS.
    """
    packing = _packing(device, lengths or LENGTHS)
    most = MOST_CHANNELS_CPU if device.type == "cpu" else MOST_CHANNELS
    channels, states = min(network.inner_width, most), network.state_size
    draw = _Draw(device)
    weight, bias = draw(2, channels, network.conv_width, dtype=weights), draw(2, channels, dtype=weights)
    A = -torch.arange(1.0, states + 1, device=device).repeat(2, channels, 1)
    x = draw(packing.total, channels, dtype=dtype)
    rows = draw(2, packing.total, 2 * states, dtype=torch.float32 if backend == "triton" else dtype)  # as layers do
    u, raw = (draw(2, packing.total, channels, dtype=dtype) for _ in range(2))
    gate = draw(packing.total).sigmoid()
    heads, width = min(network.num_heads, MOST_HEADS), network.width // network.num_heads
    query, key = (torch.eye(channels, device=device) + 0.1 * draw(channels, channels) for _ in range(2))
    make = _triton_cases if backend == "triton" else _one_way_cases
    inputs = {
        "scan": [u, raw, rows, x, A, draw(2, channels, dtype=weights), bias - 4],
        "convolution": [x, weight, bias],
        "smoothing": [x.to(weights), gate, u[0].to(weights)],
        "router": [x.to(weights), query.to(weights), key.to(weights)],
        "norm": [u[0].to(weights), u[1], weight[0, :, 0] + 1],
        "rotary": [draw(packing.total, 3 * heads * width, dtype=dtype)],
    }
    for name, (ours, theirs) in make(backend, packing, states, dtype, heads).items():
        yield name, partial(_with_gradients, ours, theirs, inputs[name])
    if backend == "triton":
        masks = draw(packing.total) > 1
        yield "chunking", partial(_cut, packing, _gates(packing, gate)[0], masks)


def attention_cases(
    backend: str, network: DNAChunkerConfig, dtype: torch.dtype, device: torch.device
) -> Iterator[Case]:
    """The attention of the trunk, as `scan_cases`; its inputs are results of matrix products."""
    packing, draw = _packing(device, LENGTHS), _Draw(device)
    heads, width = min(network.num_heads, MOST_HEADS), network.width // network.num_heads
    inputs = [draw(packing.total, heads, width, dtype=dtype) for _ in range(3)]

    def run(name: str) -> Function:
        return lambda q, k, v: packed_attention(q, k, v, packing, name, causal=network.causal)

    yield "attention", partial(_with_gradients, run(backend), run("sdpa"), inputs)


class _Draw:
    """Normal random tensors, the same on every device; the global random state stays as it is."""

    def __init__(self, device: torch.device) -> None:
        self._generator, self._device = torch.Generator().manual_seed(0), device

    def __call__(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(shape, generator=self._generator).to(self._device, dtype)


def _packing(device: torch.device, lengths: Sequence[int]) -> Packing:
    if kernels.triton_is_interpreted():
        lengths = [min(length, LONGEST_INTERPRETED) for length in lengths]
    borders = torch.tensor([0, *lengths], device=device).cumsum(0).int()
    return Packing(borders, sum(lengths), max(lengths))


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference relative to the largest value; NaN if either holds one."""
    return float((ours.double() - theirs.double()).abs().max() / theirs.double().abs().max().clamp_min(1e-9))


def _with_gradients(ours: Function, theirs: Function, inputs: list[Tensor]) -> Compared:
    """Run both, `theirs` in float64, and take gradients for an uneven gradient of the result."""
    found: list[list[Tensor]] = []
    for function, double in ((ours, False), (theirs, True)):
        leaves = [(x.double() if double else x).detach().clone().requires_grad_() for x in inputs]
        y = function(*leaves)
        y.backward(torch.linspace(-1, 1, y.numel(), device=y.device).view(y.shape).to(y.dtype))
        gradients = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
        found.append([y.detach(), *gradients])
    return list(zip(*found, strict=True))


def _plain(packing: Packing, states: int, heads: int) -> dict[str, Function]:
    borders = packing.cu_seqlens

    def scan(u: Tensor, raw: Tensor, rows: Tensor, z: Tensor, A: Tensor, skip: Tensor, bias: Tensor) -> Tensor:
        B, C = rows.split(states, dim=-1)
        delta = F.softplus(raw + bias.unsqueeze(1))
        run = kernels_reference.selective_scan
        both = [run(u[way], delta[way], A[way], B[way], C[way], skip[way], borders, way == 1) for way in (0, 1)]
        return (both[0] + both[1]) * F.silu(z)

    def convolution(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        run = kernels_reference.conv_silu
        return torch.stack([run(x, weight[way], bias[way], borders, way == 1) for way in (0, 1)])

    def smoothing(x: Tensor, gate: Tensor, residual: Tensor) -> Tensor:
        gates = _gates(packing, gate)
        forward, backward = (kernels_reference.smooth(x, gates[way], borders, way == 1) for way in (0, 1))
        return kernels.add_shown((forward + backward) / 2, residual, _hidden(packing))

    def router(x: Tensor, query: Tensor, key: Tensor) -> Tensor:
        change = (1 - F.cosine_similarity((x @ query.t())[1:], (x @ key.t())[:-1], dim=-1)) / 2
        return torch.where(packing.first, 1.0, F.pad(change, (1, 0)))

    def norm(x: Tensor, branch: Tensor, scale: Tensor) -> Tensor:
        total = x + branch
        layer, root = F.layer_norm(total, scale.shape, scale, None, EPS), F.rms_norm(total, scale.shape, scale, EPS)
        return torch.stack((total, layer, root))

    def rotary(qkv: Tensor) -> Tensor:
        q, k, v = qkv.unflatten(-1, (3, heads, -1)).unbind(1)
        angles = rotary_angles(packing.offset, q.shape[-1], THETA)
        return torch.stack((rotate(q, *angles), rotate(k, *angles), v))

    return {
        "scan": scan, "convolution": convolution, "smoothing": smoothing, "router": router, "norm": norm,
        "rotary": rotary,
    }  # fmt: skip


def _triton_cases(
    backend: str, packing: Packing, states: int, dtype: torch.dtype, heads: int
) -> dict[str, tuple[Function, Function]]:
    plain = _plain(packing, states, heads)
    parts = 2 if kernels.triton_is_interpreted() else 8  # of a program; training has 8 where there are many positions

    def fused() -> SimpleNamespace:  # when a kernel runs, since its file may fail as it is imported
        return kernels.fused_kernels()

    def scan(u: Tensor, raw: Tensor, rows: Tensor, z: Tensor, A: Tensor, skip: Tensor, bias: Tensor) -> Tensor:
        B, C = rows.split(states, dim=-1)
        y: Tensor = fused().gated_scan(u, raw, B, C, z, fused().scan_rows(A, skip, bias), packing.steps)
        return y

    def norm(x: Tensor, branch: Tensor, scale: Tensor) -> Tensor:
        total, layer = fused().sum_and_norm(x, branch, scale, EPS, centred=True, dtype=dtype)
        total, root = fused().sum_and_norm(total, None, scale, EPS, centred=False, dtype=dtype)
        return torch.stack((total, layer.to(total.dtype), root.to(total.dtype)))

    def rotary(qkv: Tensor) -> Tensor:
        angles = rotary_angles(packing.offset, qkv.shape[-1] // 3 // heads, THETA)
        return torch.stack(fused().rotated(qkv * 1, *angles, heads))  # it overwrites what it reads

    def convolution(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        rows = fused().conv_rows(weight, bias)
        return torch.stack([fused().conv_silu_both_ways(x, rows, packing.steps, parts=count) for count in (1, parts)])

    ours: dict[str, Function] = {
        "scan": scan,
        "convolution": convolution,
        "smoothing": lambda x, gate, residual: fused().smooth_both_ways(
            x, _gates(packing, gate), residual, _hidden(packing)
        ),
        "router": lambda x, query, key: fused().boundary_probability(
            x, query, key, packing.steps, half=dtype == torch.bfloat16
        ),
        "norm": norm,
        "rotary": rotary,
    }
    theirs = plain | {"convolution": lambda *given: plain["convolution"](*given).expand(2, -1, -1, -1)}
    return {name: (ours[name], theirs[name]) for name in ours}


def _one_way_cases(
    backend: str, packing: Packing, states: int, dtype: torch.dtype, heads: int
) -> dict[str, tuple[Function, Function]]:
    """Backends that run one direction at a time; their routers, norms and rotary positions are plain torch."""
    plain, borders = _plain(packing, states, heads), packing.cu_seqlens

    def scan(u: Tensor, raw: Tensor, rows: Tensor, z: Tensor, A: Tensor, skip: Tensor, bias: Tensor) -> Tensor:
        B, C = rows.split(states, dim=-1)
        delta = F.softplus((raw + bias.unsqueeze(1)).float())
        both = [
            kernels.selective_scan(
                u[way], delta[way], A[way], B[way], C[way], skip[way], borders, reverse=way == 1, backend=backend
            )
            for way in (0, 1)
        ]
        return (both[0] + both[1]) * F.silu(z)

    def convolution(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        run = kernels.conv_silu
        both = [run(x, weight[way], bias[way], borders, reverse=way == 1, backend=backend) for way in (0, 1)]
        return torch.stack(both)

    def smoothing(x: Tensor, gate: Tensor, residual: Tensor) -> Tensor:
        gates, hidden = _gates(packing, gate), _hidden(packing)
        return kernels.smooth_both_ways(x, gates, borders, residual, hidden, backend=backend)

    ours: dict[str, Function] = {"scan": scan, "convolution": convolution, "smoothing": smoothing}
    return {name: (ours[name], plain[name]) for name in ours}


def _gates(packing: Packing, gate: Tensor) -> Tensor:
    """(2, T): the gates of both directions, closed at the ends of each sequence."""
    gate = torch.where(packing.first, 1.0, gate)
    return torch.stack((gate, packing.shift(gate, 1.0, back=True)))


def _hidden(packing: Packing) -> Tensor:
    """(T,) bool: positions where the smoothing adds no residual."""
    return packing.offset % 3 == 1


def _cut(packing: Packing, probability: Tensor, masks: Tensor) -> Compared:
    """The chunks that the kernels make of the same probabilities, counted and with a fixed capacity."""
    natural, forced = probability >= 0.5, masks | packing.shift(masks, False)
    compared = []
    for capacity in (None, packing.total):
        plain = Segmentation(packing, probability, natural, forced, masks, capacity)
        found = kernels.fused_kernels().cut_chunks(probability, None, masks, packing, protect=True, capacity=capacity)
        compared += [(ours, getattr(plain, name)) for name, ours in found.items()]
    return compared
