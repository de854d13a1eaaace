"""Published rows look different from measured ones in every table."""

from pathlib import Path

from dnachunker.downstream.classification.leaderboard import Row, write_tables
from dnachunker.downstream.tasks.metrics import NAMES
from dnachunker.downstream.tasks.task_folders import load_suite


def test_published_rows_are_in_italics_and_ours_are_not(tmp_path: Path) -> None:
    row = Row("H3", "full", "mcc", {name: [0.5] for name in NAMES}, (0.4, 0.6), 10, "default")
    write_tables(tmp_path, load_suite("nt"), [row], [])
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert "| H3 | full | 0.500 | 0.400 to 0.600 |" in next(line for line in lines if "H3" in line)
    assert next(line for line in lines if "GENERator" in line).startswith("| *average* | *GENERator* | *0.728* |  |")
    assert (tmp_path / "table.html").read_text().count('class="published"') == 3
