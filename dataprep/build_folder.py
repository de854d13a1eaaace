"""The hidden folder a corpus grows in, and the single rename that makes the finished corpus visible.

.NAME.building/
    lock         held while a build runs
    genomes/     staged FASTA files, by sha256
    manifests/   one per finished shard
    corpus/      becomes NAME
"""

import fcntl
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from dataprep.corpus_index import INDEX_NAME
from failures import BadInput


class BuildFolder:
    """A context manager that holds the folder's lock.

    A failure the user must correct (`BadInput`) removes the folder; any other end (a kill, a full disk, Ctrl-C) keeps
    it, and the next run continues from its finished pieces.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.root = output.parent / f".{output.name}.building"
        self.genomes = self.root / "genomes"
        self.manifests = self.root / "manifests"
        self.corpus = self.root / "corpus"
        self._lock: IO[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            for folder in (self.genomes, self.manifests, self.corpus):
                folder.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.root / "lock", "wb")
        except OSError as error:
            raise BadInput(f"{self.output}: cannot write beside it: {error.strerror}; choose another output") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise BadInput(f"{self.output}: another build is writing this corpus ({self.root} is locked)") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or issubclass(kind, BadInput):
            shutil.rmtree(self.root, ignore_errors=True)
        if self._lock:
            self._lock.close()

    def publish(self, names: Iterable[str]) -> None:
        """Move the corpus to its place; `names` are its files, anything else (of an older attempt) is deleted."""
        wanted = set(names)
        for path in self.corpus.iterdir():
            if path.name not in wanted:
                path.unlink()
        _sync(self.corpus)
        if self.output.exists():
            # two renames: no call swaps folders everywhere; the old corpus survives in the build folder in between
            os.rename(self.output, self.root / "replaced")
        os.rename(self.corpus, self.output)
        _sync(self.output.parent)


def check_output(output: Path, *, overwrite: bool) -> None:
    """Refuse to replace anything that is not a corpus, or a corpus without `overwrite`.

    Raises:
        BadInput: saying which of the two.
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not (output / INDEX_NAME).is_file():
        raise BadInput(f"{output}: exists and is not a corpus; choose another output")
    if not overwrite:
        raise BadInput(
            f"{output}: holds a corpus built from another config or other inputs; choose another output, or pass "
            "--overwrite to replace it"
        )


def write_file(path: Path, data: bytes) -> None:
    """Write and flush to disk; `path` is inside the build folder, so no rename is needed."""
    with open(path, "wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
