"""The argv and the environment of other processes, checked as data."""

import base64
import json

from dnachunker.cluster.argv import launcher_argv, worker_environment
from dnachunker.cluster.backends.local import EXIT_FOLDER_VARIABLE, visible_gpus
from dnachunker.cluster.topology import Placement
from dnachunker.pretrain import worker


def test_the_launcher_argv_names_every_rank_and_listens_on_loopback() -> None:
    worker = ["dnachunker", "pretrain", "--config", "a b; rm -rf.yaml"]
    argv = launcher_argv(worker, ["2", "5", "GPU-8f3a"], Placement(1, 0, 3, port=29501))
    ranks = base64.urlsafe_b64encode(json.dumps({"node-0": ["2", "5", "GPU-8f3a"]}).encode()).decode()
    assert argv == [
        "-m", "dnachunker.cluster.deepspeed_launcher", "--log_level=critical", f"--world_info={ranks}", "--node_rank=0",
        "--master_addr=127.0.0.1", "--master_port=29501", "--no_local_rank", "--module",
        "dnachunker", "pretrain", "--config", "a b; rm -rf.yaml",
    ]  # fmt: skip


def test_cores_are_divided_among_the_ranks_unless_the_user_decided() -> None:
    always = {"OMP_WAIT_POLICY": "passive"}
    on_cpu = worker_environment({}, 2, cores=16, gpus=0)
    assert on_cpu == {"OMP_NUM_THREADS": "8", "DS_ACCELERATOR": "cpu", **always}
    assert worker_environment({}, 8, cores=2, gpus=8) == {"OMP_NUM_THREADS": "1", **always}
    chosen = {"OMP_NUM_THREADS": "3", "DS_ACCELERATOR": "xpu", "OMP_WAIT_POLICY": "active"}
    assert worker_environment(chosen, 2, cores=16, gpus=0) == chosen


def test_visible_gpus_honours_cuda_visible_devices() -> None:
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "0,3"}) == ["0", "3"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "0,3", "DS_ACCELERATOR": "cpu"}) == []
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == []
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "-1"}) == []


def test_supervisor_and_ranks_use_the_same_variable_for_the_exit_folder() -> None:
    assert worker.EXIT_FOLDER_VARIABLE == EXIT_FOLDER_VARIABLE
