"""Where libraries keep caches when the home folder cannot be written, as in containers and on locked-down clusters."""

import os
import stat
import sys
import tempfile
from pathlib import Path

# Libraries that look into the home folder without asking XDG_CACHE_HOME. Numba, transformers, DeepSpeed's extensions,
# fontconfig and our own downloads ask it.
_OTHERS = {"MPLCONFIGDIR": "matplotlib", "TRITON_HOME": "triton"}


def provide_caches() -> None:
    """Set XDG_CACHE_HOME and the like to a temporary folder where the usual one cannot be written; say so in one line.

    A user without a home (a container's user id that no account has) gets HOME too: Ray does not start without one. A
    home that exists stays HOME, also where it cannot be written, because it may hold keys and tokens.
    Processes started from here inherit the variables. Call it before any of the libraries is imported.
    """
    home = Path(os.path.expanduser("~"))  # `~` itself for a user that the machine does not know
    usual = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    place = usual if usual.is_absolute() and _can_write(usual) else _private_folder()
    if place != usual:
        os.environ["XDG_CACHE_HOME"] = str(place)
        print(f"caches are kept in {place}, because {usual} cannot be written; XDG_CACHE_HOME names another place",
              file=sys.stderr)  # fmt: skip
    if not home.is_dir():
        os.environ["HOME"] = str(place)
    if not (home.is_absolute() and os.access(home, os.W_OK)):
        for variable, name in _OTHERS.items():
            os.environ.setdefault(variable, str(place / name))


def _private_folder() -> Path:
    """A folder that only this user can write, the same one each time if nobody else has made it."""
    user = os.getuid()
    place = Path(tempfile.gettempdir(), f"dnachunker-cache-{user}")
    try:
        place.mkdir(mode=0o700, exist_ok=True)
        found = place.lstat()
    except OSError:
        return Path(tempfile.mkdtemp(prefix="dnachunker-cache-"))
    # numba and transformers run what lies in a cache: another user must not be able to write there
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != user or found.st_mode & 0o022:
        return Path(tempfile.mkdtemp(prefix="dnachunker-cache-"))
    return place


def _can_write(folder: Path) -> bool:
    """Whether files can be made in a folder, which is made if it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
