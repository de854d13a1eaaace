"""Provenance of a run: the code's commit, the machines it runs on, and their load."""

import os
import platform
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import torch

import dnachunker
from dnachunker.pretrain.engine.ranks import Rank

_OF_RANKS = ("ranks_memory_gb", "ranks_peak_memory_gb")  # added up over the ranks of a machine
_RUSAGE_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes in which getrusage counts memory


def code_version() -> dict[str, Any]:
    """`commit` and `changed` (uncommitted edits) of the checkout this code runs from; {} when it is installed."""
    root = Path(dnachunker.__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return {}

    def git(*arguments: str) -> str:
        # a read-only query must not block a git command of the user
        environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, env=environment)
        return done.stdout.strip() if done.returncode == 0 else ""

    commit = git("rev-parse", "HEAD")
    return {"commit": commit, "changed": bool(git("status", "--porcelain"))} if commit else {}


def machines(rank: Rank) -> list[dict[str, Any]]:
    """One entry for each machine of the job; collective."""
    mine = {
        "host": platform.node(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpu": torch.cuda.get_device_name(rank.device) if rank.device.type == "cuda" else None,
    }
    found: dict[str, dict[str, Any]] = {}
    for entry in rank.gather(mine):
        found.setdefault(entry["host"], {**entry, "ranks": 0})["ranks"] += 1
    return list(found.values())


def load_of_machines(rank: Rank) -> dict[str, dict[str, float]]:
    """Load of each machine of the job, as `node0`, `node1` ...: percentages and gigabytes; collective."""
    memory = psutil.virtual_memory()
    mine: dict[str, Any] = {
        "host": platform.node(),
        "cpu_percent": psutil.cpu_percent(),
        "memory_percent": memory.percent,
        "ranks_memory_gb": psutil.Process().memory_info().rss / 1e9,
        "ranks_peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RUSAGE_UNIT / 1e9,
    }
    if rank.device.type == "cuda":
        mine["gpu_memory_gb"] = torch.cuda.max_memory_allocated(rank.device) / 1e9
    found: dict[str, dict[str, Any]] = {}
    for entry in rank.gather(mine):
        node = found.setdefault(entry["host"], {**entry, **dict.fromkeys(_OF_RANKS, 0.0)})
        for name in _OF_RANKS:
            node[name] += entry[name]
        if "gpu_memory_gb" in entry:
            node["gpu_memory_gb"] = max(node["gpu_memory_gb"], entry["gpu_memory_gb"])
    return {
        f"node{index}": {name: round(value, 3) for name, value in node.items() if name != "host"}
        for index, node in enumerate(found.values())
    }
