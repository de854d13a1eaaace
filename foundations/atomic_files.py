"""Files and folders that are complete or absent: written under a partial name, then renamed."""

import json
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PARTIAL = ".partial-"  # how a partial name begins; what a killed writer leaves behind has one


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes `path` at the end, unless there was an error; replaces what was there.

    The suffix stays, since writers choose formats by it. The folder is made where it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # at random: processes of two machines may have one number
    partial = path.with_name(f"{PARTIAL}{secrets.token_hex(8)}-{path.name}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """As `new_file`, for a folder, which exists and is empty on entering."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f"{PARTIAL}{path.name}-") as name:
        partial = Path(name) / path.name
        partial.mkdir()
        yield partial
        if path.exists():
            shutil.rmtree(path)
        partial.rename(path)


def write_text(path: Path, text: str) -> None:
    """Write a text file at once, as UTF-8."""
    with new_file(path) as partial:
        partial.write_text(text, "utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON at once; NaN and infinities are refused, for they are not JSON."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")
