"""Run as a script: rank_server.py with null GPUs, for training ranks that compute on the host."""

import contextlib
import importlib
from collections.abc import Iterator

import torch
from on_host import OnHost
from rank_server import serve_all


@contextlib.contextmanager
def null_gpus() -> Iterator[None]:
    """A rank's CUDA operations run on the CPU."""
    from dnachunker.pretrain import run

    # printing a tensor and fused attention reach kernels below the mode; and 8,192 rows take a CPU too long
    torch.Tensor.__repr__ = lambda self, **_: f"tensor{tuple(self.shape)}"  # type: ignore[method-assign, assignment]
    for fused in ("flash", "mem_efficient", "cudnn"):
        getattr(torch.backends.cuda, f"enable_{fused}_sdp")(False)
    run.matrix_rate = lambda device, dtype: 1e12
    with OnHost():
        yield


if __name__ == "__main__":
    # torch refuses CUDA in the child of a process that has used it, and this import looks at the GPUs
    look, torch.cuda.is_available = torch.cuda.is_available, lambda: False
    importlib.import_module("torch._inductor.compile_fx")
    torch.cuda.is_available = look
    serve_all("cuda", null_gpus)
