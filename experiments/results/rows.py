"""Rows of a sweep: the results of every seed, their means and deviations, and the baselines."""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dnachunker.experiments.cells import FAILURE, Cell
from dnachunker.pretrain.data.headline import MASKED, NEXT_BASE, Headline, headline_of

ORDERS = (0, 3, 5)
_SAME_LOSS = 5e-5  # nats; a smaller difference does not show in a table


@dataclass
class Row:
    """A row of the sweep: results and failures of its cells by seed, and the seeds that have not run."""

    name: str
    results: dict[int, dict[str, Any]] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)
    missing: list[int] = field(default_factory=list)

    def values(self, metric: str) -> list[float]:
        found = [result["metrics"].get(metric) for result in self.results.values()]
        return [value for value in found if value is not None and not math.isnan(value)]

    def moments(self, metric: str) -> tuple[float, float, int]:
        """Mean, standard deviation (n - 1; NaN for one) and number of seeds."""
        values = self.values(metric)
        mean = statistics.fmean(values) if values else math.nan
        return mean, statistics.stdev(values) if len(values) > 1 else math.nan, len(values)

    def differences(self, reference: "Row", metric: str) -> list[float]:
        """This row minus the reference, seed by seed; what both share, such as the order of windows, cancels."""
        mine, others = ({s: r["metrics"].get(metric) for s, r in row.results.items()} for row in (self, reference))
        pairs = [(mine[seed], others[seed]) for seed in mine if seed in others]
        return [a - b for a, b in pairs if a is not None and b is not None]

    def baselines(self, prefix: str = "") -> dict[int, float]:
        """Losses of Markov tables by order, on the positions of this row's loss; `prefix` selects a species."""
        found = {order: self.moments(f"{prefix}order{order}_loss") for order in ORDERS}
        return {order: mean for order, (mean, _, count) in found.items() if count}

    @property
    def warnings(self) -> dict[str, int]:
        found = [name for result in self.results.values() for name in result["warnings"]]
        return {name: found.count(name) for name in sorted(set(found))}


def headline(rows: Sequence[Row]) -> Headline:
    """The loss that compares the rows: of masked bases, or of the next base if any row is causal."""
    found = {headline_of(result["metrics"]) for row in rows for result in row.results.values()}
    return NEXT_BASE if NEXT_BASE in found else MASKED


def shared_baselines(rows: Sequence[Row], prefix: str = "") -> dict[int, float]:
    """Losses of Markov tables by order; empty if rows are scored on different positions, as with different masks."""
    found = [baselines for row in rows if (baselines := row.baselines(prefix))]
    same = all(
        one.keys() == found[0].keys() and all(abs(one[order] - found[0][order]) < _SAME_LOSS for order in one)
        for one in found
    )
    return found[0] if found and same else {}


def collect(cells: Sequence[Cell]) -> list[Row]:
    """The rows, with the results and failures that are on disk."""
    rows: dict[str, Row] = {}
    for cell in cells:
        row = rows.setdefault(cell.row, Row(cell.row))
        if cell.is_finished():
            row.results[cell.seed] = json.loads(cell.result.read_text("utf-8"))
        elif (cell.folder / FAILURE).is_file():
            row.failures[cell.seed] = json.loads((cell.folder / FAILURE).read_text("utf-8"))["reason"]
        else:
            row.missing.append(cell.seed)
    return list(rows.values())
