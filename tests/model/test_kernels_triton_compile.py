"""Every Triton kernel compiles to Hopper machine code, which needs no GPU, and keeps its values in registers."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

# The sizes of a CUDA run of the default model. The other tests use the interpreter, which never calls the compiler.
COMPILE = """
    import sys

    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from dnachunker.model import (
        kernels_triton_conv,
        kernels_triton_routing,
        kernels_triton_scan,
        kernels_triton_scan_backward,
        kernels_triton_smooth,
    )
    from dnachunker.model.kernels_triton_scan import Tiling

    INTEGERS = {"T", "D", "row", "z_row", "x_row", "spans", "capacity", "sequences"}
    FLAGS = {"given", "holds_mask", "natural", "forced", "boundary", "chunk_holds_mask"}
    HALF = {"u", "raw", "B", "C", "z", "x", "out", "grad", "du", "draw", "dz", "dx", "values"}

    def kind(name):
        if name in ("step", "borders", "counts"):
            return "*i32"
        if name in FLAGS:
            return "*u8"
        if name in ("counted", "chunk", "starts"):
            return "*i64"
        return "i32" if name in INTEGERS else "fp32" if name == "scale" else "*bf16" if name in HALF else "*fp32"

    def compile(kernel, warps, **constants):
        signature = {name: "constexpr" if name in constants else kind(name) for name in kernel.arg_names}
        aligned = [(i,) for i, name in enumerate(kernel.arg_names) if signature[name].startswith("*") or name == "D"]
        fixed = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
        attributes = {place: [["tt.divisibility", 16]] for place in aligned}
        source = ASTSource(kernel, signature, fixed, attributes)
        compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})
        spills = compiled.asm["ptx"].count(".local ")
        print(kernel.__name__, len(compiled.asm["cubin"]), spills)
        assert not spills, kernel.__name__

    t = Tiling()
    scan = {"N": 16, "SPAN": t.span, "WIDTH": t.width}
    smooth = {"SPAN": 16, "WIDTH": 64}
    compile(kernels_triton_scan.reach, t.warps, **scan)
    compile(kernels_triton_scan.emit, t.warps, **scan)
    compile(kernels_triton_scan_backward.reach_back, t.warps, **scan)
    compile(kernels_triton_scan_backward.retreat, t.warps, TILE=t.tile, **scan)
    for back in (False, True):
        compile(kernels_triton_scan.carry, 1, AHEAD=t.ahead, BACK=back, **scan)
        compile(kernels_triton_smooth.smooth_reach, 1, BACK=back, **smooth)
        compile(kernels_triton_smooth.smooth_carry, 1, WIDTH=64, AHEAD=16, BACK=back)
    compile(kernels_triton_smooth.smooth_emit, 1, **smooth)
    compile(kernels_triton_smooth.smooth_retreat, 1, **smooth)
    for kernel in (kernels_triton_conv.conv_forward, kernels_triton_conv.conv_backward):
        compile(kernel, 4, TAPS=4, ROWS=16, WIDTH=128)
    for kernel in (kernels_triton_routing.boundary_forward, kernels_triton_routing.boundary_backward):
        compile(kernel, 4, ROWS=16, WIDTH=128)
    for given, protect in ((False, False), (False, True), (True, False), (True, True)):
        compile(kernels_triton_routing.cut_mark, 4, GIVEN=given, PROTECT=protect, BLOCK=1024)
    compile(kernels_triton_routing.cut_place, 4, BLOCK=1024)
"""


@pytest.mark.slow
def test_kernels_compile_for_a_gpu(tmp_path: Path) -> None:
    pytest.importorskip("triton", reason="triton is not installed: pip install triton")
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])
    command = [sys.executable, "-c", textwrap.dedent(COMPILE)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
