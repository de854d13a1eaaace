"""Builds the stand-in CUDA runtime for the installed torch: one library to preload, and one named as the driver.

cudart and NCCL are written by hand, in runtime/. The rest is generated: every symbol that torch asks of cuBLAS, of the
driver and of the remaining NCCL does nothing where it only prepares, and says so and fails where it would compute.
"""

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

SOURCES = Path(__file__).with_name("runtime")
RUNTIME, DRIVER = "libnullgpu.so", "libcuda.so.1"
_PREPARES = re.compile(r"cublas(Lt)?(Create|Destroy|Set|Get|\w*(Create|Destroy|Init|SetAttribute|GetAttribute)$)")
_NOT_SUPPORTED = {"cublas": 15, "nccl": 5, "cu": 801}  # CUBLAS_STATUS_NOT_SUPPORTED, ncclInvalidUsage, CUDA_ERROR_...

# What must be answered: by the name of the symbol, the whole function.
_ANSWERS = {
    "cublasCreate_v2": "int cublasCreate_v2(void **h) { *h = malloc(64); return 0; }",
    "cublasLtCreate": "int cublasLtCreate(void **h) { *h = malloc(64); return 0; }",
    "cublasLtGetVersion": "size_t cublasLtGetVersion(void) { return 130100; }",
    "cublasGetMathMode": "int cublasGetMathMode(void *h, int *mode) { *mode = 0; return 0; }",
    "cublasGetPointerMode_v2": "int cublasGetPointerMode_v2(void *h, int *mode) { *mode = 0; return 0; }",
    "cuCtxGetCurrent": "int cuCtxGetCurrent(void **c) { static char context[64]; *c = context; return 0; }",
    "cuCtxSetCurrent": "int cuCtxSetCurrent(void *c) { return 0; }",
    "cuInit": "int cuInit(unsigned flags) { return 0; }",
    "cuDeviceGet": "int cuDeviceGet(int *device, int number) { *device = number; return 0; }",
    "cuDevicePrimaryCtxGetState": "int cuDevicePrimaryCtxGetState(int d, unsigned *flags, int *active) "
    "{ if (flags) *flags = 0; if (active) *active = 1; return 0; }",
    "cuDevicePrimaryCtxRetain": "int cuDevicePrimaryCtxRetain(void **c, int d) { return cuCtxGetCurrent(c); }",
    "cuGetErrorString": 'int cuGetErrorString(int e, const char **s) { *s = "refused by the null GPU"; return 0; }',
}


def lacking() -> str:
    """Why the runtime cannot be built here; empty if it can."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return "torch is not installed"
    if not Path(found.origin).with_name("lib").joinpath("libtorch_cuda.so").exists():
        return "the installed torch is not a CUDA wheel: run `make nullgpu`"
    tools = [tool for tool in ("gcc", "nm") if shutil.which(tool) is None]
    return f"{' and '.join(tools)} not found" if tools else ""


def build(folder: Path) -> dict[str, str]:
    """Compile into `folder`; returns the variables under which a process has null GPUs.

    Raises:
        RuntimeError: the compiler's complaint.
    """
    torch = _torch()
    written = [path for name in ("cudart", "nccl", "communicators", "meeting", "reduce")
               if (path := SOURCES / f"{name}.c")]  # fmt: skip
    asked = _asked(torch / "lib" / "libtorch_cuda.so")
    by_hand = set(re.findall(r"\b(nccl\w+)\(", "".join(path.read_text() for path in written)))
    rest = folder / "generated.c"
    rest.write_text(_stubs(name for name in asked if re.match("cublas|p?nccl", name) and name not in by_hand))
    driver = folder / "driver.c"
    in_nvrtc = _asked(torch / "lib" / "libcaffe2_nvrtc.so")
    driver.write_text(_stubs({name for name in in_nvrtc if re.match("cu[A-Z]", name)} | set(_driver_answers())))
    # torch's wheels lack crt/, which says how functions are declared: triton has it, and any release of CUDA will do.
    # They also lack what the headers of half precision include, and nothing here needs those.
    for name in ("cuda_fp16.h", "cuda_bf16.h", "cuda_fp8.h"):
        (folder / name).write_text("")
    found = [(torch.parent / "nvidia").rglob("cuda_runtime_api.h"), (torch.parent / "nvidia").rglob("nccl.h"),
             (torch.parent / "triton").rglob("cuda_runtime_api.h")]  # fmt: skip
    headers = [f"-I{folder}", *(f"-I{path.parent}" for paths in found for path in paths)]
    _compile(folder / RUNTIME, [*written, rest], [*headers, "-ldl", "-lrt", "-lpthread", "-lm"])
    _compile(folder / DRIVER, [driver], [f"-Wl,-soname,{DRIVER}"])
    return {"LD_PRELOAD": str(folder / RUNTIME), "LD_LIBRARY_PATH": str(folder)}


def _torch() -> Path:
    found = importlib.util.find_spec("torch")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent


def _asked(library: Path) -> set[str]:
    listed = subprocess.run(["nm", "-D", "--undefined-only", str(library)], capture_output=True, text=True, check=True)
    return {line.split()[-1].partition("@")[0] for line in listed.stdout.splitlines()}


def _driver_answers() -> list[str]:
    return [name for name in _ANSWERS if re.match("cu[A-Z]", name)]


def _stubs(names: "set[str] | object") -> str:
    lines = ["#include <stdio.h>", "#include <stdlib.h>"]
    known = sorted(names, key=lambda name: (name != "cuCtxGetCurrent", name))  # type: ignore[call-overload]
    for name in known:
        if name in _ANSWERS:
            lines.append(_ANSWERS[name])
        elif _PREPARES.match(name):
            lines.append(f"int {name}(void) {{ return 0; }}")
        else:
            code = next(code for prefix, code in _NOT_SUPPORTED.items() if name.lstrip("p").startswith(prefix))
            say = f'fprintf(stderr, "null GPU: {name} is called: nothing here can compute it\\n")'
            lines.append(f"int {name}(void) {{ {say}; return {code}; }}")
    return "\n".join(lines) + "\n"


def _compile(library: Path, sources: list[Path], options: list[str]) -> None:
    command = ["gcc", "-shared", "-fPIC", "-O2", "-w", "-o", str(library), *map(str, sources), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
