"""Keys that events share: those of the headline, and those of each stage."""

from collections.abc import Iterable
from typing import Any, NamedTuple, TypeVar

Value = TypeVar("Value")


class Headline(NamedTuple):
    """The positions a run is judged by: `{key}` counts them, `{key}_loss` and `{key}_accuracy` are means over them."""

    key: str
    title: str


MASKED = Headline("masked", "[MASK]")
NEXT_BASE = Headline("next_base", "next-base")


def headline_of(evaluation: dict[str, Any]) -> Headline:
    """The headline of an `evaluation` event."""
    return NEXT_BASE if f"{NEXT_BASE.key}_loss" in evaluation else MASKED


def headline_losses(evaluation: dict[str, Any]) -> tuple[float | None, float | None]:
    """Of an `evaluation` event the held-out loss in nats per base, and how far it is above an order-5 Markov model's.

    None stands for what the event lacks.
    """
    loss, order5 = evaluation.get(f"{headline_of(evaluation).key}_loss"), evaluation.get("order5_loss")
    return loss, None if loss is None or order5 is None else loss - order5


def by_stage(values: Iterable[Value]) -> dict[str, Value]:
    """`stage0`, `stage1`, ... and the value of each stage, outermost first."""
    return {f"stage{stage}": value for stage, value in enumerate(values)}


def stages_of(names: Iterable[str], prefix: str) -> range:
    """The stages whose names `{prefix}0`, `{prefix}1`, ... are among `names`."""
    return range(sum(name.removeprefix(prefix).isdigit() for name in names if name.startswith(prefix)))
