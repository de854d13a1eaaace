"""Versions of the packages that must be equal on every machine of a job, found without importing the packages."""

import sys
from importlib import metadata

_COMPARED = ("torch", "deepspeed", "transformers", "numpy", "dnachunker")


def versions() -> dict[str, str]:
    """Version by package. A package that is not installed (dnachunker run from its source folder) is left out."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in _COMPARED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
