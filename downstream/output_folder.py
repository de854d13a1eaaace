"""Outputs that are complete or absent, and that remember what they were made from."""

import json
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dnachunker.foundations.failures import BadInput

OPTIONS = "options.json"
_PARTIAL = ".partial-"


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `path` at the end, unless there was an error; replaces what was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.partial-") as name:
        staging = Path(name) / path.name
        staging.mkdir()
        yield staging
        if path.exists():
            shutil.rmtree(path)
        staging.rename(path)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """As `new_folder`, for a file; its suffix stays, since writers choose formats by it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # at random: processes of two machines may have one number
    partial = path.with_name(f"{_PARTIAL}{secrets.token_hex(8)}-{path.name}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file at once."""
    with new_file(path) as partial:
        partial.write_text(text, "utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON at once; NaN and infinities are refused, for they are not JSON."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def is_taken(path: Path) -> bool:
    """Whether `path` is a file, or a folder with more in it than files whose writer was killed."""
    return path.exists() and (not path.is_dir() or any(not found.name.startswith(_PARTIAL) for found in path.iterdir()))


def claim_folder(path: Path, options: Mapping[str, Any]) -> None:
    """Make `path` the folder of these options, or find it to be that already.

    Raises:
        BadInput: it holds something made with other options, or something else.
    """
    options = json.loads(json.dumps(options))
    stored = path / OPTIONS
    if stored.is_file():
        check_options(path, json.loads(stored.read_text("utf-8")), options)
        return
    if is_taken(path):
        raise BadInput(f"{path}: already exists and was not made by this command; choose another --output")
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
