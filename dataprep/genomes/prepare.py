"""Prepares genomes: checks a FASTA or .2bit file once and writes it in a form with random access to any stretch."""

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from .decompress import first_piece, is_twobit, read_plain
from .fasta_scan import FastaScan
from .input_file import hash_file
from .prepared_sequence import (
    BASES,
    EDGES,
    Contig,
    PreparedWriter,
    Runs,
    Stretch,
    n_runs,
    prepared_bytes,
    read_stretch,
    replace_soft_mask,
)
from .repeats import RepeatSource, read_repeats
from .twobit import read_twobit

_RECORD = ".json"


@dataclass(frozen=True)
class PreparedGenome:
    """A checked genome and the place of its prepared files; plain data, sent between processes.

    Attributes:
        path: the FASTA or .2bit file as given.
        stem: path of the two prepared files without their suffix; see `prepared_sequence`.
        bytes, sha256: of the file at `path` (of the compressed bytes, if it is compressed).
        ambiguous: letters read as N that were not written N -> how many.
        empty_records: number of headers without sequence; these are not in `contigs`.
        repeats_sha256: of the file of repeats that replaced the soft-mask; None without such a file.
    """

    path: str
    stem: str
    bytes: int
    sha256: str
    contigs: tuple[Contig, ...]
    ambiguous: dict[str, int]
    empty_records: int
    repeats_sha256: str | None = None

    @property
    def file(self) -> str:
        return Path(self.path).name

    @property
    def is_here(self) -> bool:
        """Whether the prepared files are on this machine and complete."""
        sizes = prepared_bytes(self.contigs)
        try:
            return tuple(os.path.getsize(f"{self.stem}{suffix}") for suffix in (BASES, EDGES)) == sizes
        except OSError:
            return False

    def read(self, contig: Contig, start: int, end: int) -> Stretch:
        """Bases start..end (0-based, half-open) of `contig`."""
        return read_stretch(Path(self.stem), contig, start, end)

    def n_runs(self, contig: Contig) -> Runs:
        """(k, 2) int64 start,end of every run of N of `contig`."""
        return n_runs(Path(self.stem), contig)


def glance(path: Path) -> None:
    """Look at the start of a genome file.

    Raises:
        BadInput: the file is missing, empty, unreadable, or in an unsupported compression.
    """
    if not is_twobit(path):
        first_piece(path)


def prepare_genome(path: Path, folder: Path, repeats: RepeatSource | None = None) -> PreparedGenome:
    """Check the genome at `path` and write its prepared files into `folder`; complete files from before are reused.

    The prepared files are named by the sha256 of the genome and of the repeats.

    Args:
        repeats: a file of repeats that replaces the genome's own soft-mask.

    Raises:
        BadInput: the genome is not a nucleotide FASTA or .2bit, or `repeats` is malformed; `folder` is unchanged.
    """
    repeats_digest = hash_file(Path(repeats.path))[0] if repeats else None
    with ThreadPoolExecutor(1) as beside, tempfile.TemporaryDirectory(dir=folder) as work:
        hashing = beside.submit(hash_file, path)
        done_before = any(folder.glob(f"*{_RECORD}"))  # otherwise decoding need not wait for the hash
        if done_before and (prepared := _reuse(_stem(folder, hashing.result()[0], repeats, repeats_digest), path)):
            return prepared
        part = Path(work) / "genome"
        contigs, ambiguous = decode_genome(path, part)
        used = [contig for contig in contigs if contig.length]
        if repeats:
            used = replace_soft_mask(part, used, read_repeats(repeats, {c.name: c.length for c in used}))
        digest, size = hashing.result()
        stem = _stem(folder, digest, repeats, repeats_digest)
        for suffix in (EDGES, BASES):  # in this order: a process that sees the bases finds the edges too
            os.replace(part.with_suffix(suffix), stem.with_suffix(suffix))
        prepared = PreparedGenome(
            path=str(path),
            stem=str(stem),
            bytes=size,
            sha256=digest,
            contigs=tuple(used),
            ambiguous=dict(ambiguous),
            empty_records=len(contigs) - len(used),
            repeats_sha256=repeats_digest,
        )
        record = part.with_suffix(_RECORD)
        record.write_text(json.dumps(asdict(prepared)), "utf-8")
        os.replace(record, stem.with_suffix(_RECORD))
    return prepared


def decode_genome(path: Path, part: Path) -> tuple[Sequence[Contig], Mapping[str, int]]:
    """Check a FASTA or .2bit file and write its prepared files, whose path without a suffix is `part`.

    Returns:
        All contigs, empty ones too, and the letters that became N -> how many.

    Raises:
        BadInput: the file is missing, damaged, or not a nucleotide FASTA or .2bit.
    """
    with PreparedWriter(part) as sink:
        if is_twobit(path):
            read_twobit(path, sink)
            return sink.contigs, {}
        scan = FastaScan(path, sink)
        for piece in read_plain(path):
            scan.feed(piece)
        scan.finish()
        return sink.contigs, scan.ambiguous


def _stem(folder: Path, digest: str, repeats: RepeatSource | None, repeats_digest: str | None) -> Path:
    return folder / (f"{digest}-{repeats.kind}-{repeats_digest}" if repeats else digest)


def _reuse(stem: Path, path: Path) -> PreparedGenome | None:
    try:
        values = json.loads(stem.with_suffix(_RECORD).read_text("utf-8"))
        values["contigs"] = tuple(Contig(**contig) for contig in values["contigs"])
        # the record holds the paths of an earlier run
        prepared = PreparedGenome(**(values | {"path": str(path), "stem": str(stem)}))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return prepared if prepared.is_here else None
