"""Where MLflow keeps runs: the URI of a run's store, and an SQLite store that many processes open and that may move."""

import contextlib
import fcntl
import os
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote

STORE = "mlflow.db"
ROOT_TAG = "dnachunker.artifacts"  # of an experiment: the URI of the artifact folder when its paths were written
_ARTIFACTS = "mlartifacts"
_LOCK = ".mlflow.lock"
_SECONDS = 20.0  # how long SQLite waits for a writer, as MLflow's own sessions do
# Columns of MLflow's tables that hold absolute paths of artifacts.
_PATHS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def tracking_uri(explicit: str | None, folder: Path) -> str:
    """The explicit URI, else MLFLOW_TRACKING_URI, else the SQLite store beside `folder`, which its neighbours use too.

    A folder with a store of its own keeps it. So does a folder whose parent folder cannot be written to.
    """
    if given := explicit or os.environ.get("MLFLOW_TRACKING_URI"):
        return given
    folder = Path(os.path.abspath(folder))
    alone = (folder / STORE).is_file() or not os.access(folder.parent, os.W_OK)
    return sqlite_uri((folder if alone else folder.parent) / STORE)


def sqlite_uri(path: Path) -> str:
    """The URI of an SQLite store."""
    text = str(path.absolute())
    # slashes too, because MLflow makes the parent folder of the path as it is written in the URI
    return f"sqlite:///{quote(text, safe='') if '?' in text or '%' in text else text}"


def sqlite_file(uri: str) -> Path | None:
    """The file of an SQLite URI; None for another kind of store."""
    if not uri.startswith("sqlite:///") or uri.endswith(":memory:"):
        return None
    return Path(unquote(uri.removeprefix("sqlite:///").partition("?")[0]))


def artifact_root(store: Path) -> str:
    """URI of the folder beside an SQLite store that holds the artifacts of its runs."""
    return (store.absolute().parent / _ARTIFACTS).as_uri()


@contextlib.contextmanager
def opening(store: Path) -> Iterator[None]:
    """Hold the lock under which one process after the other opens a store, and correct its paths; see `_correct_paths`.

    MLflow creates tables, and the default experiment, without a lock of its own.
    """
    store.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(store.parent / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        _correct_paths(store)
        yield
    finally:
        os.close(descriptor)


def _correct_paths(store: Path) -> None:
    """Let the artifact paths of a store name the folder where the store lies now; MLflow writes absolute paths.

    Only experiments with `ROOT_TAG` count. A store that has not moved is left as it is.
    """
    here = artifact_root(store)
    if not store.is_file():
        return
    with contextlib.closing(sqlite3.connect(store, timeout=_SECONDS)) as database:
        try:
            found = database.execute("SELECT DISTINCT value FROM experiment_tags WHERE key = ?", (ROOT_TAG,)).fetchall()
        except sqlite3.DatabaseError:  # no tables yet, or no database: MLflow will say so
            return
        for (before,) in found:
            if before == here:
                continue
            with database:
                for table, column in _PATHS:
                    database.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                        f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                        (here, len(before) + 1, before, len(before) + 1, f"{before}/"),
                    )
                database.execute("UPDATE experiment_tags SET value = ? WHERE key = ?", (here, ROOT_TAG))


def redacted(text: str) -> str:
    """`text` without the user names and passwords of URLs."""
    return re.sub(r"(?<=://)[^/@\s]+@", "***@", text)
