"""Provenance of a run: the code's commit, and the machines it runs on."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import psutil
import torch

import dnachunker
from dnachunker.dataprep.corpus.index import Corpus
from dnachunker.dataprep.storage import is_url
from dnachunker.pretrain.engine.ranks import Rank


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


def corpus_facts(corpus: Corpus) -> dict[str, Any]:
    """What a reader wants to know of a corpus: its name and place, its species, and the bases of each split."""
    place = corpus.path if is_url(corpus.path) else os.path.abspath(corpus.path)
    return {
        "name": place.rstrip("/").rpartition("/")[2],
        "path": place,
        "species": sorted({source.species for source in corpus.index.sources}),
        "splits": {name: split.bases for name, split in corpus.index.splits.items() if split.bases},
    }


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
