"""A config as text: what is printed reads back to the same config, and says what every key means."""

from pathlib import Path
from typing import Union, get_args

import pytest
from yaml import safe_load

from dnachunker.cluster.config import ClusterConfig
from dnachunker.dataprep.config import CorpusConfig
from dnachunker.downstream.classification.config import TrainingConfig
from dnachunker.downstream.classification.protocol import ProtocolConfig
from dnachunker.experiments.config import SweepConfig
from dnachunker.foundations.failures import BadInput
from dnachunker.foundations.presets import PRESETS
from dnachunker.foundations.typed_config import Config, explained_yaml, load_config, to_yaml
from dnachunker.pretrain.config import PretrainConfig

SCHEMAS: dict[str, type[Config]] = {
    "cluster": ClusterConfig,
    "corpus": CorpusConfig,
    "experiments": SweepConfig,
    "pretrain": PretrainConfig,
}
BARE: tuple[type[Config], ...] = (TrainingConfig, ProtocolConfig)
NEEDED = {"pretrain": {"run": "r", "data.corpus": "a: 'b' # c"}}
FILES = [path for kind in SCHEMAS for path in sorted((PRESETS / kind).glob("*.yaml"))]


def configs() -> list[tuple[str, Config]]:
    found: list[tuple[str, Config]] = [
        (path.stem, load_config(SCHEMAS[path.parent.name], str(path), kind="", settings=NEEDED.get(path.parent.name)))
        for path in FILES
    ]
    return [*found, *((schema.__name__, schema()) for schema in BARE)]


@pytest.mark.parametrize("config", [config for _, config in configs()], ids=[name for name, _ in configs()])
def test_what_is_printed_reads_back(config: Config, tmp_path: Path) -> None:
    text = explained_yaml(config)
    assert safe_load(text) == safe_load(to_yaml(config)) == config.model_dump(mode="json")
    (tmp_path / "again.yaml").write_text(text)
    assert load_config(type(config), str(tmp_path / "again.yaml"), kind="") == config


def sections(kind: object) -> set[type[Config]]:
    """The config classes an annotation speaks of, and all inside them."""
    if isinstance(kind, type) and issubclass(kind, Config):
        return {kind}.union(*(sections(field.annotation) for field in kind.model_fields.values()))
    return set().union(*map(sections, get_args(kind)))


@pytest.mark.parametrize("section", sorted(sections(Union[(*SCHEMAS.values(), *BARE)]), key=str))
def test_every_key_says_what_it_means(section: type[Config]) -> None:
    for name, field in section.model_fields.items():
        inner = sections(field.annotation)
        explained = field.description or any(isinstance(text, str) for text in field.metadata)
        assert explained or any(kind.__doc__ for kind in inner), f"{section.__name__}.{name}"


def test_a_description_stands_above_its_key() -> None:
    lines = explained_yaml(load_config(PretrainConfig, "tiny", kind="pretrain", settings=NEEDED["pretrain"])).split(
        "\n"
    )
    assert lines[lines.index("steps: 150") - 1] == "# optimizer steps in the whole run"
    assert lines[lines.index("  state_size: 16") - 1].strip().startswith("# N, states of a Mamba channel")


@pytest.mark.parametrize("text", ["007", "a/b: é 100%", "1e5", "true", "2024-01-01", "key: [1, 2]", "plain"])
def test_a_key_that_wants_text_takes_an_override_as_it_is(text: str) -> None:
    overrides = [f"tracking.run_name={text}", "steps=7", "tracking.enabled=false"]
    config = load_config(PretrainConfig, "tiny", overrides, kind="pretrain", settings=NEEDED["pretrain"])
    assert config.tracking.run_name == text
    assert config.steps == 7
    assert config.tracking.enabled is False


def test_text_for_a_key_that_wants_a_number_is_refused() -> None:
    with pytest.raises(BadInput, match="key 'steps'"):
        load_config(PretrainConfig, "tiny", ["steps=many"], kind="pretrain", settings=NEEDED["pretrain"])
