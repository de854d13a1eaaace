"""The curves of a run, read from its event log: columns of numbers against steps, bases, FLOPs and hours."""

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate
from operator import mul
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from dnachunker.foundations.failures import BadInput
from dnachunker.pretrain.config import PretrainConfig
from dnachunker.pretrain.data.headline import Headline, headline_losses, headline_of
from dnachunker.pretrain.run_folder import read_config

from .event_log import read_events

AXES = ("steps", "bases", "flops", "hours")
_MOST_POINTS = 1000  # of a curve in a page; of longer ones, each point is the mean of several steps
_SMOOTHED = ("mlm_loss", "next_base_loss")

Row = dict[str, float]
Columns = dict[str, list[float | None]]


class RunCurves:
    """What a page about a run shows.

    Attributes:
        name: of the run on the page.
        config: the resolved config of the last start.
        events: see `read_events`.
        headline: the positions the run is judged by; None before the first evaluation.
    """

    def __init__(self, run: Path, name: str = "") -> None:
        """
        Args:
            name: default: the one that MLflow has, which is the folder's unless the run was given another.

        Raises:
            BadInput: the folder is no run, or it has not taken a step yet.
        """
        self.config: PretrainConfig = read_config(run)
        self.name = name or self.config.tracking.run_name or run.resolve().name
        self.events = read_events(run)
        if not self.of_kind("step"):
            raise BadInput(f"{run}: no step has been logged yet, so there is nothing to report")
        evaluations = self.of_kind("evaluation")
        self.headline: Headline | None = headline_of(evaluations[-1]) if evaluations else None
        self._hours = _hours(self.events)
        self._rows: dict[str, list[Row]] = {}
        steps = self.of_kind("step")
        self._done = np.array([0, *(step["steps_done"] for step in steps)], dtype=float)
        each = np.diff(self._done)  # steps that a record of step metrics stands for
        # runs of before FLOPs were recorded have no such axis
        self._spent = {
            key: np.concatenate(([0.0], np.cumsum(each * [float(step[key]) for step in steps])))
            for key in ("bases", "flops")
            if all(key in step for step in steps)
        }

    def of_kind(self, *kinds: str) -> list[dict[str, Any]]:
        """The events of these kinds, in their order."""
        return [event for event in self.events if event["event"] in kinds]

    @property
    def start(self) -> dict[str, Any]:
        """The last `start` or `resume` event."""
        return self.of_kind("start", "resume")[-1]

    @property
    def last(self) -> Row:
        """Where the run stands: every axis, and the numbers of its last step."""
        row = self.rows("step")[-1]
        return row | {"hours": self._hours[-1]}

    def rows(self, kind: str) -> list[Row]:
        """The numbers of each event of a kind: the axes, what the event holds, and what follows from it.

        The names of nested numbers are joined by dots, as in `compression.stage0`.
        """
        if kind not in self._rows:
            self._rows[kind] = [
                self._row(event, hours)
                for event, hours in zip(self.events, self._hours, strict=True)
                if event["event"] == kind
            ]
            _smooth(self._rows[kind])
        return self._rows[kind]

    def columns(self, kind: str, keys: Sequence[str]) -> Columns:
        """The axes and these numbers of all events of a kind, shortened to what a page can hold."""
        rows = self.rows(kind)
        count = -(-len(rows) // _MOST_POINTS) or 1
        groups = [rows[begin : begin + count] for begin in range(0, len(rows), count)]
        wanted = [*AXES, *keys]
        return {
            key: [_mean([row[key] for row in group if key in row]) for group in groups]
            for key in wanted
            if any(key in row for row in rows)
        }

    def _row(self, event: dict[str, Any], hours: float) -> Row:
        row = dict(_numbers(event)) | {"steps": float(event.get("steps_done", 0)), "hours": hours}
        # `bases` and `flops` of a step stand for the whole run so far
        row |= {key: float(np.interp(row["steps"], self._done, spent)) for key, spent in self._spent.items()}
        return row | self._derived(event)

    def _derived(self, event: dict[str, Any]) -> Row:
        found: Row = {}
        if event["event"] == "step" and event.get("seconds"):
            found["data_wait_percent"] = 100 * event.get("data_wait", 0.0) / event["seconds"]
        if "utilisation" in event:
            found["utilisation_percent"] = 100 * event["utilisation"]
        if event["event"] == "evaluation":
            loss, over_order5 = headline_losses(event)
            if loss is not None and over_order5 is not None:
                found |= {"headline_loss": loss, "over_order5": over_order5}
        if event.get("compression"):
            found["trunk_share"] = list(accumulate(event["compression"].values(), mul))[-1]
        if event["event"] == "system":
            nodes = [value for value in event.values() if isinstance(value, dict)]
            for key in nodes[0] if nodes else ():
                values = [node[key] for node in nodes if node.get(key) is not None]
                if values:
                    found |= {f"least.{key}": min(values), f"median.{key}": median(values), f"most.{key}": max(values)}
        return found


def _hours(events: list[dict[str, Any]]) -> list[float]:
    """Hours of work up to each event; the time between an interruption and its resume does not count."""
    hours, total = [], 0.0
    for before, event in zip(events[:1] + events, events, strict=False):
        if event["event"] not in ("start", "resume"):
            total += max(0.0, event["time"] - before["time"]) / 3600
        hours.append(total)
    return hours


def _numbers(event: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for key, value in event.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{key}", float(value)


def _smooth(rows: list[Row]) -> None:
    """Add `NAME.smooth`, the median of the last steps (a thirtieth of the run, 5 to 101) of training losses."""
    width = min(101, max(5, len(rows) // 30))
    for key in _SMOOTHED:
        values = np.array([row.get(key, math.nan) for row in rows])
        if np.isnan(values).all():
            continue
        padded = np.concatenate((np.full(width - 1, np.nan), values))
        for row, recent in zip(rows, np.lib.stride_tricks.sliding_window_view(padded, width), strict=True):
            known = recent[~np.isnan(recent)]
            if len(known):
                row[f"{key}.smooth"] = float(np.median(known))


def _mean(values: Sequence[float]) -> float | None:
    """To six digits, so that a page stays small; None of nothing."""
    return float(f"{math.fsum(values) / len(values):.6g}") if values else None
