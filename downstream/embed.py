"""`dnachunker embed`: vectors of sequences, of their chunks, or of their bases, as Parquet or Zarr."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dnachunker.dataprep.genomes.genome import Genome
from dnachunker.dataprep.genomes.region import Region
from dnachunker.foundations.atomic_files import new_file, new_folder
from dnachunker.foundations.failures import BadInput
from dnachunker.foundations.progress import Progress

from .exported import open_exported
from .output_folder import check_place
from .regions import choose_regions
from .windows import WindowOutput, default_window, run_windows, tile

Level = Literal["mean", "chunk", "base"]
Vectors = NDArray[np.float32]
_GROUP_ROWS = 4096
_LONGEST_NAME = 255  # bytes, of a file or folder


@dataclass(frozen=True)
class EmbedOptions:
    """Options of `embed`. `window` None means the pretraining length, `flank` None an eighth of the window."""

    level: Level = "mean"
    stage: int | None = None  # the last one
    regions: tuple[str, ...] = ()
    window: int | None = None
    flank: int | None = None


class _Sink(Protocol):
    def add(self, region: Region, starts: NDArray[np.int64], ends: NDArray[np.int64], vectors: Vectors) -> None: ...


def embed(model: Path, fasta: Path, output: Path, options: EmbedOptions) -> int:
    """Write vectors; return their number.

    Raises:
        BadInput: no such model, FASTA or region; an `output` that exists or is neither .parquet nor .zarr.
    """
    if output.suffix not in (".parquet", ".zarr"):
        raise BadInput(f"{output}: the name must end in .parquet or .zarr; the ending selects the format")
    if output.exists():
        raise BadInput(f"{output}: already exists; choose another --output")
    check_place(output)
    exported = open_exported(model)
    stages = exported.config.stages
    stage = stages - 1 if options.stage is None else options.stage
    if not 0 <= stage < stages:
        raise BadInput(f"--stage {stage}: the model has the stages 0 to {stages - 1}")
    window = options.window or default_window(exported)
    flank = window // 8 if options.flank is None else options.flank
    network = exported.network("none")
    rows = 0
    with Genome(fasta) as genome:
        regions = choose_regions(genome, options.regions)
        if output.suffix == ".zarr" and (long := [r for r in regions if len(_group_name(r).encode()) > _LONGEST_NAME]):
            raise BadInput(
                f"{output}: a Zarr group is a folder with the contig's name, and {long[0].contig[:40]!r}... is too "
                "long for one; choose an --output that ends in .parquet"
            )
        described = {**asdict(options), "verb": "embed", "model": exported.fingerprint, "fasta": fasta.name,
                     "window": window, "flank": flank}  # fmt: skip
        with (
            _open_sink(output, described, exported.config.width) as sink,
            Progress("embed", sum(region.length for region in regions), "bp") as bar,
        ):
            for region in regions:
                windows = list(tile(region, genome.lengths[region.contig], window, flank))
                found = run_windows(exported, network, genome, windows, hidden=True)
                for starts, ends, vectors in _LEVELS[options.level](region, found, stage, bar):
                    sink.add(region, starts, ends, vectors)
                    rows += len(vectors)
    return rows


Rows = Iterator[tuple[NDArray[np.int64], NDArray[np.int64], Vectors]]


def _means(region: Region, found: Iterator[WindowOutput], stage: int, bar: Any) -> Rows:
    total: NDArray[np.float64] | None = None
    for part in found:
        assert part.hidden is not None
        ours = part.hidden.sum(0, dtype=np.float64)
        total = ours if total is None else total + ours
        bar.update(len(part.hidden))
    assert total is not None
    yield np.array([region.start]), np.array([region.end]), (total / region.length).astype(np.float32)[None]


def _chunks(region: Region, found: Iterator[WindowOutput], stage: int, bar: Any) -> Rows:
    """Means over chunks; the parts of a chunk that lie in two windows are joined. A region's ends cut chunks."""
    start, total = region.start, None  # of the chunk that is still open
    for part in found:
        assert part.hidden is not None
        first = part.window.keep_start
        cuts = np.flatnonzero(part.boundaries[stage])
        borders = np.unique(np.concatenate([[0], cuts]))
        sums = np.add.reduceat(part.hidden.astype(np.float64), borders, axis=0)
        continues = not len(cuts) or cuts[0] != 0
        if total is None:
            closed_starts, closed = borders + first, sums
        elif continues:
            sums[0] += total
            closed_starts, closed = np.concatenate([[start], borders[1:] + first]), sums
        else:
            closed_starts, closed = np.concatenate([[start], borders + first]), np.concatenate([total[None], sums])
        start, total = int(closed_starts[-1]), closed[-1]
        bar.update(len(part.hidden))
        if len(closed_starts) > 1:
            lengths = np.diff(closed_starts)
            yield closed_starts[:-1], closed_starts[1:], (closed[:-1] / lengths[:, None]).astype(np.float32)
    assert total is not None
    yield np.array([start]), np.array([region.end]), (total / (region.end - start)).astype(np.float32)[None]


