"""Random access to the letters of a genome file in any format that a corpus is built from."""

import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from dnachunker.dataprep.packed_codes import LETTERS, mark_n, mark_soft, unpack_bases

from .prepare import decode_genome
from .prepared_sequence import close_files, read_stretch


class Genome:
    """Contigs of a genome file by name; the file is read as `dnachunker shard` reads it.

    FASTA (plain, gzip, bgzip or zstd) and .2bit are recognised by content. The whole file is checked once and written
    with 2 bits a base to a temporary folder, which is removed when the genome is closed.

    Attributes:
        path: as given.
        lengths: contig -> length in bases, in the order of the file; records without sequence are left out.

    Raises:
        BadInput: no such file; not a genome file; a damaged or truncated file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._folder = tempfile.TemporaryDirectory(prefix="dnachunker-genome-")
        self._stem = Path(self._folder.name) / "genome"
        try:
            contigs, _ = decode_genome(path, self._stem)
        except BaseException:
            self._folder.cleanup()
            raise
        self._contigs = {contig.name: contig for contig in contigs if contig.length}
        self.lengths = {name: contig.length for name, contig in self._contigs.items()}

    def fetch(self, contig: str, start: int, end: int) -> str:
        """Letters of [start, end), which must lie within the contig.

        The letters are A, C, G, T and N (for any other letter of the file), lower case where soft-masked.
        """
        if end <= start:
            return ""
        stretch = read_stretch(self._stem, self._contigs[contig], start, end)
        codes = unpack_bases(stretch.bases, stretch.length).copy()
        mark_n(codes, stretch.n_runs)
        mark_soft(codes, stretch.soft_runs)
        return codes.tobytes().translate(LETTERS).decode("ascii")

    def close(self) -> None:
        """Remove the temporary folder."""
        close_files()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
