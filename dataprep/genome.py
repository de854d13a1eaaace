"""Genomes of a build: checked FASTA or .2bit files with random access to the packed codes of any stretch.

A plain FASTA file with even lines is read where it lies; anything else is decoded once into the build folder.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dataprep.decompress import is_plain, is_twobit, read_plain
from dataprep.fasta_index import LineGrid, read_letters
from dataprep.fasta_scan import Contig, FastaScan, pack_letters
from dataprep.repeats import RepeatSource, mark_repeats
from dataprep.twobit import read_twobit
from failures import BadInput

_CODES, _INDEX = ".codes", ".fai"
_PACKED_NAMES = (".gz", ".bgz", ".bz2", ".zip", ".zst")


@dataclass(frozen=True)
class StagedGenome:
    """A checked genome file, and where its packed codes lie; plain data, sent between processes.

    Attributes:
        path, mtime_ns: the FASTA or .2bit file as given.
        store: `.codes` file of uint8 packed codes, contigs one after another; or `.fai` index of the FASTA file itself.
        bytes, sha256: of the file (compressed, if it is).
        ambiguous: letters counted as N that were not N -> how many.
        empty_records: headers without sequence, which are not in `contigs`.
        repeats_sha256: of the file of repeats that was marked in the store, if one was.
    """

    path: str
    mtime_ns: int
    store: str
    bytes: int
    sha256: str
    contigs: tuple[Contig, ...]
    ambiguous: dict[str, int]
    empty_records: int
    repeats_sha256: str | None = None

    @property
    def file(self) -> str:
        return Path(self.path).name

    def read(self, contig: Contig, start: int, end: int) -> NDArray[np.uint8]:
        """(end - start,) uint8 packed codes of a 0-based, half-open stretch of `contig`.

        Raises:
            BadInput: the FASTA file changed after it was checked.
        """
        if self.store.endswith(_INDEX):
            letters = b""
            if _modified(Path(self.path)) == self.mtime_ns:
                letters = read_letters(self.path, self.store, contig.name, start, end)
            codes = np.frombuffer(pack_letters(letters), np.uint8)
        else:
            codes = np.fromfile(self.store, np.uint8, end - start, offset=contig.offset + start)
        if codes.size != end - start:
            raise BadInput(f"{self.path}: changed while the corpus was being built; run this again")
        return codes


def glance(path: Path) -> None:
    """Look at the start of a genome file.

    Raises:
        BadInput: missing, empty, unreadable, or compressed in a way this does not read.
    """
    if not is_twobit(path):
        next(read_plain(path))


def stage_genome(path: Path, folder: Path, repeats: RepeatSource | None = None) -> StagedGenome:
    """Check the genome at `path` and stage it in `folder`, named by its sha256; done before, it is reused.

    Args:
        repeats: a file of repeats that replaces the genome's own soft-mask.

    Raises:
        BadInput: the file is not a nucleotide FASTA or .2bit, or not one of repeats; nothing stays in `folder`.
    """
    modified = _modified(path)
    digest, size = hash_file(path)
    repeats_digest = hash_file(Path(repeats.path))[0] if repeats else None
    stem = f"{digest}-{repeats.kind}-{repeats_digest}" if repeats else digest
    record = folder / f"{stem}.json"
    if staged := _reuse(record, path, modified):
        return staged
    store = folder / f"{stem}{_INDEX}"
    # pyfaidx takes a name in .gz for bgzip, whatever is inside
    in_place = is_plain(path) and not is_twobit(path) and path.suffix.lower() not in _PACKED_NAMES
    scan = _index(path, store) if in_place and not repeats else None
    if scan is None:
        store = folder / f"{stem}{_CODES}"
        scan = _decode(path, store, repeats)
    contigs = tuple(contig for contig in scan.contigs if contig.length)
    staged = StagedGenome(
        path=str(path),
        mtime_ns=modified,
        store=str(store),
        bytes=size,
        sha256=digest,
        contigs=contigs,
        ambiguous=dict(scan.ambiguous),
        empty_records=len(scan.contigs) - len(contigs),
        repeats_sha256=repeats_digest,
    )
    part = record.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(asdict(staged)), "utf-8")
    os.replace(part, record)
    return staged


@dataclass(frozen=True)
class _Scan:
    """What reading a file through has shown."""

    contigs: Sequence[Contig]
    ambiguous: Mapping[str, int]


def _index(path: Path, store: Path) -> _Scan | None:
    """Check a plain file and write its `.fai`; None, and nothing written, if its lines are uneven."""
    grid = LineGrid()
    scan = FastaScan(path, grid=grid)
    for chunk in read_plain(path):
        scan.feed(chunk)
    scan.finish()
    if not grid.uniform:
        return None
    grid.write(store)
    return _Scan(scan.contigs, scan.ambiguous)


def _decode(path: Path, store: Path, repeats: RepeatSource | None) -> _Scan:
    """Check a file of any kind and write its packed codes."""
    part = store.with_suffix(f".{os.getpid()}.part")
    try:
        with open(part, "wb", buffering=2**22) as sink:
            if is_twobit(path):
                found = _Scan(read_twobit(path, sink), {})
            else:
                scan = FastaScan(path, sink=sink)
                for chunk in read_plain(path):
                    scan.feed(chunk)
                scan.finish()
                found = _Scan(scan.contigs, scan.ambiguous)
        if repeats:
            mark_repeats(part, found.contigs, repeats)
        os.replace(part, store)
    finally:
        part.unlink(missing_ok=True)
    return found


def hash_file(path: Path) -> tuple[str, int]:
    """sha256 and size of a user's file.

    Raises:
        BadInput: missing or unreadable.
    """
    try:
        with open(path, "rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest(), os.fstat(handle.fileno()).st_size
    except FileNotFoundError as error:
        raise BadInput(f"{path}: no such file; check the path in the config") from error
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from error


def _modified(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError as error:
        raise BadInput(f"{path}: no such file; check the path in the config") from error


def _reuse(record: Path, path: Path, modified: int) -> StagedGenome | None:
    try:
        values = json.loads(record.read_text("utf-8"))
        values["contigs"] = tuple(Contig(**contig) for contig in values["contigs"])
        # the content is the same, but both files may have moved
        store = record.with_suffix(Path(values["store"]).suffix)
        staged = StagedGenome(**(values | {"path": str(path), "mtime_ns": modified, "store": str(store)}))
        if store.suffix == _CODES:
            complete = store.stat().st_size == sum(contig.length for contig in staged.contigs)
        else:
            complete = store.is_file() and is_plain(path)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return staged if complete else None
