"""Versions that must be equal on every machine of a job, without importing what they are of."""

import sys
from importlib import metadata

_COMPARED = ("torch", "deepspeed", "transformers", "numpy", "dnachunker")


def versions() -> dict[str, str]:
    """By package; one that was not installed (started from its source folder) is left out."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in _COMPARED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
