"""Output folders that remember what they were made from."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dnachunker.foundations.atomic_files import PARTIAL, write_json
from dnachunker.foundations.failures import BadInput

OPTIONS = "options.json"


def is_taken(path: Path) -> bool:
    """Whether `path` is a file, or a folder with more in it than files whose writer was killed."""
    return path.exists() and (not path.is_dir() or any(not found.name.startswith(PARTIAL) for found in path.iterdir()))


def check_place(path: Path) -> None:
    """Check before any work that an output at `path` can be written; nothing is left behind.

    Raises:
        BadInput: it cannot.
    """
    try:
        there = next(folder for folder in path.absolute().parents if folder.exists())
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise BadInput(f"{path}: cannot be written: {error.strerror}; choose another --output") from error


def claim_folder(path: Path, options: Mapping[str, Any]) -> None:
    """Make `path` the folder of these options, or find it to be that already.

    Raises:
        BadInput: it holds something made with other options, or something else, or cannot be written.
    """
    options = json.loads(json.dumps(options))
    stored = path / OPTIONS
    if stored.is_file():
        check_options(path, json.loads(stored.read_text("utf-8")), options)
        return
    if is_taken(path):
        raise BadInput(f"{path}: already exists and was not made by this command; choose another --output")
    check_place(stored)
    write_json(stored, options)


def check_options(path: Path, before: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Refuse `path` if it was made with other options than these, both as JSON holds them.

    Raises:
        BadInput: naming the first key that differs.
    """
    for key in dict.fromkeys([*before, *options]):
        if before.get(key) != options.get(key):
            raise BadInput(
                f"{path}: was made with {key} {_short(before.get(key))}, and this is {_short(options.get(key))}; "
                "choose another --output"
            )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
