"""`dnachunker embed`: vectors of sequences, of their chunks, or of their bases, as Parquet or Zarr."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import groupby
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
from .regions import NamedRegion, listed_regions
from .windows import WindowOutput, chosen_window, of_region, run_windows, tile

Level = Literal["mean", "chunk", "base"]
Vectors = NDArray[np.float32]
_FLUSHED_ROWS = 65_536  # written at a time: a row group of Parquet
_CHUNK_ROWS = 4096  # of a Zarr array
_LONGEST_NAME = 255  # bytes, of a file or folder


@dataclass(frozen=True)
class EmbedOptions:
    """Options of `embed`; `window` and `flank` as in `chosen_window`."""

    level: Level = "mean"
    stage: int | None = None  # the last one
    regions: tuple[str, ...] = ()
    window: int | Literal["whole"] | None = None
    flank: int | None = None


class _Sink(Protocol):
    def write(self, parts: "Sequence[_Part]") -> None: ...


@dataclass(frozen=True)
class _Part:
    """Vectors (n, D) of the spans [starts, ends) (n,) of a region, the `number`th of those listed."""

    number: int
    listed: NamedRegion
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    vectors: Vectors


def embed(model: Path, fasta: Path, output: Path, options: EmbedOptions) -> int:
    """Write the vectors of each listed region, in the order of the list; return their number.

    A region's vectors depend on that region alone: regions that touch or overlap are not merged.

    Raises:
        BadInput: no such model, FASTA or region; an `output` that exists or is neither .parquet nor .zarr; as
            `chosen_window`.
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
    network = exported.network("none")
    rows = 0
    with Genome(fasta) as genome:
        listed = listed_regions(genome, options.regions)
        regions = [region for region, _ in listed]
        window, flank = chosen_window(exported, genome, regions, options.window, options.flank)
        if output.suffix == ".zarr":
            _check_groups(output, regions)
        described = {**asdict(options), "verb": "embed", "model": exported.fingerprint, "fasta": fasta.name,
                     "window": window, "flank": flank}  # fmt: skip
        with (
            _open_sink(output, described, exported.config.width) as sink,
            Progress("embed", sum(region.length for region in regions), "bp") as bar,
        ):
            windows = (w for region in regions for w in tile(region, genome.lengths[region.contig], window, flank))
            found = run_windows(exported, network, genome, windows, hidden=True)
            waiting: list[_Part] = []
            count = 0  # of vectors that wait
            for number, named in enumerate(listed):
                ours = of_region(named.region, found, bar)
                for starts, ends, vectors in _LEVELS[options.level](named.region, ours, stage):
                    waiting.append(_Part(number, named, starts, ends, vectors))
                    count += len(vectors)
                    if count >= _FLUSHED_ROWS:
                        sink.write(waiting)
                        rows, waiting, count = rows + count, [], 0
            if waiting:
                sink.write(waiting)
    return rows + count


Rows = Iterator[tuple[NDArray[np.int64], NDArray[np.int64], Vectors]]


def _means(region: Region, found: Iterator[WindowOutput], stage: int) -> Rows:
    total: NDArray[np.float64] | None = None
    for part in found:
        assert part.hidden is not None
        ours = part.hidden.sum(0, dtype=np.float64)
        total = ours if total is None else total + ours
    assert total is not None
    yield np.array([region.start]), np.array([region.end]), (total / region.length).astype(np.float32)[None]


def _chunks(region: Region, found: Iterator[WindowOutput], stage: int) -> Rows:
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
        if len(closed_starts) > 1:
            lengths = np.diff(closed_starts)
            yield closed_starts[:-1], closed_starts[1:], (closed[:-1] / lengths[:, None]).astype(np.float32)
    assert total is not None
    yield np.array([start]), np.array([region.end]), (total / (region.end - start)).astype(np.float32)[None]


