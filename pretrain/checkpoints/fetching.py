"""Brings a checkpoint back from a folder or an object store to a run folder that has none. Collective.

`checkpoint.copy_to` puts checkpoints there (see `copies.py`). Each rank fetches its share of the files and compares
them with the manifest. The checkpoint appears in the run folder complete or not at all.
"""

import json
import shutil
from pathlib import Path, PurePosixPath

from dnachunker.dataprep import storage
from dnachunker.foundations.failures import BadInput, BadInputOnAllRanks, one_line
from dnachunker.pretrain.config import CheckpointSettings
from dnachunker.pretrain.engine.ranks import Rank

from .saving import MANIFEST, digest_of
from .state import CHECKPOINTS, checkpoint_names, complete_checkpoints


def fetch_checkpoint(run: Path, settings: CheckpointSettings, rank: Rank) -> list[str]:
    """Fetch the newest whole checkpoint into `run`, unless it has one, or nothing says where to look.

    Returns:
        Lines for the user: what was fetched, and what is wrong with newer ones.

    Raises:
        BadInputOnAllRanks: `settings.resume_from` has no complete checkpoint; a place cannot be read; or every
            checkpoint there is damaged. A run never starts over where there is something to continue.
    """
    source = (settings.resume_from or settings.copy_to or "").removeprefix("file://")
    if not source:
        return []
    names, problem = rank.from_main(_look(run, source, settings) if rank.is_main else None)
    if problem:
        raise BadInputOnAllRanks(problem)
    damage: list[str] = []
    for name in names:
        error = _fetch(storage.join(source, name), run / CHECKPOINTS / name, rank)
        if not error:
            return [*(f"not used: {line}" for line in damage), f"fetched {name} from {source}"]
        damage.append(error)
    if damage:
        raise BadInputOnAllRanks(
            f"{source}: no checkpoint can be fetched: {damage[0]}; restore the file, or name another place in "
            f"checkpoint.resume_from"
        )
    return []


def _look(run: Path, source: str, settings: CheckpointSettings) -> tuple[list[str], str]:
    """Names of the complete checkpoints in `source`, newest first, and what is wrong with it, if anything.

    None are named for a run that has a checkpoint of its own.
    """
    if complete_checkpoints(run):
        return [], ""
    key = "resume_from" if settings.resume_from else "copy_to"
    try:
        names = reversed(checkpoint_names(storage.names_in(source)))
        found = [name for name in names if storage.exists(storage.join(source, f"{name}/{MANIFEST}"))]
    except (BadInput, OSError) as error:
        return [], f"checkpoint.{key}: {source} cannot be read: {one_line(error)}; fix this, or leave the key out"
    if not found and settings.resume_from:
        return [], f"checkpoint.resume_from: {source} has no complete checkpoint (step-NNNNNNNN/{MANIFEST})"
    return found, ""


def _fetch(source: str, target: Path, rank: Rank) -> str:
    """Fetch one checkpoint, each rank its share; returns what is wrong with it, and then nothing is left of it."""
    partial = target.with_name(f".{target.name}.partial")
    manifest, error = dict[str, str](), ""
    if rank.is_main:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            manifest = _read_manifest(f"{source}/{MANIFEST}")
        except (BadInput, OSError) as problem:
            error = one_line(problem)
    manifest, error = rank.from_main((manifest, error))
    errors = rank.gather(error or _fetch_files(source, partial, sorted(manifest.items())[rank.rank :: rank.world_size]))
    error = next(filter(None, errors), "")
    if rank.is_main and error:
        shutil.rmtree(partial)
    elif rank.is_main:
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
        partial.rename(target)
    rank.barrier()
    return error


def _read_manifest(location: str) -> dict[str, str]:
    """The sha256 of each file, by its name.

    Raises:
        BadInput: it is not readable, or a name leads out of the checkpoint's folder.
    """
    try:
        manifest = dict(json.loads(storage.read_bytes(location)))
    except (ValueError, TypeError) as error:
        raise BadInput(f"{location}: not a manifest ({one_line(error)})") from error
    for name in manifest:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name:
            raise BadInput(f"{location}: {name!r} is no name of a file in a checkpoint")
    return manifest


def _fetch_files(source: str, partial: Path, files: list[tuple[str, str]]) -> str:
    """Fetch files with the given sha256 into `partial`; returns what is wrong with the first bad one."""
    for name, expected in files:
        location, path = storage.join(source, name), partial / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            storage.download(location, path)
        except (BadInput, OSError) as error:
            return f"{location}: {one_line(error)}"
        if digest_of(path) != expected:
            return f"{location}: differs from its sha256 in the manifest"
    return ""
