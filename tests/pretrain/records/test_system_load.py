"""Load by machine: rank 0 learns of all machines and of the slowest rank from the rows of a step."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from dnachunker.pretrain.engine.ranks import Rank
from dnachunker.pretrain.records.system_load import SystemLoad, gpu_load


class OneOfFour(Rank):
    """Ranks 0 and 1 are on one machine, 2 and 3 on another."""

    def gather(self, value: Any) -> list[Any]:
        return ["large", "large", "small", "small"]


def test_each_machine_is_sampled_and_a_slow_rank_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    loads = [SystemLoad(OneOfFour(r, 4, r % 2, torch.device("cpu")), interval=0.1) for r in range(4)]
    deadline = time.monotonic() + 20
    rows: list[list[float]] = []
    while not rows or min(rows[0][5], rows[2][5]) < 0:  # until the first rank of each machine has a sample
        assert time.monotonic() < deadline
        for rank, load in enumerate(loads):
            with load.forward():
                time.sleep(0.06 if rank == 3 else 0.02)
        rows = [load.row(data_wait=0.5 if rank == 1 else 0.0) for rank, load in enumerate(loads)]
        assert loads[1].hear(rows, last=False) is None  # rank 0 alone tells
        event = loads[0].hear(rows, last=False)
        if event is None:
            event = loads[0].hear(rows, last=True)
    for load in loads:
        load.close()
    assert event is not None
    assert list(event) == ["node0", "node1", "slowest_rank", "slowest_node", "slowest_over_median"]
    assert (event["slowest_rank"], event["slowest_node"]) == (3, "node1")
    assert event["slowest_over_median"] > 1.5
    assert event["node0"]["data_wait_seconds"] == 0.5
    assert event["node1"]["data_wait_seconds"] == 0.0
    assert event["node1"]["forward_seconds"] >= 0.06 > event["node0"]["forward_seconds"]
    for node in (event["node0"], event["node1"]):
        assert 0 <= node["cpu_percent"] <= 100
        assert 0 < node["memory_percent"] < 100
        assert node["network_mb_per_second"] >= 0
        assert "gpu_percent" not in node
        # two ranks, which are this process here
        assert node["ranks_memory_gb"] == pytest.approx(2 * rows[0][2], rel=0.05)
        assert node["ranks_peak_memory_gb"] >= node["ranks_memory_gb"] * 0.99


def test_samples_have_their_distance_and_the_last_step_always_has_one() -> None:
    load = SystemLoad(Rank(0, 1, 1, torch.device("cpu")), interval=1000.0)
    assert load.hear([load.row(0.0)], last=False) is None
    assert load.hear([load.row(0.0)], last=True) is not None


def test_gpus_are_asked_for_by_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "nvidia-smi"
    fake.write_text('#!/bin/sh\necho "$@" > "$(dirname "$0")/asked"\nprintf "90, 1000, 8000\\n50, 3000, 8000\\n"\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert gpu_load() == {"gpu_percent": 70.0, "gpu_memory_percent": 25.0}
    assert "--id=2,3" in (tmp_path / "asked").read_text()
    fake.write_text("#!/bin/sh\necho 'No devices were found'\nexit 6\n")
    assert gpu_load() == {}
