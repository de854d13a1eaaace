"""The figure a run is judged by, and its names in events and on pages."""

from typing import Any, NamedTuple


class Headline(NamedTuple):
    """The figure a run is judged by. `{key}` counts positions, `{key}_loss` and `{key}_accuracy` average over them."""

    key: str
    title: str


MASKED = Headline("masked", "[MASK]")
NEXT_BASE = Headline("next_base", "next-base")


def headline_of(evaluation: dict[str, Any]) -> Headline:
    """Which one an `evaluation` event holds."""
    return NEXT_BASE if f"{NEXT_BASE.key}_loss" in evaluation else MASKED