def _bases(region: Region, found: Iterator[WindowOutput], stage: int) -> Rows:
    for part in found:
        assert part.hidden is not None
        at = np.arange(part.window.keep_start, part.window.keep_end)
        yield at, at + 1, part.hidden.copy()  # a view would keep the whole batch until it is written


_LEVELS = {"mean": _means, "chunk": _chunks, "base": _bases}


@contextmanager
def _open_sink(output: Path, described: dict[str, Any], width: int) -> Iterator[_Sink]:
    if output.suffix == ".parquet":
        with new_file(output) as partial:
            schema = pa.schema(
                [("region", pa.int64()), ("name", pa.string()), ("contig", pa.string()), ("start", pa.int64()),
                 ("end", pa.int64()), ("vector", pa.list_(pa.float32(), width))],
                metadata={"dnachunker": json.dumps(described)},
            )  # fmt: skip
            # vectors hardly ever repeat, so that a dictionary of their values only adds to them
            with pq.ParquetWriter(partial, schema, use_dictionary=["region", "name", "contig"]) as writer:
                yield _ParquetSink(writer, schema)
    else:
        with new_folder(output) as partial:
            yield _ZarrSink(partial, described)


class _ParquetSink:
    def __init__(self, writer: pq.ParquetWriter, schema: pa.Schema) -> None:
        self._writer, self._schema = writer, schema

    def write(self, parts: Sequence[_Part]) -> None:
        lengths = [len(part.starts) for part in parts]
        vectors = np.concatenate([part.vectors for part in parts])
        columns = [
            pa.array(np.repeat([part.number for part in parts], lengths)),
            pa.array(np.repeat(np.array([part.listed.name for part in parts], object), lengths)),
            pa.array(np.repeat(np.array([part.listed.region.contig for part in parts], object), lengths)),
            pa.array(np.concatenate([part.starts for part in parts])),
            pa.array(np.concatenate([part.ends for part in parts])),
            pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1]),
        ]
        self._writer.write_table(pa.table(columns, schema=self._schema), row_group_size=len(vectors))


def _check_groups(output: Path, regions: Sequence[Region]) -> None:
    """Check that each region can be a group of a Zarr folder.

    Raises:
        BadInput: a region is listed twice, or its contig's name is too long for a folder.
    """
    seen: set[Region] = set()
    for region in regions:
        if region in seen:
            raise BadInput(
                f"{output}: {region} is listed twice, and a Zarr group is named by its region; choose an --output "
                "that ends in .parquet"
            )
        seen.add(region)
        if len(_group_name(region).encode()) > _LONGEST_NAME:
            raise BadInput(
                f"{output}: a Zarr group is a folder with the contig's name, and {region.contig[:40]!r}... is too "
                "long for one; choose an --output that ends in .parquet"
            )


def _group_name(region: Region) -> str:
    return str(region).replace("%", "%25").replace("/", "%2F")  # `/` would nest groups, and `..` is refused


class _ZarrSink:
    """A group per region, `CONTIG:START-END` (`/` as %2F and % as %25), with the attributes `region` and `name`."""

    def __init__(self, folder: Path, described: dict[str, Any]) -> None:
        import zarr

        self._open = -1  # number of the region whose group was made last
        self._root = zarr.open_group(str(folder), mode="w", attributes=json.loads(json.dumps(described)))

    def write(self, parts: Sequence[_Part]) -> None:
        for number, group in groupby(parts, key=lambda part: part.number):
            ours = list(group)
            region, name = ours[0].listed
            place = _group_name(region)
            if number != self._open:
                self._open = number
                self._root.create_group(place, attributes={"region": number, "name": name})
            for column in ("vectors", "starts", "ends"):
                values = np.concatenate([getattr(part, column) for part in ours])
                path = f"{place}/{column}"
                if path in self._root:
                    array: Any = self._root[path]
                    array.append(values)
                else:
                    self._root.create_array(path, data=values, chunks=(_CHUNK_ROWS, *values.shape[1:]))
