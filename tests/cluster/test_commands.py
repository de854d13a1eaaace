"""What would run, as plain data."""

import base64
import json

from cluster.commands import launcher_command, worker_environment
from cluster.local import visible_gpus


def test_the_launcher_command_names_every_rank_and_listens_on_loopback() -> None:
    worker = ["dnachunker", "pretrain", "--config", "a b; rm -rf.yaml"]
    command = launcher_command(worker, 3, port=29501)
    ranks = base64.urlsafe_b64encode(json.dumps({"localhost": [0, 1, 2]}).encode()).decode()
    assert command == [
        "-m", "deepspeed.launcher.launch", "--log_level=critical", f"--world_info={ranks}", "--node_rank=0",
        "--master_addr=127.0.0.1", "--master_port=29501", "--no_local_rank", "--module",
        "dnachunker", "pretrain", "--config", "a b; rm -rf.yaml",
    ]  # fmt: skip


def test_cores_are_shared_out_unless_the_user_decided() -> None:
    assert worker_environment({}, 2, cores=16, gpus=0) == {"OMP_NUM_THREADS": "8", "DS_ACCELERATOR": "cpu"}
    assert worker_environment({}, 8, cores=2, gpus=8) == {"OMP_NUM_THREADS": "1"}
    chosen = {"OMP_NUM_THREADS": "3", "DS_ACCELERATOR": "xpu"}
    assert worker_environment(chosen, 2, cores=16, gpus=0) == chosen


def test_visible_gpus_honours_cuda_visible_devices() -> None:
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "0,3"}) == 2
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == 0
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "-1"}) == 0
