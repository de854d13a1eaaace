"""Encodes one block of a corpus as bytes, a zstd frame that holds four tar members, and decodes it.

The members of a block with key KEY, in this order:

    KEY.seq   bases, 2 bits each (A0 C1 G2 T3, any other letter 0), 4 a byte, first base in the two high bits
    KEY.n     runs of letters other than ACGT, little-endian uint32 pairs start,end relative to the block
    KEY.rep   runs of soft-masked (lower-case) letters, in the same form
    KEY.json  coordinates

Frames concatenate to a legal `.tar.zst`; docs/data_format.md is the full description.
"""

import json
import re
import tarfile
import threading
import zlib
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from dnachunker.dataprep.packed_codes import (
    LETTERS,
    PACKED_REPEAT_BIT,
    RUN_DTYPE,
    find_runs,
    mark_n,
    mark_soft,
    pack_bases,
    unpack_bases,
)
from dnachunker.foundations.failures import BadInput
from dnachunker.model.alphabet import CODE_N

MEMBER_SUFFIXES = ("seq", "n", "rep", "json")
KEY_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,90}")  # no dot (WebDataset splits names at the first one), no slash
MAX_BLOCK_BASES = 2**26

_TAR_RECORD = 512
_TAR_BLOCKING = 10_240  # `tar` pads an archive to a multiple of this
# 0.25 bytes a base, and 8 for a run: N and soft-mask may each have a run every second base
_MAX_DECODED_BYTES = 9 * MAX_BLOCK_BASES


class CorruptBlock(BadInput):
    """The bytes of a block are not what the writer wrote; the caller that read them adds shard and offset."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """A stretch of one contig with its letters and annotations.

    Attributes:
        start, end: 0-based, half-open, on the contig.
        codes: (bases,) uint8, 0-3 for ACGT, 4 for any other letter.
        n_runs: (k, 2) uint32, start and end of each maximal run of code 4, relative to the block.
        soft_runs: (k, 2) uint32, the same for soft-masked letters.
    """

    key: str
    split: str
    source: str
    species: str
    clade: str
    assembly: str
    contig: str
    start: int
    end: int
    codes: NDArray[np.uint8]
    n_runs: NDArray[np.uint32]
    soft_runs: NDArray[np.uint32]

    @property
    def bases(self) -> int:
        return self.end - self.start

    @property
    def packed(self) -> NDArray[np.uint8]:
        """(bases,) uint8: codes | PACKED_REPEAT_BIT where soft-masked."""
        packed = self.codes.copy()
        mark_soft(packed, self.soft_runs)
        return packed

    @property
    def letters(self) -> bytes:
        """The FASTA letters: ACGTN, lower case where soft-masked."""
        return self.packed.tobytes().translate(LETTERS)


# the fields of KEY.json; `key` is not among them, since it is the member name itself
COORDINATES = tuple(field.name for field in fields(Block) if field.name not in ("key", "codes", "n_runs", "soft_runs"))
_per_thread = threading.local()


def block_from_packed(packed: NDArray[np.uint8], **coordinates: Any) -> Block:
    """A block from (bases,) uint8 packed codes; `coordinates` are `key` and the fields in `COORDINATES`."""
    codes = packed & np.uint8(PACKED_REPEAT_BIT - 1)
    return Block(
        codes=codes,
        n_runs=find_runs(codes >= CODE_N),
        soft_runs=find_runs(packed >= PACKED_REPEAT_BIT),
        **coordinates,
    )


def encode_block(block: Block, level: int = 3) -> tuple[bytes, int]:
    """One zstd frame with checksum and content size, and the length of the tar stream in it, in bytes.

    Raises:
        ValueError: the format does not allow the key or the length (a bug of the caller).
    """
    if block.codes.size != block.bases:
        raise ValueError(f"{block.key}: {block.codes.size} codes for {block.bases} bases")
    coordinates = {name: getattr(block, name) for name in COORDINATES}
    return encode_parts(block.key, coordinates, pack_bases(block.codes), block.n_runs, block.soft_runs, level)


def encode_parts(
    key: str,
    coordinates: dict[str, Any],
    sequence: bytes,
    n_runs: NDArray[np.uint32],
    soft_runs: NDArray[np.uint32],
    level: int,
) -> tuple[bytes, int]:
    """As `encode_block`, for a block with a 2-bit `sequence`; `coordinates` has the names of `COORDINATES`.

    Raises:
        ValueError: as `encode_block`.
    """
    bases = coordinates["end"] - coordinates["start"]
    if not KEY_PATTERN.fullmatch(key) or not 0 < bases <= MAX_BLOCK_BASES or len(sequence) != -(-bases // 4):
        raise ValueError(f"not a legal block: key {key!r}, {bases} bases, {len(sequence)} bytes of sequence")
    members = (
        sequence,
        n_runs.astype(RUN_DTYPE).tobytes(),
        soft_runs.astype(RUN_DTYPE).tobytes(),
        json.dumps(coordinates, sort_keys=True, separators=(",", ":")).encode("ascii"),
    )
    pieces: list[bytes] = []
    for suffix, data in zip(MEMBER_SUFFIXES, members, strict=True):
        pieces += (_tar_header(f"{key}.{suffix}", len(data)), data, bytes(-len(data) % _TAR_RECORD))
    stream = b"".join(pieces)
    return _compress(stream, level), len(stream)


def encode_end_of_archive(tar_bytes: int, level: int = 3) -> bytes:
    """The last frame of a shard whose blocks hold `tar_bytes`: two zero records, padded to tar's blocking."""
    zeros = 2 * _TAR_RECORD
    return _compress(bytes(zeros + -(tar_bytes + zeros) % _TAR_BLOCKING), level)


