"""YAML file + `a.b=c` overrides -> one frozen, typed config object, or one line saying which key is wrong."""

import difflib
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from yaml import YAMLError, safe_dump

from .failures import BadInput, one_line
from .presets import presets

_COMMENT_COLUMNS = 100


class Config(BaseModel):
    """Base of every config: immutable, keyword-only, refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


C = TypeVar("C", bound=Config)


def load_config(
    schema: type[C],
    source: str,
    overrides: Sequence[str] = (),
    *,
    kind: str,
    settings: Mapping[str, object] | None = None,
) -> C:
    """Read `source` (a YAML path, or the name of a preset under configs/<kind>/), apply overrides, validate.

    Args:
        overrides: `dotted.key=value` strings, applied in order; values are parsed as YAML. What YAML reads as a
            number, a date or a mapping stays text for a key that wants text: a run named `007` keeps its name.
        kind: the preset folder under configs/, such as `corpus` or `pretrain`.
        settings: dotted keys with values taken as they are, applied last: a path named `2024` stays a string.

    Raises:
        BadInput: no such file or preset, not YAML, a malformed override, an unknown key or a wrong value.
    """
    path = find_config(source, kind)
    try:
        raw = OmegaConf.load(path)
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: not readable as YAML: {one_line(error)}") from error
    if not OmegaConf.is_dict(raw):
        raise BadInput(f"{path}: a config is a mapping of keys to values; this file holds something else")
    for override in overrides:
        if "=" not in override or override.startswith(("=", "-")):
            raise BadInput(f"{override!r} is not an override; write KEY=VALUE")
    try:
        merged = OmegaConf.merge(raw, OmegaConf.from_dotlist(list(overrides)))
        values = OmegaConf.to_container(merged, resolve=True)
        for key, value in (settings or {}).items():
            _set(values, key.split("."), value)
    except (YAMLError, OmegaConfBaseException, ValueError) as error:
        raise BadInput(f"{path}: cannot apply overrides {' '.join(overrides)}: {one_line(error)}") from error
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        texts = dict(override.split("=", 1) for override in overrides)
        for wrong in error.errors(include_url=False, include_context=False):
            key = ".".join(map(str, wrong["loc"]))
            if wrong["type"] == "string_type" and wrong["input"] is not None and key in texts:
                _set(values, key.split("."), texts[key])
    return validate_config(schema, values, origin=str(path))


def validate_config(schema: type[C], values: Any, *, origin: str) -> C:
    """Check plain `values` against `schema`; `origin` says in the message where the values came from.

    Raises:
        BadInput: naming the first wrong key, and for an unknown key the nearest valid one.
    """
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        # report an unknown key first: it is usually the typo that makes a required key look missing
        errors.sort(key=lambda item: item["type"] != "extra_forbidden")
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise BadInput(f"{origin}: {_explain(schema, errors[0])}{more}") from error


def to_yaml(config: Config) -> str:
    """The resolved config as YAML text that `load_config` reads back to an equal object."""
    return safe_dump(config.model_dump(mode="json"), sort_keys=False)


def explained_yaml(config: Config) -> str:
    """Like `to_yaml`, with a comment above each key that says what the key means."""
    return "".join(_explained(config, ""))


def _explained(config: Config, indent: str) -> Iterator[str]:
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        own = type(value).__doc__ if isinstance(value, Config) else None
        for line in textwrap.wrap(_meaning(field) or (own or "").partition("\n\n")[0], _COMMENT_COLUMNS - len(indent)):
            yield f"{indent}# {line}\n"
        yield from _entry(name, value, config.model_dump(mode="json", include={name}), indent)


def _entry(name: str, value: Any, dumped: Any, indent: str) -> Iterator[str]:
    if isinstance(value, Config):
        yield f"{indent}{_key(name)}:\n"
        yield from _explained(value, f"{indent}  ")
    elif isinstance(value, Mapping) and value and all(isinstance(item, Config) for item in value.values()):
        yield f"{indent}{_key(name)}:\n"
        for key, item in value.items():
            yield from _entry(key, item, None, f"{indent}  ")
    else:
        yield textwrap.indent(safe_dump(dumped, sort_keys=False), indent)


def _key(name: str) -> str:
    return safe_dump({name: None}).rpartition(":")[0]


def _meaning(field: FieldInfo) -> str:
    """The description of a field, or the text in its annotation."""
    return field.description or next((text for text in field.metadata if isinstance(text, str)), "")


def find_config(source: str, kind: str) -> Path:
    """The file behind a path or a preset name.

    Raises:
        BadInput: neither exists; the message lists the presets.
    """
    path = Path(source)
    if path.is_file():
        return path
    known = presets(kind)
    if source in known:
        return known[source]
    raise BadInput(f"config {source!r}: no such file, and no such preset; presets: {', '.join(known) or 'none'}")


def _explain(schema: type[BaseModel], error: ErrorDetails) -> str:
    location = error["loc"]
    key = ".".join(str(part) for part in location) or "the config"
    if error["type"] == "extra_forbidden":
        nearest = difflib.get_close_matches(key, list(_all_keys(schema)), n=1, cutoff=0.0)
        return f"unknown key {key!r}; nearest valid key: {nearest[0]!r}" if nearest else f"unknown key {key!r}"
    if error["type"] == "missing":
        meaning = _description(schema, location)
        return f"key {key!r} is missing" + (f": {meaning}" if meaning else "")
    message = error["msg"].removeprefix("Value error, ")
    shown = "" if error["type"] == "password" else repr(error["input"])
    return f"key {key!r}: {message}" + (f" (got {shown})" if 0 < len(shown) <= 80 else "")


def _description(schema: type[BaseModel], location: tuple[int | str, ...]) -> str | None:
    for name in location[:-1]:
        field = schema.model_fields.get(str(name))
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return None
        schema = field.annotation
    last = schema.model_fields.get(str(location[-1]))
    return _meaning(last) if last else None


def _all_keys(schema: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in schema.model_fields.items():
        yield prefix + name
        for candidate in (field.annotation, *get_args(field.annotation)):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                yield from _all_keys(candidate, f"{prefix}{name}.")


def _set(values: Any, keys: Sequence[str], value: object) -> None:
    for key in keys[:-1]:
        values = values.setdefault(key, {})
    values[keys[-1]] = value
