"""Opens a finished corpus: reads index.json and blocks.parquet, and single blocks by row.

The import is light (no Ray, no torch; pyarrow only when blocks.parquet is read), since every loader worker imports it.
"""

import hashlib
import json
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from dnachunker.dataprep.storage import MissingFile, ShortRead, exists, join, read_bytes, read_range, read_to_end
from dnachunker.foundations.failures import BadInput

from .shard_format import Block, CorruptBlock, check_end_of_archive, decode_block, decode_members

FORMAT = "dnachunker-corpus"
FORMAT_VERSION = 1
INDEX_NAME = "index.json"
BLOCKS_NAME = "blocks.parquet"


class _Record(BaseModel):
    # unknown keys are ignored, so that older readers can read an index with later additions
    model_config = ConfigDict(frozen=True, extra="ignore")


class SourceRecord(_Record):
    """One genome of the corpus.

    Attributes:
        bytes, sha256: of `file`.
        contigs: used contigs -> length in bases.
        bases: of the used contigs.
        bases_in_splits: bases in blocks; `n_bases`, `soft_masked` and `gc` count among these.
        ambiguous: letters stored as N that were not written N -> how many.
        empty_records: number of records without sequence.
        contigs_left_out: number of contigs that the config does not use.
        bases_too_short: bases in blocks that were left out because they were too short.
        weight: how often training should draw from this source, relative to the other sources.
    """

    name: str
    species: str
    clade: str
    assembly: str
    provenance: str
    file: str
    bytes: int
    sha256: str
    split_file_sha256: str | None
    contigs: dict[str, int]
    bases: int
    bases_in_splits: int
    n_bases: int
    soft_masked: int
    gc: int
    ambiguous: dict[str, int]
    empty_records: int
    contigs_left_out: int
    bases_too_short: int
    licence: str = ""
    citation: str = ""
    weight: float | None = None
    repeats_file_sha256: str | None = None


class SplitTotals(_Record):
    """Sums over one split; all fields but `shards`, `blocks` and `bytes` count bases."""

    shards: int
    blocks: int
    bases: int
    n_bases: int
    soft_masked: int
    gc: int
    bytes: int


class DroppedRow(_Record):
    """Bases of a split that are in no block.

    `reason` is `gap` (a long run of N; `blocks` counts the runs), `too_much_n`, `too_short` or `duplicate`.
    """

    source: str
    split: str
    reason: str
    blocks: int
    bases: int


class LeakageRow(_Record):
    """Distinct sampled k-mers of one source in one held-out split, and how many of them the split train has too."""

    split: str
    source: str
    kmers: int
    in_train: int

    @property
    def share(self) -> float:
        return self.in_train / self.kmers if self.kmers else 0.0


class LeakageReport(_Record):
    """How many k-mers of the held-out splits the train split holds too: exact matches, on either strand.

    `sampled` is the share of all k-mers that was compared.
    """

    k: int
    sampled: float
    rows: list[LeakageRow]


class FileRecord(_Record):
    """A file of the corpus folder."""

    name: str
    bytes: int
    sha256: str


class ShardRecord(FileRecord):
    """A shard: `samples` blocks holding `bases` bases."""

    split: str
    samples: int
    bases: int


class CorpusIndex(_Record):
    """The content of index.json."""

    format: str
    format_version: int
    config: dict[str, Any]
    sources: list[SourceRecord]
    splits: dict[str, SplitTotals]
    blocks: FileRecord
    shards: list[ShardRecord]
    dropped: list[DroppedRow] = []
    leakage: LeakageReport | None = None

    def to_json(self) -> bytes:
        """The bytes of index.json; equal corpora have equal bytes."""
        return (json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=True) + "\n").encode("ascii")


