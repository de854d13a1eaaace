"""The figure in docs/model.md is what its script draws."""

import runpy
from pathlib import Path
from xml.etree import ElementTree

FIGURES = Path(__file__).resolve().parents[2] / "docs" / "figures"


def test_the_architecture_figure_is_up_to_date() -> None:
    drawn = runpy.run_path(str(FIGURES / "architecture.py"))["draw"]()
    assert drawn == (FIGURES / "architecture.svg").read_text()
    ElementTree.fromstring(drawn)
