"""Load of every machine of a run, and how each rank's time passes, so that a slow machine can be seen.

Each rank adds a row of its own numbers to the sums that the ranks add up in every step (`StepSums.over_all`). So rank 0
learns of all machines without files, without a server, and without a collective of its own. A thread of the first rank
of each machine samples what is slow to ask for.
"""

import os
import platform
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import fmean, median_low
from typing import Any

import psutil
import torch

from dnachunker.pretrain.engine.ranks import Rank

_OF_RANK = ("data_wait_seconds", "forward_seconds", "memory_gb", "peak_memory_gb", "peak_gpu_memory_gb")
_OF_NODE = (
    "cpu_percent", "memory_percent", "gpu_percent", "gpu_memory_percent", "network_mb_per_second",
    "disk_mb_per_second",
)  # fmt: skip
_UNKNOWN = -1.0  # NaN would spread to other rows in a sum over ranks
_FIRST_SECONDS = 2.0  # until the first sample, so that short runs have some
_RUSAGE_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes in which getrusage counts memory


class SystemLoad:
    """What this rank tells of itself and of its machine; on rank 0 also what all ranks told."""

    def __init__(self, rank: Rank, interval: float) -> None:
        """Collective.

        Args:
            interval: seconds from one sample to the next.
        """
        self._rank = rank
        self._hosts: list[str] = rank.gather(platform.node())
        self._interval = interval
        self._process = psutil.Process()
        self._next = time.monotonic() + min(_FIRST_SECONDS, interval) * 2
        self._told: list[list[list[float]]] = []  # of each step since the last event, the rows of all ranks
        self._forward = 0.0
        self._timed: list[tuple[Any, Any]] = []  # CUDA events around the forward passes since the last row
        self._sample: dict[str, float] = {}
        self._closing = threading.Event()
        if rank.local_rank == 0:
            threading.Thread(target=self._work, name="system-load", daemon=True).start()

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Times one forward pass; does not wait for the device.

        Ranks do not wait for each other in it (below ZeRO stage 3), so it shows which rank is slow.
        """
        if self._rank.device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            yield
            end.record()
            self._timed.append((begin, end))
        else:
            began = time.perf_counter()
            yield
            self._forward += time.perf_counter() - began

    def row(self, data_wait: float) -> list[float]:
        """This rank's numbers of the step; on GPUs the forward time is that of the step before, which has ended.

        Args:
            data_wait: seconds this rank waited for the reader.
        """
        on_gpu = self._rank.device.type == "cuda"
        of_rank = (
            data_wait, self._forward, self._process.memory_info().rss / 1e9,
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RUSAGE_UNIT / 1e9,
            torch.cuda.max_memory_allocated(self._rank.device) / 1e9 if on_gpu else _UNKNOWN,
        )  # fmt: skip
        self._forward = 0.0
        return [*of_rank, *(self._sample.get(name, _UNKNOWN) for name in _OF_NODE)]

    def hear(self, rows: list[list[float]], *, last: bool) -> dict[str, Any] | None:
        """Take in what all ranks told in a step, one row a rank.

        Args:
            last: of the run.

        Returns:
            Now and then, on rank 0, the content of a `system` event: of each node its numbers, and the slowest rank.
        """
        # the device has ended the step, since its sums are here
        self._forward += sum(begin.elapsed_time(end) for begin, end in self._timed) / 1000
        self._timed.clear()
        if not self._rank.is_main:
            return None
        self._told.append(rows)
        if time.monotonic() < self._next and not last:
            return None
        self._next = time.monotonic() + self._interval
        told, self._told = self._told, []
        return _event(self._hosts, told)

    def close(self) -> None:
        """Stop sampling; does not wait for a sample that is under way."""
        self._closing.set()

    def _work(self) -> None:
        before, wait = _counters(), min(_FIRST_SECONDS, self._interval)
        psutil.cpu_percent()  # from here on
        while not self._closing.wait(wait):
            now = _counters()
            seconds = now["time"] - before["time"]
            sample = {"cpu_percent": psutil.cpu_percent(), "memory_percent": psutil.virtual_memory().percent}
            for name in ("network", "disk"):
                sample[f"{name}_mb_per_second"] = (now[name] - before[name]) / 1e6 / seconds
            if self._rank.device.type == "cuda":
                sample |= gpu_load()
            self._sample, before, wait = sample, now, self._interval


def gpu_load() -> dict[str, float]:
    """`gpu_percent` and `gpu_memory_percent`, means over the GPUs of this process's machine that it may use.

    From `nvidia-smi`, NVML's own command: it comes with every driver. {} where it does not answer.
    """
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    argv = ["nvidia-smi", "--query-gpu=utilization.gpu,memory.used,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run([*argv, f"--id={chosen}"] if chosen else argv, capture_output=True, text=True, timeout=20)
        rows = [[float(word) for word in line.split(",")] for line in done.stdout.splitlines()]
        return {
            "gpu_percent": fmean(busy for busy, _, _ in rows),
            "gpu_memory_percent": 100 * sum(used for _, used, _ in rows) / sum(total for _, _, total in rows),
        }
    except (OSError, ValueError, ZeroDivisionError, subprocess.TimeoutExpired):
        return {}


def _counters() -> dict[str, float]:
    """`time` in seconds, and bytes that this machine has moved so far."""
    network, disk = psutil.net_io_counters(), psutil.disk_io_counters()
    return {
        "time": time.monotonic(),
        "network": float(network.bytes_sent + network.bytes_recv),
        "disk": float(disk.read_bytes + disk.write_bytes) if disk else 0.0,
    }


def _event(hosts: Sequence[str], told: Sequence[list[list[float]]]) -> dict[str, Any]:
    """By node, what its first rank sampled; of its ranks the slowest, and their memory together."""
    names = {host: f"node{number}" for number, host in enumerate(dict.fromkeys(hosts))}
    waits, forwards = ([fmean(rows[rank][column] for rows in told) for rank in range(len(hosts))] for column in (0, 1))
    nodes: dict[str, Any] = {}
    for host, name in names.items():
        ranks = [rank for rank, other in enumerate(hosts) if other == host]
        last = [told[-1][rank] for rank in ranks]
        memory, peak, gpu = (sum(row[column] for row in last) for column in (2, 3, 4))
        sampled = dict(zip(_OF_NODE, last[0][len(_OF_RANK) :], strict=True))
        node = {
            **{key: value for key, value in sampled.items() if value != _UNKNOWN},
            "data_wait_seconds": max(waits[rank] for rank in ranks),
            "forward_seconds": max(forwards[rank] for rank in ranks),
            "ranks_memory_gb": memory, "ranks_peak_memory_gb": peak,
        }  # fmt: skip
        if gpu >= 0:
            node["gpu_memory_gb"] = max(row[4] for row in last)
        nodes[name] = {key: float(f"{value:.4g}") for key, value in node.items()}
    slowest = max(range(len(hosts)), key=forwards.__getitem__)
    usual = median_low(forwards)  # of two ranks, the faster
    return nodes | {
        "slowest_rank": slowest,
        "slowest_node": names[hosts[slowest]],
        "slowest_over_median": round(forwards[slowest] / usual, 3) if usual else 1.0,
    }
