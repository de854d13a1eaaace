"""A new run takes the weights of an export, refuses one that does not fit, and never unpickles."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dnachunker.foundations.failures import BadInput, BadInputOnAllRanks
from dnachunker.foundations.typed_config import load_config
from dnachunker.pretrain.checkpoints.parents import ParentModel
from dnachunker.pretrain.checkpoints.state import Parent, RunState, identity_of, require_same_run
from dnachunker.pretrain.checkpoints.warm_start import fingerprint_of, start_from_parent
from dnachunker.pretrain.commands import prepare_run
from dnachunker.pretrain.config import PretrainConfig
from dnachunker.pretrain.engine.build_model import build_model
from dnachunker.pretrain.engine.ranks import Rank

RANK = Rank(0, 1, 0, torch.device("cpu"))
SMALL = ("model.width=32", "model.num_heads=2", "model.trunk_layers=2")


def config_of(*overrides: str) -> PretrainConfig:
    return load_config(PretrainConfig, "tiny", ["run=r", "data.corpus=c", *SMALL, *overrides], kind="pretrain")


def model_of(*overrides: str) -> Any:
    config = config_of(*overrides)
    return build_model(config.model, config.tokenization, config.engine, seed=config.seed)


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export whose weights are unlike any initial ones."""
    folder = tmp_path_factory.mktemp("parent") / "export"
    model = model_of("seed=5")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    model.save_pretrained(folder)
    (folder / "export.json").write_text(json.dumps({"step": 77}))
    return folder


def start(model: Any, *overrides: str) -> tuple[Parent | None, list[str]]:
    return start_from_parent(model, model.config, config_of(*overrides).init, RANK)


def test_a_new_model_gets_the_weights_of_its_parent_but_for_the_parts_that_are_reset(parent: Path) -> None:
    stored = load_file(parent / "model.safetensors")
    for reset in ([], ["head"], ["routers"], ["head", "routers"]):
        # none of these changes the weights
        changes = ("model.target_ratios=[0.2,0.5]", "model.ratio_loss_weight=1", "data.seq_len=64")
        fresh, model = model_of(*changes), model_of(*changes)
        found, lines = start(model, f"init.model={parent}", f"init.reset={json.dumps(reset)}")
        for (name, ours), initial in zip(model.named_parameters(), fresh.parameters(), strict=True):
            part = "head" if name.startswith("lm_head") else "routers" if ".routers." in name else ""
            assert torch.equal(ours, initial if part in reset else stored[name]), (name, reset)
        assert found == Parent(model=str(parent), fingerprint=fingerprint_of(stored), steps_done=77, reset=tuple(reset))
        assert found.fingerprint[:12] in lines[0]
        assert len(lines) == 1
    _, lines = start(model_of("model.rope_theta=500000"), f"init.model={parent}")
    assert lines[1].endswith("rope_theta 10000.0 -> 500000.0")
    assert start(model_of()) == (None, [])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.width=64", "dnachunker.embedding.weight is [16, 32] there and is [16, 64] here"),
        ("model.trunk_layers=3", "trunk.layers.2.attention_norm.weight is absent there and is [32] here"),
        ("model.trunk_layers=1", "trunk.layers.1.attention_norm.weight is [32] there and is absent here"),
        ("model.qk_norm=true", "trunk.layers.0.query_norm.weight is absent there and is [16] here"),
        ("model.causal=true", "backward_direction.A_log is [64, 16] there and is absent here"),
        ("model.num_heads=4", "hierarchy.trunk has 2 heads there and 4 here"),
        ("tokenization.kind=bpe", "routers.0.probability.key is [32, 32] there and is absent here"),
    ],
)
def test_a_parent_that_does_not_fit_is_refused_by_its_first_difference_and_leaves_nothing(
    parent: Path, toy_folder: Path, tmp_path: Path, override: str, message: str
) -> None:
    run = tmp_path / "run"
    config = config_of(override, f"init.model={parent}", f"data.corpus={toy_folder}", f"run={run}")
    with pytest.raises(BadInput) as refused:
        prepare_run(config, world_size=2)
    assert f"{parent} (init.model): does not fit this run's model: " in str(refused.value)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not run.exists()
    if "bpe" not in override:  # whose network needs the merges of a corpus
        with pytest.raises(BadInputOnAllRanks, match="does not fit"):
            start(model_of(override), f"init.model={parent}")


def test_routers_that_are_reset_need_no_counterpart(parent: Path) -> None:
    model = model_of("tokenization.kind=kmer")
    start(model, f"init.model={parent}", "init.reset=[routers]")
    assert torch.equal(model.lm_head.weight, load_file(parent / "model.safetensors")["lm_head.weight"])


class Bomb:
    def __reduce__(self) -> Any:
        return pytest.fail, ("an export was unpickled",)


def test_only_safetensors_are_read(parent: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((parent / "config.json").read_text())
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(BadInput, match="neither a run folder .* nor an export"):
        ParentModel.open(tmp_path)
    for content in (b"", b"\x08" * 64, pickle.dumps(Bomb())):
        (tmp_path / "model.safetensors").write_bytes(content)
        with pytest.raises(BadInput, match="not a readable export"):
            ParentModel.open(tmp_path)
    save_file({"w": torch.ones(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(BadInput, match="its model_type is bert"):
        ParentModel.open(tmp_path)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(BadInput, match="no complete checkpoint yet"):
        ParentModel.open(tmp_path)
    with pytest.raises(BadInput, match="neither a run folder"):
        ParentModel.open(tmp_path / "nowhere")


def test_a_resume_neither_adds_nor_changes_a_parent() -> None:
    config = config_of("init.model=a", "init.reset=[head]")
    state = RunState(
        steps_done=1, samples_seen=8, updates=1, skipped_batches=[], guards={}, world_size=2, zero_stage=1,
        precision="fp32", device="cpu", corpus_fingerprint="f", identity=identity_of(config), versions={},
        parent=Parent(model="a", fingerprint="0", reset=("head",)),
    )  # fmt: skip
    require_same_run(state, config, "f")
    for others, message in [
        (["init.model=b", "init.reset=[head]"], "init.model was a and is now b"),
        (["init.model=a"], r"init.reset was \['head'\] and is now \[\]"),
        ([], "init.model was a and is now None"),
    ]:
        with pytest.raises(BadInput, match=message):
            require_same_run(state, config_of(*others), "f")
    with pytest.raises(BadInput, match="init.model was None and is now a"):
        require_same_run(state.model_copy(update={"parent": None}), config, "f")
    with pytest.raises(BadInput, match="reset needs init.model"):
        config_of("init.reset=[head]")