def decode_block(frame: bytes, *, crc32: int | None = None) -> Block:
    """The block in one frame; every rule of the format is checked.

    Args:
        crc32: of the frame, from blocks.parquet; detects flipped bits that zstd ignores.

    Raises:
        CorruptBlock: the frame is truncated, altered, or not a block at all.
    """
    key, coordinates, bases, n_runs, soft_runs = decode_members(frame, crc32)
    length = coordinates["end"] - coordinates["start"]
    codes = unpack_bases(bases, length)
    mark_n(codes, n_runs)
    return Block(key=key, codes=codes, n_runs=n_runs, soft_runs=soft_runs, **coordinates)


def check_end_of_archive(frame: bytes) -> None:
    """Check that a frame is an end of archive as `encode_end_of_archive` writes it.

    Raises:
        CorruptBlock: the frame is something else.
    """
    stream = _decompress(frame)
    if len(stream) < 2 * _TAR_RECORD or any(stream):
        raise CorruptBlock("the frame after the last block is not the end of a tar archive")


def members_to_block(key: str, members: dict[str, bytes]) -> Block:
    """A block from its four members by suffix, as a WebDataset reader delivers them.

    Raises:
        CorruptBlock: a member is missing or its content breaks the format.
    """
    if missing := [suffix for suffix in MEMBER_SUFFIXES if suffix not in members]:
        raise CorruptBlock(f"block {key}: member {missing[0]} is missing")
    coordinates, bases, n_runs, soft_runs = _check_members(key, [members[suffix] for suffix in MEMBER_SUFFIXES])
    codes = unpack_bases(bases, coordinates["end"] - coordinates["start"])
    mark_n(codes, n_runs)
    return Block(key=key, codes=codes, n_runs=n_runs, soft_runs=soft_runs, **coordinates)


Members = tuple[dict[str, Any], NDArray[np.uint8], NDArray[np.uint32], NDArray[np.uint32]]


def decode_members(
    frame: bytes, crc32: int | None = None
) -> tuple[str, dict[str, Any], NDArray[np.uint8], NDArray[np.uint32], NDArray[np.uint32]]:
    """Key, coordinates, 2-bit bytes, runs of N, runs of soft-masked letters; all checked, but bases not unpacked.

    Raises:
        CorruptBlock: as `decode_block`.
    """
    if crc32 is not None and zlib.crc32(frame) != crc32:
        raise CorruptBlock("the frame's CRC-32 differs from the index: the shard was altered, or is of another corpus")
    stream = _decompress(frame)
    key, members = _split_tar(stream)
    return key, *_check_members(key, members)


