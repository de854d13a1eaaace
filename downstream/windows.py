"""Run a network over a long sequence window by window; the flanks of a window are read but not kept.

The outermost bases of a window have less context than the others, and its first base always starts a chunk. So windows
overlap by two flanks, and every base is taken from the one window in which it is farthest from an end. A window that
ends where its contig ends has no flank there. A contig that fits into one window is read whole; `--window whole` makes
the window as long as the longest contig.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from yaml import YAMLError, safe_load

from dnachunker.dataprep.genomes.genome import Genome
from dnachunker.dataprep.genomes.region import Region
from dnachunker.foundations.failures import BadInput
from dnachunker.foundations.free_memory import free_bytes

from .exported import Exported

_DEFAULT_WINDOW = 8192
_PART = 65_536  # bases of an output: vectors of a whole contig are not copied at once
# Memory of a contig in one stretch, measured: vectors of all bases that are held together, bytes of a base beside them,
# and numbers that a layer holds for each channel of a position in a block
_VECTORS, _BESIDE, _IN_LAYER = 6, 300, 30
_FILLED = 0.8  # share of free memory that a contig in one stretch may need: the numbers above are estimates


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

    @property
    def read(self) -> tuple[str, int, int]:
        """The bases that are read: contig, start, end."""
        return self.contig, self.start, self.end


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


def chosen_window(
    exported: Exported, genome: Genome, regions: Sequence[Region], asked: int | Literal["whole"] | None,
    flank: int | None,
) -> tuple[int, int]:  # fmt: skip
    """The window length and the flank in bases: those asked for; default: the length of pretraining and an eighth.

    Args:
        asked: "whole" for the longest contig of the regions, and no flank.

    Raises:
        BadInput: "whole" with a flank, for a model whose layers cannot run block by block, for regions of a contig that
            do not follow each other, or for a contig that does not fit into memory.
    """
    if asked != "whole":
        window = asked or default_window(exported)
        return window, window // 8 if flank is None else flank
    if flank is not None:
        raise BadInput(f"--flank {flank}: --window whole reads a contig in one stretch, without flanks; leave it out")
    stretches = Counter(name for name, _ in groupby(region.contig for region in regions))
    (most, times), *_ = stretches.most_common(1)
    if times > 1:
        raise BadInput(
            f"--window whole: regions of {most} stand before and after those of another contig, and a contig is "
            "read once; list the regions of a contig one after the other"
        )
    contig = max((region.contig for region in regions), key=lambda name: genome.lengths[name])
    bases = genome.lengths[contig]
    config = exported.config
    if remedy := _blocks_remedy(config):
        raise BadInput(f"--window whole: {exported.folder} computes layers on whole windows; {remedy}")
    strands = 2 if config.strand_symmetry else 1
    in_layer = 4 * _IN_LAYER * config.width * min(bases, config.layer_block)
    needed = strands * bases * (4 * _VECTORS * config.width + _BESIDE) + in_layer
    on_gpu = exported.device.type == "cuda"
    free = torch.cuda.mem_get_info(exported.device)[0] if on_gpu else free_bytes()
    if needed > _FILLED * free:
        raise BadInput(
            f"--window whole: {contig} has {bases:,} bases, which need about {needed:,.0f} bytes in one stretch, and "
            f"{free:,} bytes are free, of which {_FILLED:.0%} may be used; give --window a number of bases"
        )
    return bases, 0


def _blocks_remedy(config: Any) -> str:
    """What to do where the layers of a model do not run block by block; empty where they do."""
    if (mixer := getattr(config, "mixer", "bimamba")) != "bimamba":  # the config of an older export lacks keys
        return f"its mixer is {mixer}, and only bimamba runs block by block: give --window a number of bases"
    if not hasattr(config, "layer_block"):
        return "an older version exported it: export the run again"
    return "" if config.layer_block else "layer_block is 0 in its config.json: set it there, such as to 65536"


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
    """The network's output for each window, in order; windows in a row that read the same bases share one pass.

    Args:
        network: `exported.network("none")`; a network with another head gives no `hidden`.
        windows: read as they are needed, a batch at a time.
    """
    for part in _batched(exported, windows):
        texts = [genome.fetch(*same[0].read) for same in part]
        encoded = []
        for same, text in zip(part, texts, strict=True):
            try:
                encoded.append(exported.encode(text))
            except BadInput as error:
                contig, start, end = same[0].read
                raise BadInput(f"{genome.path}: {contig}:{start + 1}-{end}: {error}") from error
        ids, mask = exported.batch(encoded)
        with torch.no_grad():
            output = network(input_ids=ids, attention_mask=mask)
        stages = range(len(output.boundaries))
        for row, window, text in _parts(part, texts):
            first = len(exported.lead) - window.start
            kept = slice(window.keep_start + first, window.keep_end + first)
            yield WindowOutput(
                window,
                text[window.kept],
                tuple(output.boundaries[s][row, kept].cpu().numpy() for s in stages),
                tuple(output.boundary_probabilities[s][row, kept].float().cpu().numpy() for s in stages),
                output.last_hidden_state[row, kept].float().cpu().numpy() if hidden else None,
            )
        del output  # else its vectors stay in memory while the next pass runs


def of_region(region: Region, found: Iterator[WindowOutput], bar: Any) -> Iterator[WindowOutput]:
    """The outputs up to the end of the region; `bar`, of a Progress, counts their bases."""
    for part in found:
        bar.update(part.window.keep_end - part.window.keep_start)
        yield part
        if part.window.keep_end == region.end:
            return


def _parts(batch: Sequence[Sequence[Window]], texts: Sequence[str]) -> Iterator[tuple[int, Window, str]]:
    """The row, the window and the letters of each output; a long window gives several, which keep its bases in turn."""
    for row, (same, text) in enumerate(zip(batch, texts, strict=True)):
        for window in same:
            for start in range(window.keep_start, window.keep_end, _PART):
                end = min(start + _PART, window.keep_end)
                yield row, replace(window, keep_start=start, keep_end=end), text


def _batched(exported: Exported, windows: Iterable[Window]) -> Iterator[list[list[Window]]]:
    """Windows in order, those in a row that read the same bases together; as many at a time as fit with the longest."""
    batch: list[list[Window]] = []
    longest = 0
    for (_, start, end), same in groupby(windows, key=lambda window: window.read):
        longest = max(longest, end - start)
        if len(batch) >= exported.batch_rows(longest):
            yield batch
            batch, longest = [], end - start
        batch.append(list(same))
    if batch:
        yield batch
