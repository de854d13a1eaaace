"""Every byte of a corpus checked: file hashes, frame checksums, decoding, and agreement with the index."""

import hashlib
from collections.abc import Iterator

import numpy as np

from dataprep.corpus_index import BlockTable, Corpus, ShardRecord
from dataprep.packed_codes import PACKED_REPEAT_BIT
from dataprep.shard_format import COORDINATES
from dataprep.storage import read_range
from failures import BadInput

_HASH_BYTES = 2**24


def verify_corpus(corpus: Corpus) -> list[str]:
    """One line per fault, in canonical order, each naming the file and, where it can, the offset; [] if sound."""
    try:
        table = corpus.blocks()
    except BadInput as error:
        return [str(error)]
    faults = list(_verify_table(corpus, table))
    for shard in corpus.index.shards:
        own = np.flatnonzero(table.shard == shard.name)
        bad_blocks = [fault for row in own.tolist() if (fault := _verify_block(corpus, table, row))]
        # a bad block explains a bad file; the file's hash speaks only for what lies between and after the blocks
        faults += bad_blocks or _verify_file(corpus, shard)
    return faults


def _verify_table(corpus: Corpus, table: BlockTable) -> Iterator[str]:
    for shard in corpus.index.shards:
        own = table.shard == shard.name
        if np.count_nonzero(own) != shard.samples or int(table.bases[own].sum()) != shard.bases:
            yield f"{corpus.path}: blocks.parquet and index.json disagree about the blocks of {shard.name}"
    unknown = set(np.unique(table.shard).tolist()) - {shard.name for shard in corpus.index.shards}
    for name in sorted(unknown):
        yield f"{corpus.path}: blocks.parquet names shard {name}, which index.json does not list"


def _verify_block(corpus: Corpus, table: BlockTable, row: int) -> str | None:
    try:
        block = corpus.read_block(table, row)
    except BadInput as error:
        return str(error)
    counted = {
        "n_bases": int(np.count_nonzero(block.codes == 4)),
        "soft_masked": int(np.count_nonzero(block.packed & PACKED_REPEAT_BIT)),
        "gc": int(np.count_nonzero((block.codes == 1) | (block.codes == 2))),
    }
    found = {name: getattr(block, name) for name in COORDINATES} | counted
    for name, value in found.items():
        listed = getattr(table, name)[row]
        if listed != value:
            where = f"{corpus.shard_location(str(table.shard[row]))}: block {block.key} at offset {table.offset[row]}"
            return f"{where}: {name} is {value}, blocks.parquet says {listed}"
    return None


def _verify_file(corpus: Corpus, shard: ShardRecord) -> list[str]:
    location = corpus.shard_location(shard.name)
    digest = hashlib.sha256()
    try:
        for offset in range(0, shard.bytes, _HASH_BYTES):
            digest.update(read_range(location, offset, min(_HASH_BYTES, shard.bytes - offset)))
        if _has_more(location, shard.bytes):
            return [f"{location}: longer than the {shard.bytes} bytes the index lists"]
    except BadInput as error:
        return [str(error)]
    return [] if digest.hexdigest() == shard.sha256 else [f"{location}: its sha256 differs from the index"]


def _has_more(location: str, size: int) -> bool:
    try:
        read_range(location, size, 1)
    except BadInput:
        return False
    return True
