"""The hidden folder a corpus grows in, and the last step that makes the finished corpus visible.

.NAME.building/
    lock         held while a build runs
    genomes/     staged genomes, by sha256
    manifests/   one per finished shard
    corpus/      becomes NAME, by one rename

A corpus at a URL grows in such a folder among the temporary files of this machine; its shards are uploaded one by one,
and index.json, without which they are no corpus, last.
"""

import fcntl
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from dnachunker.dataprep.corpus.index import INDEX_NAME
from dnachunker.dataprep.genomes.staged_sequence import close_files
from dnachunker.dataprep.storage import exists, is_url, join, names_in, remove, upload
from dnachunker.foundations.failures import BadInput, Failure

_SHARD = re.compile(r"[a-z][a-z0-9_]*-\d{6,}\.tar\.zst")


class BuildFolder:
    """A context manager that holds the folder's lock.

    A failure the user must correct (`BadInput`) removes the folder; any other end (a kill, a full disk, Ctrl-C) keeps
    it, and the next run continues from its finished pieces.

    Attributes:
        url: of the finished corpus, if it will not be on a local disk.
    """

    def __init__(self, output: str) -> None:
        self.url = output.rstrip("/") if is_url(output) else None
        self.output = output
        if self.url:
            place = hashlib.sha256(self.url.encode()).hexdigest()[:16]
            self.root = Path(tempfile.gettempdir()) / f".dnachunker-{place}.building"
        else:
            self.root = Path(output).parent / f".{Path(output).name}.building"
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
        close_files()
        if kind is None or issubclass(kind, BadInput):
            shutil.rmtree(self.root, ignore_errors=True)
        if self._lock:
            self._lock.close()

    def url_of(self, name: str) -> str | None:
        """Where a file of the corpus is uploaded to, if anywhere."""
        return join(self.url, name) if self.url else None

    def make_way(self) -> None:
        """At a URL, take a corpus that will be replaced out of sight before its shards are overwritten."""
        if self.url:
            try:
                remove(join(self.url, INDEX_NAME))
            except OSError as error:
                raise BadInput(f"{self.url}: cannot be written: {error.strerror or error}") from error

    def publish(self, names: Iterable[str]) -> None:
        """Move the corpus to its place; `names` are its files, anything else (of an older attempt) is deleted."""
        wanted = set(names)
        for path in self.corpus.iterdir():
            if path.name not in wanted:
                path.unlink()
        if self.url:
            self._publish_to_url(self.url, wanted)
            return
        _sync(self.corpus)
        output = Path(self.output)
        if output.exists():
            # two renames: no call swaps folders everywhere; the old corpus survives in the build folder in between
            os.rename(output, self.root / "replaced")
        os.rename(self.corpus, output)
        _sync(output.parent)

    def _publish_to_url(self, url: str, wanted: set[str]) -> None:
        there = names_in(url)
        for name in there:
            if name not in wanted and _SHARD.fullmatch(name):
                remove(join(url, name))
        if missing := sorted(name for name in wanted if _SHARD.fullmatch(name) and name not in there):
            raise Failure(f"{join(url, missing[0])}: uploaded and gone again; run this again")
        for path in sorted(self.corpus.iterdir(), key=lambda path: path.name == INDEX_NAME):
            upload(path, join(url, path.name))


def check_output(output: str, *, overwrite: bool) -> None:
    """Refuse to replace anything that is not a corpus, or a corpus without `overwrite`.

    Raises:
        BadInput: saying which of the two.
    """
    if is_url(output):
        names = names_in(output)
        # shards without an index are what an interrupted build has uploaded
        empty = all(_SHARD.fullmatch(name) for name in names if name)
    else:
        empty = not os.path.exists(output) or (os.path.isdir(output) and not os.listdir(output))
    if empty:
        return
    if not exists(join(output, INDEX_NAME)):
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
