"""What MLflow shows of a run, as plain values made from events: metrics, parameters, tags, dataset, description."""

import getpass
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dnachunker.foundations.mlflow_client import NOTE_TAG, legal_name
from dnachunker.pretrain.data.headline import headline_losses, headline_of, stages_of

Event = dict[str, Any]

# By kind of event, the group of its metrics. MLflow sorts groups, and metrics in a group, by name: `headline` comes
# first, then `speed`, `train` and `valid`. Names that begin with `system/` have a tab of their own.
GROUPS = {
    "step": "train",
    "evaluation": "valid",
    "diagnostics": "valid/diagnostics",
    "system": "system",
    "probes": "probes",
}
# By kind of event, a metric whose history shows how far the server has got when the answer to a call was lost.
WITNESSES = {"step": "train/loss", "evaluation": "headline/held_out_loss"}
COLUMNS = (
    "metrics.`headline/loss_minus_order5`",
    "metrics.`headline/held_out_loss`",
    "metrics.`headline/unmasked_compression_stage0`",
    "metrics.`headline/unmasked_compression_stage1`",
    "metrics.`speed/bases_per_second`",
    "metrics.`speed/utilisation`",
    "params.`steps`",
    "tags.`device`",
)
_SPEED = ("bases_per_second", "bases_per_second_per_device", "data_wait", "flops", "seconds", "utilisation")
# Keys of events that stay the same during a run: they are parameters, because a chart of one shows nothing.
_CONSTANT = ("bases", "masked", "next_base", "windows", "order0")
_REPEATED = ("repeat_loss", "unique_loss", "compression_stage")  # of diagnostics; the evaluation has them too
_DIGEST = 16  # characters of the fingerprint, as they fit into a column


def metrics_of(event: Event) -> list[tuple[str, float]]:
    """Names and values of an event's metrics; empty for a kind of event without metrics."""
    kind = event["event"]
    if kind not in GROUPS:
        return []
    values = dict(event)
    found = _numbers("headline", headline_values(event), kind) if kind == "evaluation" else []
    if kind == "step":
        found = _numbers("speed", {key: values.pop(key) for key in _SPEED if key in values}, kind)
    elif kind == "probes":
        values = event["probes"]
    elif kind == "diagnostics":
        values = {key: value for key, value in values.items() if not key.startswith(_REPEATED)}
    return [*found, *_numbers(GROUPS[kind], values, kind)]


def headline_values(evaluation: Event) -> dict[str, Any]:
    """What a run is judged by: held-out loss in nats per base, its distance to order 5, and unmasked compression."""
    compression = {f"unmasked_compression_{stage}": share for stage, share in evaluation.get("compression", {}).items()}
    loss, distance = headline_losses(evaluation)
    return {"loss_minus_order5": distance, "held_out_loss": loss, **compression}


def constants_of(event: Event) -> dict[str, Any]:
    """Parameters in an `evaluation` or `diagnostics` event: baselines, sizes of what was scored, thresholds."""
    kind = event["event"]
    if kind not in ("evaluation", "diagnostics"):
        return {}
    group = "held_out" if kind == "evaluation" else kind
    return {
        legal_name(".".join((group, *keys))): value
        for keys, value in _flat(event, ()).items()
        if any(_is_constant(kind, key) for key in keys)
    }


def parameters_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The run's settings as parameters: of nested settings, the keys are joined by dots."""
    return {legal_name(".".join(keys)): value for keys, value in _flat(config, ()).items()}


def tags_of(event: Event) -> dict[str, str]:
    """The part of an event that describes the whole run, as text that can be searched: `tags.device = 'cpu'`."""
    kind = event["event"]
    if kind in ("start", "resume"):
        names = ("world_size", "micro_batch", "zero_stage", "device", "corpus", "parameters")
        code, machines = event.get("code", {}), event.get("machines", [])
        tags = {
            **{name: event.get(name) for name in names},
            **{f"version.{name}": version for name, version in event.get("versions", {}).items()},
            "hosts": ", ".join(machine["host"] for machine in machines),
            "gpu": ", ".join(sorted({machine.get("gpu") or "" for machine in machines})),
            "mlflow.source.git.commit": code.get("commit"),
            "parent": json.dumps(event["parent"]) if event.get("parent") else None,
            "uncommitted_changes": str(code["changed"]).lower() if "changed" in code else None,
        }
        return {name: str(value) for name, value in tags.items() if value not in (None, "")}
    if kind == "checkpoint":
        return {"checkpoint": event["folder"]}
    if kind == "guard":
        return {"guard": f"step {event['step']}: {event['detail']}"[:500]}
    if kind == "diagnostics":
        return {"warnings": ", ".join(event.get("warnings", []))[:500] or "none"}
    return {}


