"""Triton's kernels, run by Triton's interpreter, equal the plain-torch reference: results and every gradient.

`tests/conftest.py` switches the interpreter on before anything can import triton. It is slow: shapes are as small as
they can be and still have several programs along every axis, borders inside and across them, and half-filled tiles.
"""

import importlib.util
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed: pip install triton", allow_module_level=True)

from dnachunker.model import kernels_reference
from dnachunker.model.attention import rotary_angles, rotate
from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.model.hierarchy import Stack
from dnachunker.model.kernels import add_shown, scan_backend, smooth
from dnachunker.model.kernels_triton_conv import conv_silu_both_ways
from dnachunker.model.kernels_triton_norm import sum_and_norm
from dnachunker.model.kernels_triton_parameters import conv_rows, parameter_rows, scan_rows
from dnachunker.model.kernels_triton_rotary import rotated
from dnachunker.model.kernels_triton_routing import boundary_probability, cut_chunks
from dnachunker.model.kernels_triton_scan import Tiling, gated_scan, gated_scan_of_block
from dnachunker.model.kernels_triton_smooth import smooth_both_ways
from dnachunker.model.modeling_causal import DNAChunkerForCausalLM
from dnachunker.model.modeling_dnachunker import DNAChunkerForMaskedLM
from dnachunker.model.packing import Packing
from dnachunker.model.routing import Router


class Given(nn.Module):
    """Stands in for a router's probabilities: returns the given ones."""

    def __init__(self, probability: Tensor) -> None:
        super().__init__()
        self.values = probability

    def forward(self, x: Tensor, packing: Packing) -> Tensor:
        return self.values


TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}


def packed(lengths: list[int]) -> Packing:
    return Packing(torch.tensor([0, *lengths]).cumsum(0).int(), sum(lengths))


def compare(
    ours: Callable[..., Tensor], theirs: Callable[..., Tensor], inputs: list[Tensor], tolerance: float | None = None
) -> None:
    """Results and gradients agree, relative to the largest value of each, for an uneven gradient of the result."""
    found = []
    for function in (ours, theirs):
        leaves = [x.detach().clone().requires_grad_() for x in inputs]
        y = function(*leaves)
        y.backward(torch.linspace(-1, 1, y.numel()).view(y.shape).to(y.dtype))
        found.append([y.detach(), *(leaf.grad for leaf in leaves)])
    tolerance = tolerance or TOLERANCE[inputs[0].dtype]
    for index, (a, b) in enumerate(zip(*found, strict=True)):
        assert a is not None
        assert a.shape == b.shape
        scale = max(1.0, float(b.float().abs().max()))
        assert float((a.float() - b.float()).abs().max()) <= tolerance * scale, f"tensor {index}"


def compare_scans(
    lengths: list[int], channels: int, states: int, tiling: Tiling, dtype: torch.dtype, of_rows: torch.dtype,
    tolerance: float | None = None,
) -> None:  # fmt: skip
    torch.manual_seed(0)
    packing = packed(lengths)
    total, wide = packing.total, 2 * states + 3  # B and C are slices of what one projection made
    exact = [-torch.rand(2, channels, states) * states, torch.randn(2, channels), torch.randn(2, channels)]
    inputs = [torch.randn(2, total, channels), torch.randn(2, total, channels) - 1, torch.randn(2, total, wide)]
    inputs = [x.to(dtype) for x in (*inputs, torch.randn(total, channels))] + exact
    inputs[2] = inputs[2].to(of_rows)

    def ours(u: Tensor, raw: Tensor, rows: Tensor, z: Tensor, A: Tensor, skip: Tensor, bias: Tensor) -> Tensor:
        _, B, C = rows.split((3, states, states), dim=-1)
        return gated_scan(u, raw, B, C, z, scan_rows(A, skip, bias), packing.steps, tiling)

    def theirs(u: Tensor, raw: Tensor, rows: Tensor, z: Tensor, A: Tensor, skip: Tensor, bias: Tensor) -> Tensor:
        _, B, C = rows.float().split((3, states, states), dim=-1)
        delta = F.softplus(raw.float() + bias.unsqueeze(1))
        directions = [(u[w].float(), delta[w], A[w], B[w], C[w], skip[w], packing.cu_seqlens, w == 1) for w in (0, 1)]
        y = torch.stack([kernels_reference.selective_scan(*direction) for direction in directions]).sum(0)
        return y * F.silu(z.float())

    compare(ours, theirs, inputs, tolerance)


