"""One job at a time in a run folder."""

import fcntl
import os
from pathlib import Path

from dnachunker.foundations.failures import BadInput

_NAME = ".lock"


class RunLock:
    """An advisory lock on a run folder, held until released or until the process ends, however it ends."""

    def __init__(self, run: Path) -> None:
        """
        Raises:
            BadInput: another process trains in this folder.
        """
        self._descriptor = os.open(run / _NAME, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._descriptor)
            raise BadInput(f"{run}: another process is training in this run folder; stop it or wait for it") from error

    def release(self) -> None:
        """Let others in."""
        os.close(self._descriptor)