def source_tags() -> dict[str, str]:
    """MLflow's own tags of who made a run, and with what."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = ""
    return {"mlflow.source.name": "dnachunker pretrain", "mlflow.source.type": "LOCAL", "mlflow.user": user}


def dataset_of(start: Event) -> dict[str, str] | None:
    """The corpus of a `start` or `resume` event as the fields of an MLflow `Dataset`."""
    data = start.get("data")
    if not data:
        return None
    splits = data["splits"]
    profile = {"bases": sum(splits.values()), **{f"bases_{split}": bases for split, bases in splits.items()}}
    return {
        "name": data["name"],
        "digest": start["corpus"][:_DIGEST],
        "source_type": "url" if "://" in data["path"] else "local",
        "source": json.dumps({"uri": data["path"]}),
        "profile": json.dumps({**profile, "species": data["species"]}),
    }


def note_of(config: Mapping[str, Any], events: Sequence[Event], report: str | None) -> dict[str, str]:
    """The run's description in Markdown, as the tag that holds it.

    Args:
        events: the newest event of each kind.
        report: address of the report, without its host; None where there is no report yet.
    """
    return {NOTE_TAG: "\n".join(_note_lines(config, {event["event"]: event for event in events}, report))}


def _note_lines(config: Mapping[str, Any], newest: Mapping[str, Event], report: str | None) -> Iterator[str]:
    start = newest.get("start") or newest.get("resume") or {}
    evaluation, last = newest.get("evaluation"), newest.get("step", {})
    if evaluation:
        values, title = headline_values(evaluation), headline_of(evaluation).title
        if values["loss_minus_order5"] is not None:
            shares = ", ".join(
                f"stage {stage} {evaluation['compression'][f'stage{stage}']:.2f}"
                for stage in stages_of(evaluation.get("compression", {}), "stage")
            )
            yield (
                f"**{values['loss_minus_order5']:+.4f} nats a base against an order-5 Markov model** "
                f"(held-out {title} loss {values['held_out_loss']:.4f}, after step {evaluation['steps_done']:,})\n"
            )
            yield f"- compression of unmasked sequence: {shares}"
    if "bases_per_second" in last:
        yield f"- speed: {last['bases_per_second']:,.0f} bases/s, utilisation {100 * last['utilisation']:.1f} %"
    size = f"{start['parameters'] / 1e6:,.2f} M parameters, " if "parameters" in start else ""
    model = config.get("model", {})
    yield f"- model: {size}width {model.get('width')}, {model.get('trunk_layers')} trunk layers, {model.get('mixer')}"
    if data := start.get("data"):
        sizes = ", ".join(f"{split} {bases:,}" for split, bases in data["splits"].items())
        yield f"- corpus: {data['name']} ({', '.join(data['species'][:5])}); bases: {sizes}"
    settings = config.get("data", {})
    if "seq_len" in settings:
        bases = config["steps"] * settings["global_batch"] * settings["seq_len"]
        yield f"- budget: {config['steps']:,} steps, {bases:,} bases in windows of {settings['seq_len']:,}"
    if report:
        yield f"- [report]({report})"
    if warnings := newest.get("diagnostics", {}).get("warnings"):
        yield f"- warnings: {', '.join(warnings)}"


def _is_constant(kind: str, key: str) -> bool:
    markov = key.startswith("order") and key.endswith("_loss")
    return kind in ("evaluation", "diagnostics") and (markov or key in (*_CONSTANT, "thresholds"))


def _numbers(group: str, values: Mapping[str, Any], kind: str) -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for key, value in values.items():
        if _is_constant(kind, key) or key in ("time", "steps_done"):
            continue
        if isinstance(value, dict):
            inner = key if key == "system" else f"{group}/{legal_name(key)}"
            found += _numbers(inner, value, kind)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append((f"{group}/{legal_name(key)}", float(value)))
    return found


def _flat(values: Mapping[str, Any], before: tuple[str, ...]) -> dict[tuple[str, ...], Any]:
    flat: dict[tuple[str, ...], Any] = {}
    for key, value in values.items():
        flat |= _flat(value, (*before, key)) if isinstance(value, dict) and value else {(*before, key): value}
    return flat
