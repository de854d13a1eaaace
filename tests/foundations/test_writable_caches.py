"""A home that cannot be written costs one line, not a traceback."""

import os
import subprocess
import sys
from pathlib import Path

PRINT = """
import os
from dnachunker.foundations.writable_caches import provide_caches
provide_caches()
print(os.environ.get("XDG_CACHE_HOME"), os.environ.get("TRITON_HOME"), os.environ.get("HOME"))
import matplotlib  # complains if it has no place
"""


def run(tmp_path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("XDG_CACHE_HOME", "MPLCONFIGDIR", "TRITON_HOME", "HOME")}
    kept["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])
    environment = {**kept, "TMPDIR": str(tmp_path), **variables}
    return subprocess.run([sys.executable, "-c", PRINT], env=environment, capture_output=True, text=True)


def test_where_home_cannot_be_written_caches_lie_in_a_private_temporary_folder(tmp_path: Path) -> None:
    done = run(tmp_path, HOME="/dev/null/user")
    place = tmp_path / f"dnachunker-cache-{os.getuid()}"
    assert done.stdout.split() == [str(place), str(place / "triton"), str(place)], done.stderr
    assert done.stderr.splitlines() == [
        f"caches are kept in {place}, because /dev/null/user/.cache cannot be written; "
        "XDG_CACHE_HOME names another place"
    ]
    assert place.stat().st_mode & 0o777 == 0o700
    again = run(tmp_path, HOME="/dev/null/user", XDG_CACHE_HOME=str(place))
    assert again.stderr == "", "a process started from the first one says nothing"


def test_a_cache_that_others_can_write_is_not_used(tmp_path: Path) -> None:
    planted = tmp_path / f"dnachunker-cache-{os.getuid()}"
    planted.mkdir()
    planted.chmod(0o777)
    done = run(tmp_path, HOME="/dev/null/user")
    assert not done.stdout.startswith(f"{planted} ")
    assert "caches are kept in" in done.stderr


def test_a_home_that_can_be_written_is_used(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    done = run(tmp_path, HOME=str(home))
    assert done.stdout.split() == ["None", "None", str(home)], done.stderr
    assert done.stderr == ""


def test_a_home_that_cannot_be_written_stays_for_what_is_read_there(tmp_path: Path) -> None:
    done = run(tmp_path, HOME="/proc")
    cache, _, home = done.stdout.split()
    assert (cache, home) == (str(tmp_path / f"dnachunker-cache-{os.getuid()}"), "/proc"), done.stderr
