"""constraints.txt: one version of every library that pyproject.toml asks for, of those that pyproject.toml allows."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
CHOSEN_BY_TORCH = {"triton"}


def test_every_direct_dependency_is_pinned_within_its_range() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if line[0] != "#"]
    pins = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    assert len(pins) == len(lines)
    assert not any("+" in version for version in pins.values()), "a local version is of one kind of machine"
    assert not {name for name in pins if name.startswith(("triton", "nvidia-", "cuda-"))}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    for text in [*project["dependencies"], *extras["s3"], *extras["docs"], *extras["dev"]]:
        wanted = Requirement(text)
        if wanted.name not in CHOSEN_BY_TORCH:
            assert wanted.specifier.contains(pins[canonicalize_name(wanted.name)]), text
