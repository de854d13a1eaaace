"""Brings a checkpoint back from a folder or an object store to a run folder that has none. Collective.

`checkpoint.copy_to` puts checkpoints there (see `copies.py`). Each rank fetches its share of the files and compares
them with the manifest. The checkpoint appears in the run folder complete or not at all.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from dnachunker.dataprep import storage
from dnachunker.foundations.atomic_files import write_text
from dnachunker.foundations.failures import BadInput, BadInputOnAllRanks, one_line
from dnachunker.pretrain.config import PretrainConfig
from dnachunker.pretrain.engine.ranks import Rank

from .saving import LATEST, MANIFEST, digest_of, sync
from .state import CHECKPOINTS, checkpoint_names, complete_checkpoints, read_state, require_same_run
from .stored_parts import OPTIMIZER


class _Damaged(Exception):
    """A file of a copy is missing, or is not what the manifest says."""


def fetch_checkpoint(
    config: PretrainConfig, corpus_fingerprint: str, rank: Rank, on_file: Callable[[], None] = lambda: None
) -> tuple[bool, list[str]]:
    """Fetch the newest whole checkpoint into the run folder, unless it has one, or nothing says where to look.

    Args:
        on_file: called on this rank before it fetches a file.

    Returns:
        Whether one was fetched, and lines for the user: which one, and what is wrong with newer ones.

    Raises:
        BadInputOnAllRanks: `checkpoint.resume_from` has no complete checkpoint; a place cannot be read; the checkpoint
            is of another run; or every checkpoint there is damaged.
    """
    run, settings = Path(config.run), config.checkpoint
    key = "resume_from" if settings.resume_from else "copy_to"
    source = (settings.resume_from or settings.copy_to or "").removeprefix("file://")
    if not source or rank.from_main(rank.is_main and bool(complete_checkpoints(run))):
        return False, []
    names, problem = rank.from_main(_look(source) if rank.is_main else None)
    if not names and not problem:
        if key == "copy_to":
            return False, [f"checkpoint.copy_to: {source} has no checkpoint yet, so this is a new run"]
        problem = f"has no complete checkpoint (step-NNNNNNNN/{MANIFEST})"
    damage: list[str] = []
    for name in [] if problem else names:
        broken, problem = _fetch(storage.join(source, name), config, corpus_fingerprint, rank, on_file)
        if not broken and not problem:
            return True, [*(f"not used: {line}" for line in damage), f"fetched {name} from {source}"]
        if problem:
            break
        damage.append(broken)
    if not problem:
        problem = f"every checkpoint is damaged: {damage[0]}"
    raise BadInputOnAllRanks(f"checkpoint.{key}: {source}: {problem}; fix this, or name another place")


def _look(source: str) -> tuple[list[str], str]:
    """Names of the complete checkpoints in `source`, newest first, and why it cannot be read, if it cannot."""
    try:
        names = reversed(checkpoint_names(storage.names_in(source)))
        return [name for name in names if storage.exists(storage.join(source, f"{name}/{MANIFEST}"))], ""
    except Exception as error:  # each kind of object store raises errors of its own
        return [], f"cannot be read: {_line(error)}"


def _fetch(
    source: str, config: PretrainConfig, corpus_fingerprint: str, rank: Rank, on_file: Callable[[], None]
) -> tuple[str, str]:
    """Fetch one checkpoint, each rank its share.

    Returns:
        What is damaged, so that an older one may do; and any other problem. With either, no checkpoint is left of it,
        unless the disk failed after the last file.
    """
    target = Path(config.run) / CHECKPOINTS / source.rpartition("/")[2]
    partial = target.with_name(f".{target.name}.partial")
    manifest: dict[str, str] = {}

    def prepare() -> None:
        shutil.rmtree(partial, ignore_errors=True)
        (partial / OPTIMIZER).mkdir(parents=True)
        manifest.update(_read_manifest(f"{source}/{MANIFEST}"))

    def complete() -> None:
        require_same_run(read_state(partial), config, corpus_fingerprint)
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
        for path in (partial / MANIFEST, partial / OPTIMIZER, partial):
            sync(path)
        partial.rename(target)
        sync(target.parent)
        write_text(target.parent / LATEST, target.name + "\n")

    broken, problem = _on_all(rank, prepare if rank.is_main else None)
    if not broken and not problem:
        share = sorted(rank.from_main(manifest).items())[rank.rank :: rank.world_size]
        broken, problem = _on_all(rank, lambda: _fetch_files(source, partial, share, on_file))
    if not broken and not problem:
        broken, problem = _on_all(rank, complete if rank.is_main else None)
    if rank.is_main and (broken or problem):
        shutil.rmtree(partial, ignore_errors=True)
    rank.barrier()
    return broken, problem


def _on_all(rank: Rank, work: Callable[[], None] | None) -> tuple[str, str]:
    """Do this rank's work, if it has any; what is damaged, and any other problem, on any rank. Collective."""
    told = ("", "")
    try:
        if work:
            work()
    except _Damaged as error:
        told = (str(error), "")
    except Exception as error:  # a rank that raised it would leave the others waiting
        told = ("", _line(error))
    all_told = rank.gather(told)
    return next((broken for broken, _ in all_told if broken), ""), next((other for _, other in all_told if other), "")


def _line(error: Exception) -> str:
    return one_line(error) if isinstance(error, BadInput) else f"{type(error).__name__}: {one_line(error)}"


def _read_manifest(location: str) -> dict[str, str]:
    """The sha256 of each file, by its name.

    Raises:
        BadInput: a name leads out of the checkpoint's folder.
    """
    try:
        manifest = dict(json.loads(storage.read_bytes(location)))
    except (ValueError, TypeError) as error:
        raise _Damaged(f"{location}: not a manifest ({one_line(error)})") from error
    for name in manifest:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name:
            raise BadInput(f"{location}: {name!r} is no name of a file in a checkpoint")
    return manifest


def _fetch_files(source: str, partial: Path, files: list[tuple[str, str]], on_file: Callable[[], None]) -> None:
    """Fetch files with the given sha256 into `partial`."""
    for name, expected in files:
        on_file()
        location, path = storage.join(source, name), partial / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            storage.download(location, path)
        except FileNotFoundError as error:
            raise _Damaged(f"{location}: is missing") from error
        if digest_of(path) != expected:
            raise _Damaged(f"{location}: differs from its sha256 in the manifest")
        sync(path)
