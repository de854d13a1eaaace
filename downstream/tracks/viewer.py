"""One self-contained HTML page that shows how a sequence is cut; it works from file:// and needs no network."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, select_autoescape
from markupsafe import Markup
from numpy.typing import NDArray

from dnachunker.dataprep.genomes.features import Feature
from dnachunker.dataprep.genomes.region import Region

LONGEST = 2_000_000  # most bases of a region; a base takes about three bytes of the page


@dataclass(frozen=True)
class ViewedRegion:
    """A region and what to show of it.

    Attributes:
        letters: lower case where soft-masked.
        boundaries, probabilities: per stage (L,).
        features: those of the region, one sequence per annotation file.
    """

    region: Region
    letters: str
    boundaries: tuple[NDArray[np.bool_], ...]
    probabilities: tuple[NDArray[np.float32], ...]
    features: tuple[tuple[Feature, ...], ...]


def write_viewer(path: Path, regions: Sequence[ViewedRegion], annotations: Sequence[str], *, title: str) -> None:
    """Write the page.

    Args:
        annotations: names of the annotation files, in the order of each region's `features`.
    """
    data = {"annotations": list(annotations), "regions": [_packed(region) for region in regions]}
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=select_autoescape(("html",)))
    script = Path(__file__).with_name("viewer.js").read_text("utf-8")
    page = environment.get_template("viewer.html").render(
        title=title,
        # "</script" in the data would end the script element, and "<!--" would move its end
        data=Markup(json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")),
        script=Markup(script),
    )
    path.write_text(page, "utf-8")


def _packed(viewed: ViewedRegion) -> dict[str, Any]:
    region = viewed.region
    return {
        "contig": region.contig,
        "start": region.start,
        "letters": viewed.letters,
        "boundaries": [_base64(np.packbits(stage)) for stage in viewed.boundaries],
        "probabilities": [_base64(np.round(stage * 255).astype(np.uint8)) for stage in viewed.probabilities],
        "features": [[[f.start, f.end, f.kind, f.name, f.strand] for f in track] for track in viewed.features],
    }


def _base64(values: NDArray[np.uint8]) -> str:
    return base64.b64encode(values.tobytes()).decode()
