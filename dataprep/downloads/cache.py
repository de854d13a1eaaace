"""The cache of downloaded files: each file is fetched once, verified, pinned, and shared by all builds of this user.

$DNACHUNKER_CACHE, or $XDG_CACHE_HOME/dnachunker, or ~/.cache/dnachunker
  files/SHA256/NAME      complete, verified files
  urls/KEY.json          which file a URL gave; KEY is the sha256 of the URL
  partial/KEY            unfinished downloads
  genomes.lock           the sha256 of every fetched file; --lock names another such file, to keep with a project
"""

import fcntl
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from dnachunker.dataprep.config import BedSplit, CorpusConfig, RepeatFile, SourceConfig
from dnachunker.dataprep.genomes.input_file import check_regular
from dnachunker.dataprep.storage import is_url
from dnachunker.foundations.failures import BadInput

from .catalog import GenomeEntry, find_genome, locate, published_md5
from .download import download, read_small, shown

LOCK_NAME = "genomes.lock"


@dataclass(frozen=True)
class Fetched:
    """A file in the cache.

    Attributes:
        md5: the verified md5 that the provider publishes; None where the provider publishes none.
        new: whether this call downloaded the file.
    """

    path: Path
    url: str
    bytes: int
    sha256: str
    md5: str | None
    new: bool


def cache_folder() -> Path:
    """The cache folder of this user, absolute; it may not exist yet."""
    if named := os.environ.get("DNACHUNKER_CACHE"):
        return Path(named).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser().absolute() / "dnachunker"


def fetch_genome(entry: GenomeEntry, *, lock: Path | None = None, quiet: bool = False) -> Fetched:
    """The file of a genome, from the cache or else from the network.

    Raises:
        BadInput: the provider does not have the genome; or its checksum or the pinned sha256 differs.
        Failure: the network failed too often.
    """
    # the URL of an accession is remembered, so that a cached genome needs no network
    known = cache_folder() / "urls" / f"{_key(entry.accession)}.accession"
    url = entry.url or (known.read_text("utf-8") if known.is_file() else "")
    if url and (found := _cached(url, lock)):
        return found
    url, checksums = locate(entry)
    found = fetch_url(url, checksums=checksums, lock=lock, quiet=quiet)
    if not entry.url:
        known.write_text(url, "utf-8")
    return found


def fetch_url(url: str, *, checksums: str = "", lock: Path | None = None, quiet: bool = False) -> Fetched:
    """The file behind a URL, from the cache or else from the network.

    Args:
        checksums: URL of the provider's list of md5 sums; "" if there is none.
        lock: file that pins the sha256 of each URL; default: genomes.lock in the cache folder.

    Raises:
        BadInput: no such file, or its checksum differs from the published or the pinned one.
        Failure: the network failed too often, or the disk is full.
    """
    if found := _cached(url, lock):
        return found
    cache = cache_folder()
    part = cache / "partial" / _key(url)
    with _alone(part.with_name(f"{part.name}.lock"), url):
        if found := _cached(url, lock):  # another process has just fetched it
            return found
        listing = read_small(checksums) if checksums else None
        md5 = published_md5(listing.decode("utf-8", "replace"), _name(url)) if listing else None
        if checksums and md5 is None and not quiet:
            print(f"{shown(url)}: the provider publishes no checksum; pinning the sha256", file=sys.stderr)
        download(url, part, quiet=quiet)
        sha256, found_md5, size = _digests(part)
        if md5 is not None and found_md5 != md5:
            part.unlink()
            raise BadInput(
                f"{shown(url)}: its md5 is {found_md5}, the provider publishes {md5}: the download was damaged, or the "
                "provider replaced the file and not its list of checksums; run this again"
            )
        try:
            _pin(lock or cache / LOCK_NAME, url, {"sha256": sha256, "bytes": size, "published_md5": md5})
        except BadInput:
            part.unlink()
            raise
        target = cache / "files" / sha256 / _name(url)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(part, target)
        record = {"url": shown(url), "sha256": sha256, "bytes": size, "name": target.name, "published_md5": md5}
        _write_json(cache / "urls" / f"{_key(url)}.json", record)
    return Fetched(target, url, size, sha256, md5, True)


def localise(config: CorpusConfig, *, quiet: bool = False) -> CorpusConfig:
    """The config with every catalog name and URL replaced by a local path; downloads files that are not in the cache.

    Raises:
        BadInput, Failure: see `fetch_genome`.
    """
    sources = {name: _localise_source(name, source, quiet) for name, source in config.sources.items()}
    return config.model_copy(update={"sources": sources, "split": _localise_file(config.split, quiet)})