@dataclass(frozen=True, eq=False)
class BlockTable:
    """Rows of blocks.parquet as arrays of one length, in canonical order.

    Canonical order: splits as train, valid, test, others by name; within a split sources in config order, contigs in
    the order of their FASTA file, blocks by start. Coordinates are 0-based and half-open.
    """

    key: NDArray[np.str_]
    split: NDArray[np.str_]
    source: NDArray[np.str_]
    species: NDArray[np.str_]
    clade: NDArray[np.str_]
    assembly: NDArray[np.str_]
    contig: NDArray[np.str_]
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    bases: NDArray[np.int64]
    n_bases: NDArray[np.int64]  # letters other than ACGT
    soft_masked: NDArray[np.int64]
    gc: NDArray[np.int64]  # number of G and C
    shard: NDArray[np.str_]  # file name
    offset: NDArray[np.int64]  # position of the block's frame in the shard, bytes
    length: NDArray[np.int64]  # size of the frame, bytes
    first_sample: NDArray[np.int64]  # number of this block within its split, from 0, shard after shard
    crc32: NDArray[np.int64]  # CRC-32 of the frame

    def __len__(self) -> int:
        return int(self.start.size)

    def select(self, rows: NDArray[Any]) -> "BlockTable":
        """The rows of a boolean mask or of an index array, in that order."""
        return BlockTable(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


TEXT_COLUMNS = ("key", "split", "source", "species", "clade", "assembly", "contig", "shard")
COLUMNS = tuple(field.name for field in fields(BlockTable))

StoredBases = tuple[NDArray[np.uint8], NDArray[np.uint32], NDArray[np.uint32]]


class Corpus:
    """An opened corpus: immutable, cheap to pickle, safe to share between processes."""

    def __init__(self, path: str, index: CorpusIndex) -> None:
        self.path = path
        self.index = index

    @classmethod
    def open(cls, path: Any) -> Self:
        """Read the index of the corpus at `path`, a folder or an fsspec URL.

        Raises:
            BadInput: nothing exists there, it is not a corpus, or this version does not read its format.
        """
        root = str(path)
        location = join(root, INDEX_NAME)
        try:
            values = json.loads(read_bytes(location))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise BadInput(f"{root}: {_why_not_a_corpus(root)}") from error
        except ValueError as error:
            raise BadInput(f"{location}: not valid JSON ({error}); rebuild the corpus") from error
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise BadInput(f"{location}: not the index of a dnachunker corpus")
        if values.get("format_version") != FORMAT_VERSION:
            raise BadInput(
                f"{location}: format version {values.get('format_version')}, this program reads {FORMAT_VERSION}; "
                "use the version of dnachunker that built the corpus, or rebuild it"
            )
        try:
            return cls(root, CorpusIndex.model_validate(values))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise BadInput(f"{location}: key {where}: {first['msg']}; rebuild the corpus") from error

    @property
    def fingerprint(self) -> str:
        """sha256 over the format version and the shards' sha256s; it names the content, independent of the folder."""
        parts = [f"{FORMAT} {self.index.format_version}", *(shard.sha256 for shard in self.index.shards)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.index.splits)

    @property
    def sources(self) -> tuple[SourceRecord, ...]:
        return tuple(self.index.sources)

    def blocks(self, split: str | None = None) -> BlockTable:
        """The blocks of one split, or of all, in canonical order.

        Raises:
            BadInput: no such split, or blocks.parquet is missing or altered.
        """
        if split is None:
            return self._all_blocks
        if split not in self.index.splits:
            raise BadInput(f"{self.path}: no split {split!r}; it has {', '.join(self.splits)}")
        return self._all_blocks.select(self._all_blocks.split == split)

    def shard_location(self, name: str) -> str:
        """Path or URL of a shard named in the index."""
        return join(self.path, name)

    def read_frame(self, blocks: BlockTable, row: int) -> bytes:
        """The stored bytes of the block at `row`.

        Raises:
            CorruptBlock: the shard is missing or too short; the message names shard and offset.
            BadInput: the shard cannot be read (permissions, network).
        """
        location = self.shard_location(str(blocks.shard[row]))
        try:
            return read_range(location, int(blocks.offset[row]), int(blocks.length[row]))
        except (ShortRead, MissingFile) as error:
            raise self._located(error, blocks, row) from error

    def check_shard_end(self, blocks: BlockTable, row: int) -> None:
        """Check the end of a shard: after its last block, which is at `row`, only the end-of-archive frame may follow.

        Raises:
            CorruptBlock: the shard is longer or shorter than the index says, or its end frame is damaged.
        """
        name = str(blocks.shard[row])
        end = int(blocks.offset[row]) + int(blocks.length[row])
        record = next(shard for shard in self.index.shards if shard.name == name)
        try:
            check_end_of_archive(read_to_end(self.shard_location(name), end, record.bytes - end))
        except (ShortRead, MissingFile, CorruptBlock) as error:
            raise self._located(error, blocks, row) from error

    def read_block(self, blocks: BlockTable, row: int) -> Block:
        """The decoded, verified block at `row`.

        Raises:
            CorruptBlock: the message names shard and offset.
        """
        frame = self.read_frame(blocks, row)
        try:
            block = decode_block(frame, crc32=int(blocks.crc32[row]))
            if block.key != blocks.key[row]:
                raise CorruptBlock(f"the frame holds block {block.key}, not {blocks.key[row]}")
        except CorruptBlock as error:
            raise self._located(error, blocks, row) from error
        return block

    def decode_frame(self, blocks: BlockTable, row: int, frame: bytes) -> StoredBases:
        """The 2-bit bases, runs of N and soft-masked runs in `frame`, the frame of the block at `row`; all verified.

        Raises:
            CorruptBlock: the message names shard and offset.
        """
        try:
            key, _, sequence, n_runs, soft_runs = decode_members(frame, int(blocks.crc32[row]))
            if key != blocks.key[row] or sequence.size != -(-int(blocks.bases[row]) // 4):
                raise CorruptBlock(f"the frame holds block {key} of {sequence.size} bytes, not {blocks.key[row]}")
        except CorruptBlock as error:
            raise self._located(error, blocks, row) from error
        return sequence, n_runs, soft_runs

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "index": self.index}  # without the cached table

    def _located(self, error: BadInput, blocks: BlockTable, row: int) -> CorruptBlock:
        location = self.shard_location(str(blocks.shard[row]))
        reason = str(error).removeprefix(f"{location}: ")
        return CorruptBlock(f"{location}: block {blocks.key[row]} at offset {int(blocks.offset[row])}: {reason}")

    @cached_property
    def _all_blocks(self) -> BlockTable:
        import pyarrow as pa
        import pyarrow.parquet as pq

        location = join(self.path, BLOCKS_NAME)
        data = read_range(location, 0, self.index.blocks.bytes)
        if hashlib.sha256(data).hexdigest() != self.index.blocks.sha256:
            raise BadInput(f"{location}: the sha256 differs from the index; copy or build the corpus again")
        # not `read_table`, because it imports pandas if pandas is installed
        table = pq.ParquetFile(pa.BufferReader(data)).read(columns=list(COLUMNS), use_threads=False)
        arrays: dict[str, Any] = {  # through DLPack, because `to_numpy` imports pandas too
            name: np.array(column.to_pylist(), dtype=np.str_)
            if name in TEXT_COLUMNS
            else np.from_dlpack(column.combine_chunks())
            for name, column in zip(table.column_names, table.columns, strict=True)
        }
        return BlockTable(**arrays)


def encode_blocks_table(columns: dict[str, list[Any]]) -> bytes:
    """blocks.parquet as bytes; `columns` are those of `BlockTable`, row order canonical."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    # from buffers, because `pa.array` imports pandas if it is installed, which takes longer than this whole function
    arrays = []
    for name in COLUMNS:
        values = columns[name]
        if name in TEXT_COLUMNS:
            texts = [value.encode() for value in values]
            ends = np.cumsum([0, *map(len, texts)])
            if ends[-1] >= 2**31:
                raise BadInput(f"{len(texts):,} blocks are more than blocks.parquet can name; use larger `block_bases`")
            buffers = [pa.py_buffer(ends.astype("<i4").tobytes()), pa.py_buffer(b"".join(texts))]
        else:
            buffers = [pa.py_buffer(np.array(values, "<i8").tobytes())]
        kind = pa.string() if name in TEXT_COLUMNS else pa.int64()
        arrays.append(pa.Array.from_buffers(kind, len(values), [None, *buffers]))
    table = pa.Table.from_arrays(arrays, names=list(COLUMNS))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())


def _why_not_a_corpus(root: str) -> str:
    if not exists(root):
        return "no such corpus; build one with `dnachunker shard --config sample --output DIR`"
    return f"not a corpus: it has no {INDEX_NAME}"