def _bases(region: Region, found: Iterator[WindowOutput], stage: int, bar: Any) -> Rows:
    for part in found:
        assert part.hidden is not None
        at = np.arange(part.window.keep_start, part.window.keep_end)
        bar.update(len(at))
        yield at, at + 1, part.hidden


_LEVELS = {"mean": _means, "chunk": _chunks, "base": _bases}


@contextmanager
def _open_sink(output: Path, described: dict[str, Any], width: int) -> Iterator[_Sink]:
    if output.suffix == ".parquet":
        with new_file(output) as partial:
            schema = pa.schema(
                [("contig", pa.string()), ("start", pa.int64()), ("end", pa.int64()),
                 ("vector", pa.list_(pa.float32(), width))],
                metadata={"dnachunker": json.dumps(described)},
            )  # fmt: skip
            with pq.ParquetWriter(partial, schema) as writer:
                yield _ParquetSink(writer, schema)
    else:
        with new_folder(output) as partial:
            yield _ZarrSink(partial, described)


class _ParquetSink:
    def __init__(self, writer: pq.ParquetWriter, schema: pa.Schema) -> None:
        self._writer, self._schema = writer, schema

    def add(self, region: Region, starts: NDArray[np.int64], ends: NDArray[np.int64], vectors: Vectors) -> None:
        width = vectors.shape[1]
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), width)
        contigs = pa.array([region.contig] * len(starts))
        self._writer.write_table(pa.table([contigs, starts, ends, column], schema=self._schema))


def _group_name(region: Region) -> str:
    return str(region).replace("%", "%25").replace("/", "%2F")  # `/` would nest groups, and `..` is refused


class _ZarrSink:
    """A group per region, `CONTIG:START-END` (`/` as %2F and % as %25), whose arrays grow row by row."""

    def __init__(self, folder: Path, described: dict[str, Any]) -> None:
        import zarr

        self._root = zarr.open_group(str(folder), mode="w", attributes=json.loads(json.dumps(described)))

    def add(self, region: Region, starts: NDArray[np.int64], ends: NDArray[np.int64], vectors: Vectors) -> None:
        name = _group_name(region)
        if name not in self._root:
            group = self._root.create_group(name)
            width = vectors.shape[1]
            group.create_array("vectors", shape=(0, width), chunks=(_GROUP_ROWS, width), dtype="float32")
            for column in ("starts", "ends"):
                group.create_array(column, shape=(0,), chunks=(_GROUP_ROWS,), dtype="int64")
        columns: Sequence[tuple[str, Any]] = (("vectors", vectors), ("starts", starts), ("ends", ends))
        for column, values in columns:
            array: Any = self._root[f"{name}/{column}"]
            array.append(values)