@pytest.mark.parametrize(
    ("lengths", "channels", "states", "tiling", "dtype", "of_rows"),
    [
        ([5, 1, 0, 9], 6, 4, Tiling(span=8, keep=4, width=2, ahead=2), torch.float32, torch.float32),
        ([14], 5, 3, Tiling(span=4, keep=4, width=8, ahead=4), torch.float32, torch.float32),  # one state is padding
        ([2, 6], 4, 4, Tiling(span=4, keep=2, width=4, ahead=2), torch.bfloat16, torch.bfloat16),
        ([2, 7], 18, 8, Tiling(span=8, keep=4, width=16, ahead=2), torch.float32, torch.float32),
        ([2, 6], 18, 4, Tiling(span=4, keep=2, width=16, ahead=2), torch.bfloat16, torch.bfloat16),
        ([2, 6], 18, 4, Tiling(span=4, keep=2, width=16, ahead=2), torch.bfloat16, torch.float32),  # as layers do
    ],
)
def test_scan_of_both_directions(
    lengths: list[int], channels: int, states: int, tiling: Tiling, dtype: torch.dtype, of_rows: torch.dtype
) -> None:
    # in bf16 the gradient of z is rounded three times: with the output of each direction, and at the end. It errs by up
    # to 1.2 % of the largest among 18 channels
    wide = dtype == torch.bfloat16 and channels == 18
    compare_scans(lengths, channels, states, tiling, dtype, of_rows, 2 * TOLERANCE[dtype] if wide else None)


@pytest.mark.parametrize(
    "lengths",
    [
        [4, 1, 3, 2, 2, 3, 2, 4, 1, 3, 2, 3, 4, 1, 4, 1],  # from each of a span's four positions to each of them
        [0, 8, 0, 2],
        [3, 9, 0],
        [5],
        [3],
        [1],
    ],
    ids=str,
)
def test_scan_of_sequences_that_end_anywhere_in_spans(lengths: list[int]) -> None:
    compare_scans(lengths, 3, 2, Tiling(span=4, keep=2, width=4, ahead=2), torch.float32, torch.float32)


def test_scan_of_two_blocks_that_hand_on_their_states() -> None:
    torch.manual_seed(0)
    packing, channels, states = packed([3, 0, 20, 2]), 5, 3  # a sequence goes on from one block to the next
    tiling = Tiling(span=4, keep=2, width=4, ahead=2)
    shapes = [(2, packing.total, channels)] * 2 + [(2, packing.total, states)] * 2 + [(packing.total, channels)]
    inputs = [torch.randn(shape) for shape in shapes]
    inputs += [-torch.rand(2, channels, states) / 4, torch.randn(2, channels), torch.randn(2, channels) - 2]

    def blockwise(*given: Tensor) -> Tensor:
        def block(at: slice, forward: Tensor, backward: Tensor) -> tuple[Tensor, Tensor]:
            ours = [x[..., at, :] for x in given[:5]]
            entering = torch.stack((forward, backward))
            return gated_scan_of_block(*ours, scan_rows(*given[5:]), packing.steps[:, at], entering, tiling)

        first, second, nothing = slice(0, 14), slice(14, None), torch.zeros(states, channels)
        _, after = block(second, nothing, nothing)
        y, before = block(first, nothing, after[1])
        return torch.cat((y, block(second, before[0], nothing)[0]))

    compare(blockwise, lambda *given: gated_scan(*given[:5], scan_rows(*given[5:]), packing.steps, tiling), inputs)