def _localise_source(name: str, source: SourceConfig, quiet: bool) -> SourceConfig:
    changes: dict[str, Any] = {}
    if source.genome:
        try:
            entry = find_genome(source.genome)
        except BadInput as error:
            raise BadInput(f"source {name}: {error}") from error
        facts = {name: getattr(entry, name) for name in ("species", "clade", "assembly", "licence", "citation")}
        if not source.path:
            fetched = fetch_genome(entry, quiet=quiet)
            facts |= {"path": str(fetched.path), "provenance": shown(fetched.url)}
        changes = {"genome": ""} | {key: value for key, value in facts.items() if not getattr(source, key)}
    if is_url(source.path):
        changes["path"] = str(fetch_url(source.path, quiet=quiet).path)
        changes["provenance"] = source.provenance or shown(source.path)
    changes |= {"repeats": _localise_file(source.repeats, quiet), "split": _localise_file(source.split, quiet)}
    return source.model_copy(update=changes)


def _localise_file(part: Any, quiet: bool) -> Any:
    """`part` (a split rule or a `repeats` value) with a URL replaced by a local path; anything else is unchanged."""
    if isinstance(part, (BedSplit, RepeatFile)) and is_url(part.path):
        return part.model_copy(update={"path": str(fetch_url(part.path, quiet=quiet).path)})
    return part


def _cached(url: str, lock: Path | None) -> Fetched | None:
    try:
        record = json.loads((cache_folder() / "urls" / f"{_key(url)}.json").read_text("utf-8"))
        path = cache_folder() / "files" / record["sha256"] / record["name"]
        if path.stat().st_size != record["bytes"]:
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    facts = {name: record.get(name) for name in ("sha256", "bytes", "published_md5")}
    _pin(lock or cache_folder() / LOCK_NAME, url, facts)
    return Fetched(path, url, record["bytes"], record["sha256"], record.get("published_md5"), False)


def _pin(lock: Path, url: str, facts: dict[str, Any]) -> None:
    """Record the file's sha256 in the lock file, or compare it with the recorded one.

    Raises:
        BadInput: the lock file pins another sha256, or is not a lock file.
    """
    if lock.exists():
        check_regular(lock)
    with _alone(lock.with_name(f".{lock.name}.lock"), str(lock)):
        try:
            pinned = json.loads(lock.read_text("utf-8")) if lock.exists() else {}
            known = pinned.get(_lock_key(url), facts)["sha256"]
        except (ValueError, AttributeError, KeyError, TypeError, OSError) as error:
            raise BadInput(f"{lock}: not a lock file of genomes; remove or repair it") from error
        if known != facts["sha256"]:
            raise BadInput(
                f"{shown(url)}: its sha256 is {facts['sha256']}, but {lock} pins {known}: the provider replaced the "
                "file; to accept the new file, remove its entry from the lock file"
            )
        if _lock_key(url) not in pinned:
            _write_json(lock, dict(sorted((pinned | {_lock_key(url): facts}).items())))


def _lock_key(url: str) -> str:
    """The URL without parts that may hold secrets; a digest of the whole URL keeps different files apart."""
    return shown(url) if shown(url) == url else f"{shown(url)}#{_key(url)[:16]}"


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(values, indent=1) + "\n", "utf-8")
    os.replace(part, path)


@contextmanager
def _alone(lock: Path, what: str) -> Iterator[None]:
    """Hold a lock between processes; waits while another process holds it."""
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
    except OSError as error:
        raise BadInput(
            f"{lock.parent}: cannot be written: {error.strerror}; name another cache in DNACHUNKER_CACHE"
        ) from error
    with open(lock, "wb") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print(f"{shown(what)}: waiting for another process that uses it", file=sys.stderr, flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _digests(path: Path) -> tuple[str, str, int]:
    sha256, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    with open(path, "rb") as handle:
        while piece := handle.read(2**20):
            sha256.update(piece)
            md5.update(piece)
            size += len(piece)
    return sha256.hexdigest(), md5.hexdigest(), size


def _key(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()


def _name(url: str) -> str:
    """A safe file name from the URL's path: no slash, no leading dot."""
    last = unquote(urlsplit(url).path).rstrip("/").rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9._+-]", "_", last).lstrip(".")[:200] or "download"
