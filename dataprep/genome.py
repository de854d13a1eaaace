"""Genomes of a build: checked FASTA files with random access to the packed codes of any stretch.

A plain file with even lines is read where it lies; anything else is decompressed once into the build folder.
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dataprep.decompress import is_plain, read_plain
from dataprep.fasta_index import LineGrid, read_letters
from dataprep.fasta_scan import Contig, FastaScan, pack_letters
from failures import BadInput

_CODES, _INDEX = ".codes", ".fai"
_PACKED_NAMES = (".gz", ".bgz", ".bz2", ".zip")


@dataclass(frozen=True)
class StagedGenome:
    """A checked FASTA file, and where its packed codes lie; plain data, sent between processes.

    Attributes:
        path, mtime_ns: the FASTA file as given.
        store: `.codes` file of uint8 packed codes, contigs one after another; or `.fai` index of the FASTA file itself.
        bytes, sha256: of the FASTA file (compressed, if it is).
        ambiguous: letters counted as N that were not N -> how many.
        empty_records: headers without sequence, which are not in `contigs`.
    """

    path: str
    mtime_ns: int
    store: str
    bytes: int
    sha256: str
    contigs: tuple[Contig, ...]
    ambiguous: dict[str, int]
    empty_records: int

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


def stage_genome(path: Path, folder: Path) -> StagedGenome:
    """Check the FASTA file at `path` and stage it in `folder`, named by its sha256; done before, it is reused.

    Raises:
        BadInput: the file is not a nucleotide FASTA; nothing of it stays in `folder`.
    """
    modified = _modified(path)
    digest, size = hash_file(path)
    record = folder / f"{digest}.json"
    if staged := _reuse(record, path, modified):
        return staged
    store = folder / f"{digest}{_INDEX}"
    # pyfaidx takes a name in .gz for bgzip, whatever is inside
    in_place = is_plain(path) and path.suffix.lower() not in _PACKED_NAMES
    scan = _index(path, store) if in_place else None
    if scan is None:
        store = folder / f"{digest}{_CODES}"
        scan = _decompress(path, store)
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
    )
    part = record.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(asdict(staged)), "utf-8")
    os.replace(part, record)
    return staged


def _index(path: Path, store: Path) -> FastaScan | None:
    """Check a plain file and write its `.fai`; None, and nothing written, if its lines are uneven."""
    grid = LineGrid()
    scan = FastaScan(path, grid=grid)
    for chunk in read_plain(path):
        scan.feed(chunk)
    scan.finish()
    if not grid.uniform:
        return None
    grid.write(store)
    return scan


def _decompress(path: Path, store: Path) -> FastaScan:
    """Check a file of any kind and write its packed codes."""
    part = store.with_suffix(f".{os.getpid()}.part")
    try:
        with open(part, "wb", buffering=2**22) as sink:
            scan = FastaScan(path, sink=sink)
            for chunk in read_plain(path):
                scan.feed(chunk)
            scan.finish()
        os.replace(part, store)
    finally:
        part.unlink(missing_ok=True)
    return scan


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
