"""The hidden partial folder of a build, and the last step that makes the finished corpus visible.

.NAME.building/
    lock         held while a build runs
    genomes/     prepared genomes, by sha256
    manifests/   one per finished shard
    corpus/      becomes NAME, by one rename

For a corpus at a URL, the partial folder lies in the temporary folder of this machine. Shards are uploaded one by one,
and index.json last: without it, the uploaded files are not a corpus.
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
from dnachunker.dataprep.genomes.prepared_sequence import close_files
from dnachunker.dataprep.storage import exists, is_url, join, names_in, remove, upload
from dnachunker.foundations.failures import BadInput, Failure

_SHARD = re.compile(r"[a-z][a-z0-9_]*-\d{6,}\.tar\.zst")


class BuildFolder:
    """The partial folder; a context manager that holds its lock.

    Success, and a failure that the user must correct (`BadInput`), remove the folder. After any other end (a kill, a
    full disk, Ctrl-C) the folder stays, and the next run continues from its finished shards.

    Attributes:
        url: where the finished corpus goes; None for a local corpus.
        output: path or URL of the finished corpus.
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
            raise BadInput(
                f"{self.output}: the folder beside it cannot be written: {error.strerror}; choose another output"
            ) from error
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
        """The URL a file of the corpus is uploaded to; None for a local corpus."""
        return join(self.url, name) if self.url else None

    def make_way(self) -> None:
        """At a URL, remove the index of the corpus that will be replaced, before its shards are overwritten."""
        if self.url:
            try:
                remove(join(self.url, INDEX_NAME))
            except OSError as error:
                raise BadInput(f"{self.url}: cannot be written: {error.strerror or error}") from error

    def publish(self, names: Iterable[str]) -> None:
        """Move the finished corpus to its place; files other than `names`, left by older attempts, are deleted."""
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
            # two renames, since no portable call swaps folders; between them the old corpus is in the partial folder
            os.rename(output, self.root / "replaced")
        os.rename(self.corpus, output)
        _sync(output.parent)

    def _publish_to_url(self, url: str, wanted: set[str]) -> None:
        there = names_in(url)
        for name in there:
            if name not in wanted and _SHARD.fullmatch(name):
                remove(join(url, name))
        if missing := sorted(name for name in wanted if _SHARD.fullmatch(name) and name not in there):
            raise Failure(f"{join(url, missing[0])}: the shard was uploaded and is missing since; run this again")
        for path in sorted(self.corpus.iterdir(), key=lambda path: path.name == INDEX_NAME):
            upload(path, join(url, path.name))


def check_output(output: str, *, overwrite: bool) -> None:
    """Refuse to replace a corpus without `overwrite`, and to replace anything else at all.

    Raises:
        BadInput: the message says which of the two it is.
    """
    if is_url(output):
        names = names_in(output)
        # shards without an index were uploaded by an interrupted build
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
    """Write `data` and flush it to disk; `path` is inside the partial folder, so no rename is needed."""
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
