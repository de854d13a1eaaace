"""Reads a split of a corpus through a stock `webdataset` pipeline, for training code that is not ours.

webdataset cannot open `.tar.zst`, and does not notice that a shard is truncated. The pipeline's first and last parts,
defined here, open the shards and compare sizes and counts with the index. webdataset decides order, shuffling and
resumption.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import zstandard

from dnachunker.dataprep.storage import is_url
from dnachunker.foundations.failures import BadInput

from .index import Corpus, ShardRecord
from .shard_format import MEMBER_SUFFIXES, Block, members_to_block


def webdataset_split(corpus: Corpus, split: str, *, shuffle_shards: int = 0, seed: int = 0) -> Any:
    """A `webdataset.DataPipeline` over `Block`s, shard by shard, divided among ranks and loader workers.

    Args:
        shuffle_shards: size of webdataset's shard shuffle buffer; 0 keeps the canonical order.

    Raises:
        BadInput: no such split; or, while iterating, a shard is missing, truncated, or has too few samples.
    """
    os.environ.setdefault("WDS_SECURE", "1")  # no `pipe:` commands, no pickles; read when webdataset is imported
    import webdataset
    from webdataset.tariterators import group_by_keys, tar_file_expander

    if split not in corpus.splits:
        raise BadInput(f"{corpus.path}: no split {split!r}; it has {', '.join(corpus.splits)}")
    shards = {corpus.shard_location(s.name): s for s in corpus.index.shards if s.split == split}
    parts: list[Any] = [_Shards(list(shards)), webdataset.split_by_node, webdataset.split_by_worker]
    if shuffle_shards:
        parts.append(webdataset.shuffle(shuffle_shards, initial=shuffle_shards, seed=seed))
    parts += [_Open(shards), tar_file_expander, group_by_keys, _Decode(shards)]
    return webdataset.DataPipeline(*parts)


def open_shard(location: str, expected_bytes: int | None = None) -> IO[bytes]:
    """A shard, at a path or URL, as a plain tar stream.

    The size is checked first, since the zstd reader does not notice a truncated frame.

    Raises:
        BadInput: the shard is missing, or not `expected_bytes` long.
    """
    try:
        if is_url(location):
            import fsspec

            handle = fsspec.open(location, "rb").open()
            size = handle.size
        else:
            handle = open(location, "rb")  # noqa: SIM115 - the zstd reader closes it
            size = Path(location).stat().st_size
    except FileNotFoundError as error:
        raise BadInput(f"{location}: no such shard, but the index lists it") from error
    if expected_bytes is not None and size != expected_bytes:
        handle.close()
        raise BadInput(f"{location}: {size} bytes where the index promises {expected_bytes}")
    stream: IO[bytes] = zstandard.ZstdDecompressor().stream_reader(handle, read_across_frames=True, closefd=True)
    return stream


class _Shards:
    """The first part of the pipeline: yields one record per shard."""

    def __init__(self, locations: list[str]) -> None:
        self.locations = locations

    def __call__(self) -> Iterator[dict[str, Any]]:
        for location in self.locations:
            yield {"url": location}


class _Open:
    def __init__(self, shards: dict[str, ShardRecord]) -> None:
        self.shards = shards

    def __call__(self, source: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for record in source:
            with open_shard(record["url"], self.shards[record["url"]].bytes) as stream:
                yield record | {"stream": stream}


class _Decode:
    """The last part of the pipeline: turns samples into blocks, and raises if a shard ends early."""

    def __init__(self, shards: dict[str, ShardRecord]) -> None:
        self.shards = shards

    def __call__(self, source: Iterable[dict[str, Any]]) -> Iterator[Block]:
        current, seen = "", 0
        for sample in source:
            if sample["__url__"] != current:
                self._check(current, seen)
                current, seen = sample["__url__"], 0
            seen += 1
            yield members_to_block(sample["__key__"], {suffix: sample.get(suffix, b"") for suffix in MEMBER_SUFFIXES})
        self._check(current, seen)

    def _check(self, location: str, seen: int) -> None:
        if location and seen != self.shards[location].samples:
            raise BadInput(f"{location}: {seen} samples where the index promises {self.shards[location].samples}")
