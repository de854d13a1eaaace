"""Compares a corpus with its genome files letter by letter."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from dnachunker.dataprep.genomes.genome import Genome
from dnachunker.foundations.failures import BadInput

from .index import Corpus, SourceRecord


def compare_with_fasta(corpus: Corpus, files: Sequence[str]) -> list[str]:
    """One line per block that differs from its genome, in canonical order, with the first wrong base, counted from 1.

    Args:
        files: `SOURCE=PATH` of each genome to compare; the path alone is enough if the corpus has one source.

    Raises:
        BadInput: no such source, no genome file, or a block that cannot be read.
    """
    return [line for item in files for line in _differences(corpus, *_source_and_path(corpus, item))]


def _source_and_path(corpus: Corpus, item: str) -> tuple[SourceRecord, Path]:
    records = {record.name: record for record in corpus.sources}
    name, separator, path = item.partition("=")
    if not separator and len(records) == 1:
        return corpus.sources[0], Path(item)
    if name not in records:
        raise BadInput(f"--fasta {item}: write SOURCE=FILE; the sources of {corpus.path} are {', '.join(records)}")
    return records[name], Path(path)


def _differences(corpus: Corpus, source: SourceRecord, path: Path) -> Iterator[str]:
    table = corpus.blocks()
    rows = np.flatnonzero(table.source == source.name).tolist()
    with Genome(path) as genome:
        for row in rows:
            block = corpus.read_block(table, row)
            end = min(block.end, genome.lengths.get(block.contig, 0))
            found = np.frombuffer(genome.fetch(block.contig, block.start, end).encode(), np.uint8)
            stored = np.frombuffer(block.letters, np.uint8)
            if source.repeats_file_sha256:  # the soft-mask comes from another file: compare without case
                found, stored = found & ~np.uint8(32), stored & ~np.uint8(32)
            if found.size != stored.size:
                yield (
                    f"{path}: {source.name}/{block.contig} has {found.size} bases from {block.start + 1} on where the "
                    f"corpus has {stored.size}"
                )
            elif (wrong := np.flatnonzero(found != stored)).size:
                first = int(wrong[0])
                yield (
                    f"{path}: {source.name}/{block.contig}:{block.start + first + 1} is {chr(found[first])} but "
                    f"{chr(stored[first])} in the corpus; {wrong.size} of the {stored.size} bases of block {block.key} "
                    "differ"
                )
