"""Copies checkpoints to another folder or URL in the background, so that training never waits for a network."""

import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from dnachunker.dataprep import storage
from dnachunker.foundations.atomic_files import PARTIAL, new_file

from .saving import MANIFEST
from .state import CHECKPOINTS

_HELD = ".copying"  # hard links to the files being copied, so that removing an old checkpoint does not stop its copy


class RemoteCopies:
    """Copies finished checkpoints one after the other. The manifest goes last: a copy without a manifest is incomplete.

    Args:
        target: a folder or an fsspec URL; copies appear under `target`/step-NNNNNNNN.
        announce: called with a line for the user when a copy fails; training goes on.
    """

    def __init__(self, run: Path, target: str, announce: Callable[[str], None]) -> None:
        self._target = target.removeprefix("file://")
        self._announce = announce
        self._held = run / CHECKPOINTS / _HELD
        shutil.rmtree(self._held, ignore_errors=True)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint-copy")
        self._latest: Future[None] | None = None

    def add(self, checkpoint: Path) -> None:
        """Copy a complete checkpoint soon, in place of an older one that still waits for its copy."""
        if self._latest is not None:
            self._latest.cancel()
        held = self._held / checkpoint.name
        shutil.rmtree(held, ignore_errors=True)
        shutil.copytree(checkpoint, held, copy_function=_link)
        self._latest = self._pool.submit(self._copy, held)
        self._latest.add_done_callback(lambda _: shutil.rmtree(held, ignore_errors=True))

    def close(self) -> None:
        """Wait for the copy under way and for the last one that `add` asked for."""
        self._pool.shutdown(wait=True)

    def _copy(self, held: Path) -> None:
        try:
            self._remove_partials(held.name)
            files = sorted(path for path in held.rglob("*") if path.is_file() and path.name != MANIFEST)
            for path in [*files, held / MANIFEST]:
                self._copy_file(path, f"{held.name}/{path.relative_to(held).as_posix()}")
        except Exception as error:  # a failed copy must not stop training
            self._announce(f"checkpoint.copy_to: {held.name} is not copied to {self._target}: {error}")

    def _remove_partials(self, name: str) -> None:
        """Remove what an interrupted copy of the same checkpoint has left; only this process writes there."""
        target = storage.join(self._target, name)
        if not storage.is_url(target):
            for left in Path(target).rglob(f"{PARTIAL}*"):
                left.unlink(missing_ok=True)

    def _copy_file(self, path: Path, name: str) -> None:
        target = storage.join(self._target, name)
        if storage.is_url(target):
            storage.upload(path, target)
            return
        with new_file(Path(target)) as partial:
            shutil.copyfile(path, partial)


def _link(source: str, target: str) -> None:
    try:
        Path(target).hardlink_to(source)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)
