"""Presets load, typos are named, batch sizes are checked."""

from pathlib import Path

import pytest

from dnachunker.foundations.failures import BadInput
from dnachunker.foundations.presets import PRESETS
from dnachunker.foundations.typed_config import load_config, to_yaml
from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.pretrain.checkpoints.state import RunState, identity_of, read_state, require_same_run
from dnachunker.pretrain.config import ModelSettings, PretrainConfig
from dnachunker.pretrain.engine.network import network_config

REQUIRED = ["run=r", "data.corpus=c"]


def tiny(*overrides: str) -> PretrainConfig:
    return load_config(PretrainConfig, "tiny", [*REQUIRED, *overrides], kind="pretrain")


@pytest.mark.parametrize("preset", sorted(path.stem for path in (PRESETS / "pretrain").glob("*.yaml")))
def test_presets_load_and_survive_a_round_trip(preset: str, tmp_path: Path) -> None:
    config = load_config(PretrainConfig, preset, REQUIRED, kind="pretrain")
    stored = tmp_path / "config.yaml"
    stored.write_text(to_yaml(config))
    assert load_config(PretrainConfig, str(stored), kind="pretrain") == config
    assert config.accumulation(2) >= 1


def test_the_authors_preset_differs_from_the_papers_in_the_choices_of_their_code() -> None:
    paper, authors = (
        load_config(PretrainConfig, preset, REQUIRED, kind="pretrain").model_dump(exclude_defaults=True)
        for preset in ("dnachunker-172m", "dnachunker-172m-authors")
    )
    ours = {key: paper[key] for key in ("steps", "log_every", "engine", "evaluation", "checkpoint", "run")}
    assert authors == ours | {
        "model": {
            "qk_norm": True, "ratio_loss_weight": 1.0, "ratio_boundaries": "forced-stage-0", "protected_stages": 1,
        },
        "data": paper["data"] | {"reverse_complement": False},
        "optimizer": {"lr": 5e-4},
        "schedule": {"kind": "cosine", "final_share": 0.2},
    }  # fmt: skip


def test_model_settings_are_the_networks_own_defaults() -> None:
    network = DNAChunkerConfig()
    for name, value in ModelSettings().model_dump().items():
        expected = getattr(network, name)
        assert value == (tuple(expected) if isinstance(expected, list) else None if name == "dt_rank" else expected), (
            name
        )
    assert DNAChunkerConfig(**ModelSettings(width=64, num_heads=2).model_dump()).width == 64


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.learning_rate=1", "unknown key 'optimizer.learning_rate'; nearest valid key: 'optimizer.lr'"),
        ("trian.steps=3", "unknown key 'trian'"),
        ("model.widht=64", "nearest valid key: 'model.width'"),
        ("steps=many", "key 'steps'"),
        ("optimizer.lr=.nan", "key 'optimizer.lr'"),
        ("model.num_heads=7", "does not divide into num_heads=7"),
        ("model.num_heads=0", "num_heads is 0; it must be at least 1"),
        ("model.dt_rank=0", "dt_rank is 0; it must be at least 1"),
        ("model.trunk_layers=0", "trunk_layers is 0; it must be at least 1"),
        ("model.encoder_layers=[1,0]", r"encoder_layers is \(1, 0\); it must be at least 1"),
        ("model.ratio_loss_weight=-1", "ratio_loss_weight is -1.0; it must not be negative"),
        ("model.rope_theta=0", "rope_theta is 0.0; it must be more than 0"),
        ("model.protected_stages=0", "protected_stages is 0; it must be at least 1"),
        ("model.protected_stages=3", "protected_stages is 3; there are 2 stages"),
        (
            "optimizer.stage_lr=[1,0,1]",
            "key 'optimizer.stage_lr': must be a list of factors, each more than 0, or auto",
        ),
        ("optimizer.stage_lr=[1,2]", "optimizer.stage_lr has 2 factors; it needs 3"),
        ("init.reset=[trunk]", "key 'init.reset.0': Input should be 'head' or 'routers'"),
        ("masking.mask=0.95", "mask \\+ random must not exceed 1"),
        ("steps", "not an override"),
        ("engine.zero_stage=4", "key 'engine.zero_stage'"),
        ("engine.micro_batch=0", "key 'engine.micro_batch': must be a number of windows, at least 1, or auto"),
        ("engine.micro_batch=most", "key 'engine.micro_batch': must be a number of windows, at least 1, or auto"),
        (
            "tracking.uri=https://me:secret@host/x",
            "holds a password; set MLFLOW_TRACKING_USERNAME and _PASSWORD instead$",
        ),
    ],
)
def test_a_wrong_key_or_value_is_named(override: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        tiny(override)


def test_missing_keys_say_what_they_are() -> None:
    with pytest.raises(BadInput, match="key 'data.corpus' is missing: corpus folder"):
        load_config(PretrainConfig, "tiny", ["run=r"], kind="pretrain")


def test_a_preset_that_does_not_exist_lists_the_others() -> None:
    with pytest.raises(BadInput, match="presets: .*tiny"):
        load_config(PretrainConfig, "tyni", kind="pretrain")


def test_flags_are_taken_as_they_are() -> None:
    for name in ("2024", "my run #2", "1e3", "on", "${x}"):
        config = load_config(PretrainConfig, "tiny", kind="pretrain", settings={"run": name, "data.corpus": name})
        assert (config.run, config.data.corpus) == (name, name)


def test_batch_sizes_must_divide() -> None:
    assert tiny("engine.micro_batch=2").accumulation(2) == 2
    assert tiny("engine.micro_batch=auto").micro_batches(2) == [1, 2, 4]
    with pytest.raises(ValueError, match="3 ranks do not divide data.global_batch=8"):
        tiny().accumulation(3)
    with pytest.raises(ValueError, match="engine.micro_batch=3"):
        tiny("engine.micro_batch=3").accumulation(2)


def test_windows_are_shared_by_ranks_that_divide_into_groups() -> None:
    shared = tiny("engine.context_parallel=3")
    assert shared.data_ranks(6) == 2
    assert shared.accumulation(6) == 1
    assert shared.micro_batches(6) == tiny().micro_batches(2)
    with pytest.raises(ValueError, match="context_parallel=3 does not divide 8 ranks"):
        shared.accumulation(8)
    with pytest.raises(ValueError, match="3 groups of 3 ranks do not divide data.global_batch=8"):
        shared.accumulation(9)


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("model.mixer=conv", "mixer=conv is made for windows on one rank"),
        ("model.causal=true", "causal=True is made for windows on one rank"),
        ("model.strand_symmetry=true", "strand_symmetry=True is made"),
        ("tokenization.kind=bpe", "byte pairs are merged"),
        ("engine.foresee_chunks=true", "leave it out"),
        ("engine.scan_backend=triton", "scan_backend=triton reads windows on one rank"),
    ],
)
def test_what_cannot_be_split_over_ranks_is_refused(setting: str, reason: str) -> None:
    tiny(setting)
    with pytest.raises(BadInput, match=f"engine.context_parallel=2: .*{reason}"):
        tiny(setting, "engine.context_parallel=2")


