"""Checks every byte of a corpus: file hashes, frame checksums, decoding, and agreement with the index.

Shards are checked in threads: reading, checksums and decompression release the interpreter lock.
"""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from dnachunker.dataprep.base_loops import count_gc
from dnachunker.dataprep.packed_codes import run_bases
from dnachunker.dataprep.storage import is_url, read_range, size_of
from dnachunker.foundations.failures import BadInput

from .index import BlockTable, Corpus, ShardRecord
from .shard_format import COORDINATES, CorruptBlock, decode_members

_HASH_BYTES = 2**24
_REMOTE_THREADS = 16  # at a URL, waiting takes longer than checking


def verify_corpus(corpus: Corpus, *, threads: int | None = None) -> list[str]:
    """One line per fault, in canonical order, with the file and, where known, the offset; [] without faults.

    Args:
        threads: shards checked at the same time; default: number of cores, or 16 for a corpus at a URL.
    """
    try:
        table = corpus.blocks()
    except BadInput as error:
        return [str(error)]
    if threads is None:
        threads = _REMOTE_THREADS if is_url(corpus.path) else len(os.sched_getaffinity(0))
    rows = _rows_by_shard(table)
    none = np.empty(0, np.int64)

    def check(shard: ShardRecord) -> list[str]:
        return _verify_shard(corpus, table, shard, rows.get(shard.name, none))

    faults = list(_verify_table(corpus, table, rows))
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        return faults + [fault for found in pool.map(check, corpus.index.shards) for fault in found]


def _rows_by_shard(table: BlockTable) -> dict[str, NDArray[np.int64]]:
    names, numbers = np.unique(table.shard, return_inverse=True)
    order = np.argsort(numbers, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(numbers, minlength=len(names)))[:-1]) if len(names) else []
    return dict(zip(names.tolist(), parts, strict=True))


def _verify_table(corpus: Corpus, table: BlockTable, rows: dict[str, NDArray[np.int64]]) -> Iterator[str]:
    listed = {shard.name for shard in corpus.index.shards}
    for shard in corpus.index.shards:
        own = rows.get(shard.name, np.empty(0, np.int64))
        if len(own) != shard.samples or int(table.bases[own].sum()) != shard.bases:
            yield f"{corpus.path}: blocks.parquet and index.json disagree about the blocks of {shard.name}"
    for name in sorted(set(rows) - listed):
        yield f"{corpus.path}: blocks.parquet names shard {name}, which index.json does not list"


def _verify_shard(corpus: Corpus, table: BlockTable, shard: ShardRecord, rows: NDArray[np.int64]) -> list[str]:
    location = corpus.shard_location(shard.name)
    size = size_of(location)
    if size < 0:
        return [f"{location}: no such file, but the index lists it; the corpus is incomplete"]
    faults = [fault for row in rows.tolist() if (fault := _verify_block(corpus, table, row))]
    if size > shard.bytes:
        faults.append(
            f"{location}: {size - shard.bytes} bytes too many at offset {shard.bytes}, where the shard should end"
        )
    # the file's hash is needed only if all blocks are good: it checks the bytes between and after them
    return faults or _verify_file(location, shard)


def _verify_block(corpus: Corpus, table: BlockTable, row: int) -> str | None:
    where = f"{corpus.shard_location(str(table.shard[row]))}: block {table.key[row]} at offset {int(table.offset[row])}"
    try:
        frame = corpus.read_frame(table, row)
    except BadInput as error:
        return str(error)
    try:
        key, found, sequence, n_runs, soft_runs = decode_members(frame, crc32=int(table.crc32[row]))
    except CorruptBlock as error:
        return f"{where}: {error}"
    found |= {
        "key": key,
        "bases": found["end"] - found["start"],
        "n_bases": run_bases(n_runs),
        "soft_masked": run_bases(soft_runs),
        "gc": count_gc(sequence),
    }
    for name in ("key", *COORDINATES, "bases", "n_bases", "soft_masked", "gc"):
        listed = getattr(table, name)[row]
        if listed != found[name]:
            return f"{where}: {name} is {found[name]} but {listed} in blocks.parquet"
    return None


def _verify_file(location: str, shard: ShardRecord) -> list[str]:
    digest = hashlib.sha256()
    try:
        for offset in range(0, shard.bytes, _HASH_BYTES):
            digest.update(read_range(location, offset, min(_HASH_BYTES, shard.bytes - offset)))
    except BadInput as error:
        return [str(error)]
    return [] if digest.hexdigest() == shard.sha256 else [f"{location}: the sha256 differs from the index"]
