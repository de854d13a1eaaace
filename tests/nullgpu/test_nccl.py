"""The NCCL of null GPUs moves and reduces what torch.distributed does over gloo, and refuses what NCCL cannot do."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.nullgpu
SCRIPT = Path(__file__).with_name("nccl_ranks.py")


def run_ranks(variables: dict[str, str], count: int, what: str) -> list[tuple[int, str]]:
    """Exit code and output of each rank."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = []
    for rank in range(count):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = os.environ | variables | {key: str(value) for key, value in place.items()}
        command = [sys.executable, str(SCRIPT), what]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        ranks.append(subprocess.Popen(command, env=environment, text=True, **pipes))  # type: ignore[call-overload]
    try:
        printed = [rank.communicate(timeout=240)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    return [(rank.returncode, text) for rank, text in zip(ranks, printed, strict=True)]


def left_behind() -> list[Path]:
    return list(Path("/dev/shm").glob("nullgpu-*"))


@pytest.mark.parametrize("count", [2, 4])
def test_collectives_give_what_gloo_gives(null_gpus: dict[str, str], count: int) -> None:
    for code, printed in run_ranks(null_gpus, count, "agree"):
        assert code == 0, printed
        assert "agreed" in printed
    assert not left_behind()


def test_ranks_that_call_different_collectives_are_refused(null_gpus: dict[str, str]) -> None:
    for code, printed in run_ranks(null_gpus, 2, "differ"):
        assert code != 0
        assert "calls all-reduce of" in printed


def test_two_ranks_on_one_gpu_are_refused(null_gpus: dict[str, str]) -> None:
    for code, printed in run_ranks(null_gpus, 2, "duplicate"):
        assert code != 0
        assert "ranks 0 and 1 are both on CUDA device 0" in printed
