"""Writes the results as a page of tables and as JSON."""

import json
from pathlib import Path
from typing import Any

NAMES = {
    "machine": "Machine",
    "parity": "Parity with the reference in float64 (largest relative error of results and gradients)",
    "kernels": "Kernels at the size of a layer (65,536 positions); bandwidth counts the fewest possible bytes",
    "cutting": "From probabilities to chunks, one stage (65,536 positions); both ways agree exactly",
    "mamba_ssm": "mamba-ssm's scan in both directions, same size",
    "no_waiting": "Does the host wait for the GPU inside forward and backward pass?",
    "ten_steps": "Ten steps by Triton and by the reference",
    "training": "Training steps of the default model",
    "profile": "Share of a step's time by component",
    "long": "One sequence with activation checkpointing",
    "loader": "Waiting for data",
    "tilings": "The scan in other tilings (span, keep, tile, width, group, ahead, warps)",
    "left_out": "Left out for lack of time",
    "failed": "Failed",
}


def write(found: dict[str, Any], folder: Path, name: str) -> Path:
    """Write NAME.json and NAME.md into the folder; returns the path of NAME.md."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    page = ["# On the GPU", "", "Made by `make gpu-bench`; times are medians.", ""]
    for key, title in NAMES.items():
        if key in found and found[key] not in ([], {}):
            page += [f"## {title}", "", *_lines(found[key]), ""]
    path = folder / f"{name}.md"
    path.write_text("\n".join(page))
    return path


def _lines(value: Any) -> list[str]:
    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        columns = list(dict.fromkeys(column for row in value for column in row))
        return _table(columns, [[row.get(column, "") for column in columns] for row in value])
    if isinstance(value, dict) and value and all(isinstance(row, dict) for row in value.values()):
        columns = list(dict.fromkeys(column for row in value.values() for column in row))
        rows = [[name, *(row.get(column, "") for column in columns)] for name, row in value.items()]
        return _table(["", *columns], rows)
    if isinstance(value, dict):
        return _table(["what", "found"], [[name, one] for name, one in value.items()])
    return [str(value)]


def _table(columns: list[str], rows: list[list[Any]]) -> list[str]:
    lines = [columns, ["---"] * len(columns), *rows]
    return ["| " + " | ".join(str(cell).replace("|", "/") for cell in line) + " |" for line in lines]
