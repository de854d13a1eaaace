"""What a person sees of long work: a live bar on a terminal, a line now and then elsewhere."""

import sys
from typing import Any

from tqdm import tqdm


def progress_bar(total: int | None, title: str, unit: str, *, quiet: bool = False) -> "tqdm[Any]":
    """A bar on stderr; call `update(n)`, and close it or use it as a context manager."""
    live = sys.stderr.isatty()
    return tqdm(
        total=total,
        desc=title,
        unit=unit,
        unit_scale=unit in ("bp", "base"),
        file=sys.stderr,
        dynamic_ncols=live,
        mininterval=0.2 if live else 15.0,
        disable=quiet,
        leave=True,
    )
