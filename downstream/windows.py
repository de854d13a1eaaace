"""Run a network over a long sequence window by window; the flanks of a window are read but not kept.

The outermost bases of a window have less context than the others, and its first base always starts a chunk. So windows
overlap by two flanks, and every base is taken from the one window in which it is farthest from an end. A window that
ends where its contig ends has no flank there. A contig that fits into one window is read whole.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from yaml import YAMLError, safe_load

from dnachunker.dataprep.genomes.region import Region
from dnachunker.foundations.failures import BadInput

from .exported import Exported

_DEFAULT_WINDOW = 8192


@dataclass(frozen=True)
class Window:
    """Bases [start, end) of a contig are read, [keep_start, keep_end) are kept."""

    contig: str
    start: int
    end: int
    keep_start: int
    keep_end: int

    @property
    def kept(self) -> slice:
        """The kept part, counted from the window's start."""
        return slice(self.keep_start - self.start, self.keep_end - self.start)


@dataclass(frozen=True)
class WindowOutput:
    """Output of the network for the kept bases of a window.

    Attributes:
        boundaries: per stage (L,) bool, where a chunk starts.
        probabilities: per stage (L,) float32, that a chunk starts; at stage 0 for every base, at a later stage only
            where a chunk of the stage before starts.
        hidden: (L, D) float32; None unless asked for.
    """

    window: Window
    letters: str
    boundaries: tuple[NDArray[np.bool_], ...]
    probabilities: tuple[NDArray[np.float32], ...]
    hidden: NDArray[np.float32] | None


def default_window(exported: Exported) -> int:
    """The window length of pretraining in bases; 8192 where the folder does not tell."""
    try:
        described = safe_load((exported.folder / "pretraining.yaml").read_text("utf-8"))
        return int(described["data"]["seq_len"])
    except (OSError, YAMLError, KeyError, TypeError, ValueError):
        return _DEFAULT_WINDOW


def tile(region: Region, contig_length: int, window: int, flank: int) -> Iterator[Window]:
    """Windows whose kept parts cover the region once, in order; flanks reach beyond it, within the contig.

    Raises:
        BadInput: the two flanks are as long as the window.
    """
    if flank < 0 or window <= 2 * flank:
        raise BadInput(f"--window {window} and --flank {flank}: a window has to be longer than its two flanks")
    if contig_length <= window:
        yield Window(region.contig, 0, contig_length, region.start, region.end)
        return
    step = window - 2 * flank
    for start in range(region.start, region.end, step):
        end = min(start + step, region.end)
        yield Window(region.contig, max(0, start - flank), min(contig_length, end + flank), start, end)


class Source(Protocol):
    """Something to fetch letters from, such as a Genome."""

    @property
    def path(self) -> Path: ...

    def fetch(self, contig: str, start: int, end: int) -> str: ...


def run_windows(
    exported: Exported, network: nn.Module, genome: Source, windows: Iterable[Window], *, hidden: bool = False
) -> Iterator[WindowOutput]:
    """The network's output for each window, in order.

    Args:
        network: `exported.network("none")`; a network with another head gives no `hidden`.
        windows: read as they are needed, a batch at a time.
    """
    for part in _batched(exported, windows):
        texts = [genome.fetch(w.contig, w.start, w.end) for w in part]
        encoded = []
        for window, text in zip(part, texts, strict=True):
            try:
                encoded.append(exported.encode(text))
            except BadInput as error:
                raise BadInput(f"{genome.path}: {window.contig}:{window.start + 1}-{window.end}: {error}") from error
        ids, mask = exported.batch(encoded)
        with torch.no_grad():
            output = network(input_ids=ids, attention_mask=mask)
        stages = range(len(output.boundaries))
        for row, (window, text) in enumerate(zip(part, texts, strict=True)):
            first = len(exported.lead) - window.start
            kept = slice(window.keep_start + first, window.keep_end + first)
            yield WindowOutput(
                window,
                text[window.kept],
                tuple(output.boundaries[s][row, kept].cpu().numpy() for s in stages),
                tuple(output.boundary_probabilities[s][row, kept].float().cpu().numpy() for s in stages),
                output.last_hidden_state[row, kept].float().cpu().numpy() if hidden else None,
            )


def _batched(exported: Exported, windows: Iterable[Window]) -> Iterator[list[Window]]:
    """Windows in order, as many at a time as fit with the longest of them."""
    batch: list[Window] = []
    longest = 0
    for window in windows:
        longest = max(longest, window.end - window.start)
        if len(batch) >= exported.batch_rows(longest):
            yield batch
            batch, longest = [], window.end - window.start
        batch.append(window)
    if batch:
        yield batch