def test_a_nan_does_not_vanish_in_the_scan() -> None:
    torch.manual_seed(0)
    packing = packed([3])
    shapes = [(2, 3, 2), (2, 3, 2), (2, 3, 2), (2, 3, 2), (3, 2), (2, 2, 2), (2, 2), (2, 2)]
    for which in range(len(shapes)):
        inputs = [torch.rand(shape) for shape in shapes]
        inputs[5] = -inputs[5]
        inputs[which].view(-1)[1] = torch.nan
        tiling = Tiling(span=4, keep=2, width=2, ahead=2)
        assert gated_scan(*inputs[:5], scan_rows(*inputs[5:]), packing.steps, tiling).isnan().any(), which


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_convolution_of_both_directions(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    packing, channels = packed([5, 1, 0, 2, 25]), 6  # the third program of five sees no border
    inputs = [torch.randn(packing.total, 2 * channels).to(dtype), torch.randn(2, channels, 4), torch.randn(2, channels)]

    def ours(wide: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return conv_silu_both_ways(wide[:, channels:], conv_rows(weight, bias), packing.steps, span=4, parts=2, width=4)

    def theirs(wide: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        x, borders = wide[:, channels:].float(), packing.cu_seqlens
        return torch.stack([kernels_reference.conv_silu(x, weight[w], bias[w], borders, w == 1) for w in (0, 1)])

    compare(ours, theirs, inputs)


@pytest.mark.parametrize("view", [lambda x: x.view(6, 1).t(), lambda x: x.expand(5, 6)], ids=["turned", "repeated"])
def test_convolution_of_rows_that_share_memory(view: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    weight, bias, row = torch.randn(2, 6, 4), torch.randn(2, 6), torch.randn(6)
    packing = packed([len(view(row))])

    def ours(row: Tensor) -> Tensor:
        return conv_silu_both_ways(view(row), conv_rows(weight, bias), packing.steps, span=4, parts=2, width=4)

    def theirs(row: Tensor) -> Tensor:
        run = kernels_reference.conv_silu
        return torch.stack([run(view(row), weight[w], bias[w], packing.cu_seqlens, w == 1) for w in (0, 1)])

    compare(ours, theirs, [row])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_parameters_of_a_layer_are_laid_out_at_once(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    channels, states = 6, 4
    shapes = (channels, 4), (channels,), (channels, states), (channels,), (channels,)
    inputs = [torch.randn(shape).to(dtype) for shape in shapes for _ in range(2)]

    def ours(*given: Tensor) -> Tensor:
        return torch.cat(parameter_rows(*zip(given[::2], given[1::2], strict=True)))

    def theirs(*given: Tensor) -> Tensor:
        weight, bias, A_log, skip, dt_bias = (torch.stack(pair) for pair in zip(given[::2], given[1::2], strict=True))
        return torch.cat((conv_rows(weight, bias), scan_rows(-A_log.float().exp(), skip, dt_bias)))

    compare(ours, theirs, inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("added", ["nothing", "residual", "gated residual"])
def test_smoothing_from_both_sides(added: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    packing = packed([5, 1, 0, 2, 9])
    inputs = [torch.randn(packing.total, 6).to(dtype), torch.rand(packing.total)]
    inputs += [] if added == "nothing" else [torch.randn(packing.total, 6).to(dtype)]
    hidden = torch.rand(packing.total) < 0.5 if added == "gated residual" else None

    def gates(gate: Tensor) -> Tensor:
        gate = torch.where(packing.first, 1.0, gate)
        return torch.stack((gate, packing.shift(gate, 1.0, back=True)))

    def ours(z: Tensor, gate: Tensor, residual: Tensor | None = None) -> Tensor:
        return smooth_both_ways(z, gates(gate), residual, hidden, span=4, width=4, ahead=2)

    def theirs(z: Tensor, gate: Tensor, residual: Tensor | None = None) -> Tensor:
        both = [kernels_reference.smooth(z.float(), gates(gate)[w], packing.cu_seqlens, w == 1) for w in (0, 1)]
        return add_shown((both[0] + both[1]) / 2, residual, hidden)

    compare(ours, theirs, inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_queries_and_keys_turned_by_their_positions(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    heads, width = 3, 6  # three pairs a head, in tiles of four
    cos, sin = rotary_angles(torch.arange(0, 5000, 1000), width, 1e4)
    inputs = [torch.randn(5, 3 * heads * width).to(dtype)]

    def ours(qkv: Tensor) -> Tensor:
        return torch.stack(rotated(qkv * 1, cos, sin, heads, count=4))  # a linear layer's output is no leaf

    def theirs(qkv: Tensor) -> Tensor:
        q, k, v = qkv.unflatten(-1, (3, heads, -1)).unbind(1)
        return torch.stack((rotate(q, cos, sin), rotate(k, cos, sin), v))

    compare(ours, theirs, inputs)


@pytest.mark.parametrize("centred", [False, True], ids=["RMSNorm", "LayerNorm"])
@pytest.mark.parametrize(
    "dtypes", [(torch.float32,) * 2, (torch.bfloat16,) * 2, (torch.float32, torch.bfloat16)], ids=str
)
def test_norms_with_the_residual_sum_before_them(dtypes: tuple[torch.dtype, torch.dtype], *, centred: bool) -> None:
    torch.manual_seed(0)
    stream, narrow = dtypes  # under autocast, branches and norms are narrower than the stream
    inputs = [torch.randn(7, 6, dtype=stream) + 1, torch.randn(7, 6).to(narrow), torch.rand(6).to(stream)]

    def ours(x: Tensor, branch: Tensor, weight: Tensor) -> Tensor:
        total, first = sum_and_norm(x, None, weight, 1e-5, centred=centred, dtype=narrow, rows=2, tiles=2)
        total, second = sum_and_norm(total, branch, weight, 1e-5, centred=centred, dtype=narrow, rows=2, tiles=2)
        assert first.dtype == second.dtype == narrow
        assert total.dtype == stream
        return torch.stack((total, first, second))

    def theirs(x: Tensor, branch: Tensor, weight: Tensor) -> Tensor:
        def norm(x: Tensor) -> Tensor:
            scale = weight.float()
            return F.layer_norm(x, (6,), scale, None, 1e-5) if centred else F.rms_norm(x, (6,), scale, 1e-5)

        total = x.float() + branch.float()
        return torch.stack((total, norm(x.float()), norm(total))).to(stream)

    compare(ours, theirs, inputs, 2 * TOLERANCE[narrow])  # gradients of x are rounded twice, once by each norm


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bf16 products"])
def test_boundary_probabilities(half: bool) -> None:
    torch.manual_seed(0)
    packing = packed([5, 1, 0, 2, 9])
    inputs = [torch.randn(packing.total, 6), torch.eye(6) + 0.1 * torch.randn(6, 6), torch.eye(6)]
    inputs[0][3] = inputs[0][2] @ inputs[1].inverse().t() * -2  # p = 1, where it is clamped

    def ours(x: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return boundary_probability(x, query, key, packing.steps, half=half, rows=4, width=4)

    def theirs(x: Tensor, query: Tensor, key: Tensor) -> Tensor:
        change = (1 - F.cosine_similarity((x @ query.t())[1:], (x @ key.t())[:-1], dim=-1)) / 2
        return torch.where(packing.first, 1.0, F.pad(change.clamp(0, 1), (1, 0)))

    compare(ours, theirs, inputs, TOLERANCE[torch.bfloat16] if half else None)
    with torch.no_grad():
        assert float((ours(*inputs) - theirs(*inputs)).abs().max()) <= 3e-5, "a result of bf16 products, too"


@pytest.mark.parametrize("supplied", [False, True], ids=["router", "supplied"])
@pytest.mark.parametrize("protect", [False, True], ids=["unprotected", "protected"])
@pytest.mark.parametrize("capacity", [None, 30, 9], ids=["counted", "filler", "overflow"])
def test_chunks_are_those_of_plain_torch(capacity: int | None, protect: bool, supplied: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    packing = packed([5, 1, 0, 2, 9])
    if capacity is not None:
        packing = Packing.filled_up(packing.cu_seqlens, 23, 9)
    probability = torch.where(packing.first, 1.0, torch.rand(packing.total, generator=generator))
    probability[3] = 0.5
    holds_mask, given = (torch.rand(packing.total, generator=generator) < 0.3 for _ in range(2))
    holds_mask[[4, 16]] = True  # the last of their sequences
    router = Router(DNAChunkerConfig(width=8, num_heads=2, mask_protection=protect, scan_backend="reference"), 0)
    router.probability = Given(probability)
    natural = given if supplied else None
    cut = router(torch.zeros(packing.total, 8), packing, holds_mask, natural, capacity)
    found = cut_chunks(probability, natural, holds_mask, packing, protect=protect, capacity=capacity, block=4)
    assert sorted(found) == ["boundary", "chunk", "chunk_holds_mask", "counted", "forced", "natural", "starts"]
    for name, ours in found.items():
        assert ours.dtype == getattr(cut, name).dtype, name
        assert ours.equal(getattr(cut, name)), name
    assert bool(cut.overflowed) == (capacity == 9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_smoothing_read_forward(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    packing = packed([5, 1, 0, 2, 9])
    inputs = [torch.randn(packing.total, 6).to(dtype), torch.rand(packing.total)]

    def ours(z: Tensor, gate: Tensor) -> Tensor:
        return smooth(z, torch.where(packing.first, 1.0, gate), packing.cu_seqlens, backend="triton")

    def theirs(z: Tensor, gate: Tensor) -> Tensor:
        return kernels_reference.smooth(z.float(), torch.where(packing.first, 1.0, gate), packing.cu_seqlens, False)

    compare(ours, theirs, inputs)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
def test_layers_train_under_autocast_as_on_the_reference(*, checkpointing: bool) -> None:
    """The norm of the second layer adds the branch of the first, unless layers are checkpointed."""
    packing, found = packed([5, 0, 4]), []
    for backend in ("triton", "reference"):
        torch.manual_seed(0)
        layers = Stack(DNAChunkerConfig(width=8, num_heads=2, state_size=4, expand=1, scan_backend=backend), 2)
        for parameter in layers.parameters():
            nn.init.normal_(parameter, std=0.3)
        for layer in layers.layers:
            layer.gradient_checkpointing = checkpointing
            layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
        x = torch.randn(packing.total, 8, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16):
            y = layers(x, packing)
        assert y.dtype == torch.float32
        y.backward(torch.linspace(-1, 1, y.numel()).view(y.shape))
        found.append([y.detach(), x.grad, *(parameter.grad for parameter in layers.parameters())])
    errors = [float((ours - theirs).norm() / theirs.norm()) for ours, theirs in zip(*found, strict=True)]
    assert max(errors) <= 0.1, errors  # the two round in different places


@pytest.mark.parametrize(
    ("head", "block"),
    [
        (DNAChunkerForMaskedLM, 0),
        pytest.param(DNAChunkerForMaskedLM, 9, marks=pytest.mark.slow),
        (DNAChunkerForCausalLM, 0),
    ],
)
def test_the_network_trains_on_triton_as_on_the_reference(head: type[DNAChunkerForMaskedLM], block: int) -> None:
    sizes = {"width": 16, "encoder_layers": (2,), "decoder_layers": (1,), "trunk_layers": 1, "num_heads": 2}
    ids = torch.randint(7, 11, (2, 12), generator=torch.Generator().manual_seed(0))
    ids[:, ::4], ids[1, 9:] = 3, 4
    labels = torch.where(ids == 3, 8, -100)
    found = []
    for backend in ("triton", "reference"):
        torch.manual_seed(0)
        sizes |= {"target_ratios": (0.33,), "state_size": 4, "expand": 1, "causal": head is DNAChunkerForCausalLM}
        block_here = block if backend == "triton" else 0
        model = head(DNAChunkerConfig(**sizes, scan_backend=backend, layer_block=block_here))
        loss = model(ids, labels=labels).loss
        loss.backward()
        found.append([loss.detach(), *(parameter.grad for parameter in model.parameters())])
    for ours, theirs in zip(*found, strict=True):
        assert float((ours - theirs).abs().max()) <= 1e-5 * max(1.0, float(theirs.abs().max()))


def test_triton_is_chosen_on_cuda_and_by_name_alone_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert scan_backend("auto", "cuda", torch.bfloat16) == "triton"
    assert scan_backend("auto", "cpu", torch.float32) == "cpu"
    assert scan_backend("triton", "cpu", torch.float32) == "triton"  # interpreted
    assert scan_backend("triton", "cuda", torch.float64) == "reference"
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(ValueError, match="auto"):
        scan_backend("triton", "cpu", torch.float32)
