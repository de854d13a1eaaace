"""The Python files that a saved folder holds beside its weights."""

from collections.abc import Iterable
from pathlib import Path

from transformers.dynamic_module_utils import get_relative_import_files, get_relative_imports

_BLOCK = "\n\nif False:  # transformers before 5.10 copies only files that are named in this one\n"


def name_needed_files(folder: Path, modules: Iterable[str]) -> None:
    """Make each module name all files that it needs, also those that only its imports import.

    Without this, a local folder does not load in transformers before 5.10.

    Args:
        folder: where the modules have been saved; modules that it lacks are left out.
    """
    for path in (folder / f"{module}.py" for module in modules):
        if path.is_file():
            needed = {Path(file).stem for file in get_relative_import_files(path)}
            missing = sorted(needed - set(get_relative_imports(path)))
            if missing:
                lines = "".join(f"    from .{name} import __doc__\n" for name in missing)
                path.write_text(path.read_text() + _BLOCK + lines)
