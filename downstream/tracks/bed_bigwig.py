"""Write chunks as BED and boundary probabilities as bigWig, one of each per stage, window by window."""

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import numpy as np
import pyBigWig

from dnachunker.dataprep.genomes.genome import Genome
from dnachunker.downstream.windows import WindowOutput

_COLOURS = (("31,111,235", "147,190,255"), ("194,65,12", "253,186,140"))  # alternating, so that neighbours differ


class TrackWriter:
    """Writes stage0.bed, stage0.bw, stage1.bed, ...: `add` each window in order, `end_region` after a region's last."""

    def __init__(self, folder: Path, genome: Genome, stages: int) -> None:
        self._stack = ExitStack()
        sizes = [(contig, length) for contig, length in genome.lengths.items() if length]
        self._beds: list[TextIO] = []
        self._wigs: list[Any] = []
        for stage in range(stages):
            self._beds.append(self._stack.enter_context((folder / f"stage{stage}.bed").open("w", encoding="utf-8")))
            wig = pyBigWig.open(str(folder / f"stage{stage}.bw"), "w")
            wig.addHeader(sizes)
            self._stack.callback(wig.close)
            self._wigs.append(wig)
        self.chunks = [0] * stages
        self.bases = 0
        self._open: list[tuple[int, float] | None] = [None] * stages  # start of the open chunk, and p there
        self._contig, self._end = "", 0

    def add(self, output: WindowOutput) -> None:
        """Write the kept part of the next window of the region."""
        window = output.window
        self._contig, self._end = window.contig, window.keep_end
        self.bases += window.keep_end - window.keep_start
        for stage, (boundary, probability) in enumerate(zip(output.boundaries, output.probabilities, strict=True)):
            starts = np.flatnonzero(boundary)
            if self._open[stage] is None and (not len(starts) or starts[0]):
                # the region starts inside a chunk
                self._open[stage] = (window.keep_start, float(probability[0]))
            for start in starts:
                self._close_chunk(stage, window.keep_start + int(start))
                self._open[stage] = (window.keep_start + int(start), float(probability[start]))
            self._add_probabilities(stage, output)

    def end_region(self) -> None:
        """Close the chunks that the region's end cuts."""
        for stage in range(len(self._beds)):
            self._close_chunk(stage, self._end)

    def _close_chunk(self, stage: int, end: int) -> None:
        chunk = self._open[stage]
        if chunk is None:
            return
        start, probability = chunk
        number = self.chunks[stage]
        colour = _COLOURS[stage % len(_COLOURS)][number % 2]
        score = round(1000 * min(1.0, max(0.0, probability)))
        self._beds[stage].write(
            f"{self._contig}\t{start}\t{end}\t{end - start}\t{score}\t.\t{start}\t{end}\t{colour}\n"
        )
        self.chunks[stage] += 1
        self._open[stage] = None

    def _add_probabilities(self, stage: int, output: WindowOutput) -> None:
        wig, start = self._wigs[stage], output.window.keep_start
        probability = output.probabilities[stage].astype(np.float64)
        if stage == 0:
            wig.addEntries(output.window.contig, start, values=probability, span=1, step=1)
            return
        asked = np.flatnonzero(output.boundaries[stage - 1])  # a later stage's router reads chunks of the stage before
        if len(asked):
            wig.addEntries(output.window.contig, (start + asked).tolist(), values=probability[asked], span=1)

    def __enter__(self) -> "TrackWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
