"""The presets under configs/, as the help texts and the errors name them. Light: the command line imports it."""

import re
import textwrap
from pathlib import Path

PRESETS = Path(__file__).parents[1] / "configs"


def presets(kind: str) -> dict[str, Path]:
    """Name to file of the presets under configs/`kind`/, sorted by name."""
    return {path.stem: path for path in sorted((PRESETS / kind).glob("*.yaml"))}


def describe_presets(kind: str) -> str:
    """Lines of help: every preset of a kind with the first sentence of the comment at the top of its file."""
    found = presets(kind)
    margin = " " * (max(map(len, found)) + 4)
    lines = ["presets:"]
    for name, path in found.items():
        text = f"  {name:{len(margin) - 2}}{_first_sentence(path)}"
        lines += textwrap.wrap(text, 110, subsequent_indent=margin, drop_whitespace=True)
    return "\n".join(lines)


def _first_sentence(path: Path) -> str:
    comment = []
    for line in path.read_text("utf-8").splitlines():
        if not re.match(r"# \S", line):  # an example, which is indented, or the first key
            break
        comment.append(line.removeprefix("# "))
    return re.split(r"(?<=[.?])\s", " ".join(comment))[0]