def _decompress(frame: bytes) -> bytes:
    try:
        parameters = zstandard.get_frame_parameters(frame)
        if not parameters.has_checksum or not 0 < parameters.content_size <= _MAX_DECODED_BYTES:
            raise CorruptBlock("not a block's frame: it has no checksum or no possible content size")
        if not hasattr(_per_thread, "decompressor"):  # a decompressor must not be shared between threads
            _per_thread.decompressor = zstandard.ZstdDecompressor()
        stream: bytes = _per_thread.decompressor.decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CorruptBlock(f"the zstd frame does not decode: {error}") from error
    if len(stream) != parameters.content_size:
        raise CorruptBlock(f"the zstd frame decodes to {len(stream)} bytes of {parameters.content_size}")
    return stream


def _split_tar(stream: bytes) -> tuple[str, list[bytes]]:
    """The key and the contents of the members; the frame's checksum already covers the tar headers' checksums."""
    key = ""
    members: list[bytes] = []
    position = 0
    for suffix in MEMBER_SUFFIXES:
        header = stream[position : position + _TAR_RECORD]
        try:
            name = header[:100].rstrip(b"\0").decode("ascii")
            size = int(header[124:136].rstrip(b" \0"), 8)
        except ValueError as error:
            raise CorruptBlock(f"no tar header where member {suffix} should start") from error
        stem, _, found = name.partition(".")
        if found != suffix or not KEY_PATTERN.fullmatch(stem) or (key and stem != key):
            raise CorruptBlock(f"tar member {name!r} where {key or 'KEY'}.{suffix} should be")
        key = stem
        position += _TAR_RECORD
        members.append(stream[position : position + size])
        position += size + -size % _TAR_RECORD
    if position != len(stream):
        raise CorruptBlock(f"block {key}: {len(stream)} bytes of tar where its members take {position}")
    return key, members


def _check_members(key: str, members: list[bytes]) -> Members:
    sequence, n_bytes, soft_bytes, document = members
    try:
        coordinates = json.loads(document)
        known = {name: coordinates[name] for name in COORDINATES}  # ignores names that later versions may add
        if not isinstance(known["start"], int) or not isinstance(known["end"], int):
            raise ValueError("start and end must be whole numbers")
        length = known["end"] - known["start"]
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptBlock(f"block {key}: bad coordinates in its json member: {error}") from error
    if not 0 < length <= MAX_BLOCK_BASES or known["start"] < 0 or len(sequence) != -(-length // 4):
        raise CorruptBlock(f"block {key}: {len(sequence)} sequence bytes for {length} bases")
    n_runs = _check_runs(key, "n", n_bytes, length)
    soft_runs = _check_runs(key, "rep", soft_bytes, length)
    return known, np.frombuffer(sequence, np.uint8), n_runs, soft_runs


def _check_runs(key: str, suffix: str, data: bytes, length: int) -> NDArray[np.uint32]:
    if len(data) % 8:
        raise CorruptBlock(f"block {key}: member {suffix} is not a list of uint32 pairs")
    edges = np.frombuffer(data, RUN_DTYPE)
    # strictly increasing edges: every run is non-empty and ends before the next one starts
    if edges.size and (edges[-1] > length or not np.all(edges[1:] > edges[:-1])):
        raise CorruptBlock(f"block {key}: the runs of member {suffix} overlap or leave the block")
    return edges.reshape(-1, 2)


def _compress(stream: bytes, level: int) -> bytes:
    return zstandard.ZstdCompressor(level=level, write_checksum=True, write_content_size=True).compress(stream)


def _tar_header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)  # mtime, uid and gid are 0 and names are empty by default
    member.size = size
    return member.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")
