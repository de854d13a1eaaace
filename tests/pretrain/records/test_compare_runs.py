"""`dnachunker report RUN RUN`: the best run, and the settings that made the difference."""

import json
import re
from pathlib import Path
from typing import Any

from event_logs import add, evaluation, new_run, start, step

from dnachunker.cli import main


def make_runs(folder: Path) -> list[Path]:
    runs = []
    for name, loss, rate in (("usual", 1.31, 3e-3), ("slow", 1.26, 1e-3), ("new", None, 3e-3)):
        run = new_run(folder / name / "run", steps=2, optimizer={"lr": rate})
        add(run, [start(), step(1), step(2), *([evaluation(2, loss)] if loss else [])])
        runs.append(run)
    return runs


def data_of(page: str) -> Any:
    return json.loads(re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[0])


def test_runs_side_by_side_name_the_best_and_what_differs(tmp_path: Path) -> None:
    runs = make_runs(tmp_path)
    assert main(["report", *map(str, runs)]) == 0
    page = (tmp_path / "comparison.html").read_text()
    assert '<b class="good">-0.0200</b>' in page
    assert "the best, <strong>slow</strong>" in page
    rows = re.findall(r"</span>(\w+)</td>\s*<td>([^<]+)</td>", page)
    assert rows[:3] == [("slow", "-0.0200"), ("usual", "+0.0300"), ("new", "–")]
    differences = page[page.index("Where their configs differ") :]
    assert re.findall(r"<tr><td>([^<]+)</td>", differences) == ["optimizer.lr"]
    assert page.count('class="state silent"') == 3  # their last event is from long ago
    data = data_of(page)
    headline = data["charts"][0]
    assert [(curve["label"], curve["run"]) for curve in headline["curves"]] == [("usual", 0), ("slow", 1)]
    assert data["axes"] == ["steps", "bases", "flops", "hours"]
    assert data["tables"][1]["evaluation"]["over_order5"] == [-0.02]


def test_a_run_named_twice_is_refused(tmp_path: Path, capsys: Any) -> None:
    run = make_runs(tmp_path)[0]
    assert main(["report", str(run), f"{run.parent}/../usual/run"]) == 2
    assert "named twice" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.html"))
