"""Spares seconds of imports that a library tries and does without."""

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def absent(*names: str) -> Iterator[None]:
    """A context manager inside which importing any of these modules raises ModuleNotFoundError.

    Modules that have been imported before are left alone.
    """
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None is how Python marks a missing module
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)