def test_a_resume_refuses_another_run_and_names_the_field() -> None:
    config = tiny()
    state = RunState(
        steps_done=1, samples_seen=8, updates=1, skipped_batches=[], guards={}, world_size=2, zero_stage=1,
        precision="fp32", device="cpu", corpus_fingerprint="f", identity=identity_of(config), versions={},
    )  # fmt: skip
    same = (
        "data.corpus=moved",
        "evaluation.every=5",
        "engine.micro_batch=1",
        "engine.zero_stage=3",
        "engine.context_parallel=2",
    )
    require_same_run(state, tiny(*same), "f")
    for changed, message in [
        ("data.streams=32", "data.streams was 64 and is now 32"),
        ("seed=1", "seed was 0 and is now 1"),
        ("optimizer.stage_lr=auto", "optimizer.stage_lr was None and is now 'auto'"),
        ("schedule.ratio_warmup=0.1", "schedule.ratio_warmup was 0.0 and is now 0.1"),
        ("model.qk_norm=true", "model.qk_norm was False and is now True"),
        ("data.global_batch=16", "data.global_batch was 8 and is now 16"),
        ("data.mixing.weights.x=2", "data.mixing.weights.x was None and is now 2.0"),
        ("tokenization.kind=kmer", "tokenization.kind was 'learned' and is now 'kmer'"),
        ("engine.precision=bf16", "engine.precision was fp32 and is now bf16"),
    ]:
        with pytest.raises(BadInput, match=message):
            require_same_run(state, tiny(changed), "f")
    with pytest.raises(BadInput, match="corpus's content"):
        require_same_run(state, config, "g")


def test_settings_that_came_later_do_not_refuse_an_older_run() -> None:
    config = tiny()
    older = {key: value for key, value in identity_of(config).items() if key != "tokenization"}
    state = RunState(
        steps_done=1, samples_seen=8, updates=1, skipped_batches=[], guards={}, world_size=2, zero_stage=1,
        precision="fp32", device="cpu", corpus_fingerprint="f", identity=older, versions={},
    )  # fmt: skip
    require_same_run(state, config, "f")
    with pytest.raises(BadInput, match="tokenization.kind was 'learned' and is now 'base'"):
        require_same_run(state, tiny("tokenization.kind=base"), "f")


def test_a_checkpoint_of_another_format_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "run_state.json").write_text('{"format": 1, "identity": {"segmentation": {"kind": "kmer"}}}')
    with pytest.raises(BadInput, match="has format 1, and this version of dnachunker reads format 4"):
        read_state(tmp_path)
    (tmp_path / "run_state.json").write_text("[2]")
    with pytest.raises(BadInput, match="not readable; remove this checkpoint"):
        read_state(tmp_path)


def test_a_tokenization_has_the_settings_of_its_kind_and_no_others() -> None:
    assert tiny("tokenization.kind=kmer").tokenization.k == 6
    assert tiny("tokenization.kind=bpe").tokenization.vocabulary == 4096
    assert tiny("tokenization.kind=bpe", "tokenization.vocabulary=64").tokenization.vocabulary == 64
    for wrong, message in [
        ("tokenization.k=6", "k belongs to kind kmer; kind learned has no such setting"),
        ("tokenization.vocabulary=64", "vocabulary belongs to kind bpe"),
        ("tokenization.kind=word", "key 'tokenization.kind'"),
        ("model.router=fixed", "nearest valid key"),
    ]:
        with pytest.raises(BadInput, match=message):
            tiny(wrong)
    with pytest.raises(BadInput, match="cuts each strand its own way"):
        tiny("tokenization.kind=kmer", "model.strand_symmetry=true")
    # stored resolved, read back equal
    config = tiny("tokenization.kind=bpe")
    assert PretrainConfig.model_validate(config.model_dump(mode="json")) == config


def test_a_fixed_segmentation_leaves_the_network_as_it_is_but_for_the_routers() -> None:
    learned, fixed = tiny(), tiny("tokenization.kind=kmer", "tokenization.k=4")
    described = [network_config(config.model, config.tokenization).to_dict() for config in (learned, fixed)]
    changed = {key: value for key, value in described[1].items() if described[0][key] != value}
    assert changed == {"router": "fixed", "segmentation": {"kind": "kmer", "k": 4}, "ratio_loss_weight": 0.0}
