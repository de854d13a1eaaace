"""Compares a corpus with its FASTA files letter by letter; reads them with pyfaidx, which shares no code with us."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyfaidx

from dnachunker.foundations.failures import BadInput

from .index import Corpus, SourceRecord

# letters as a corpus stores them: A, C, G and T stay, any other letter becomes N, and the case is kept
_KEPT = bytes(c if chr(c) in "ACGTacgt" else ord("n") if chr(c).islower() else ord("N") for c in range(256))


def compare_with_fasta(corpus: Corpus, files: Sequence[str]) -> list[str]:
    """One line per block that differs from its genome, in canonical order, with the first wrong coordinate.

    The files must allow random access: plain FASTA, or bgzip if Biopython is installed. pyfaidx writes its index into a
    temporary folder.

    Args:
        files: `SOURCE=PATH` of each genome to compare; the path alone is enough if the corpus has one source.

    Raises:
        BadInput: no such source or file, a file without random access, or a block that cannot be read.
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
    with tempfile.TemporaryDirectory() as folder, _open(path, folder) as fasta:
        for row in rows:
            block = corpus.read_block(table, row)
            letters = fasta[block.contig][block.start : block.end] if block.contig in fasta else ""
            found = np.frombuffer(letters.encode("ascii", "replace").translate(_KEPT), np.uint8)
            stored = np.frombuffer(block.letters, np.uint8)
            if source.repeats_file_sha256:  # the soft-mask comes from another file: compare without case
                found, stored = found & ~np.uint8(32), stored & ~np.uint8(32)
            if found.size != stored.size:
                yield (
                    f"{path}: {source.name}/{block.contig} has {found.size} bases from {block.start} on where the "
                    f"corpus has {stored.size}"
                )
            elif (wrong := np.flatnonzero(found != stored)).size:
                first = int(wrong[0])
                yield (
                    f"{path}: {source.name}/{block.contig}:{block.start + first} is {chr(found[first])} but "
                    f"{chr(stored[first])} in the corpus; {wrong.size} of the {stored.size} bases of block {block.key} "
                    "differ"
                )


def _open(path: Path, folder: str) -> pyfaidx.Fasta:
    try:
        return pyfaidx.Fasta(str(path), indexname=f"{folder}/index.fai", as_raw=True)
    except (pyfaidx.FastaNotFoundError, FileNotFoundError) as error:
        raise BadInput(f"{path}: no such file") from error
    except (pyfaidx.UnsupportedCompressionFormat, ImportError) as error:
        raise BadInput(f"{path}: a gzip file has no random access; decompress it first") from error
    except (pyfaidx.FastaIndexingError, ValueError, OSError) as error:
        raise BadInput(f"{path}: pyfaidx cannot index it: {' '.join(str(error).split())}") from error
