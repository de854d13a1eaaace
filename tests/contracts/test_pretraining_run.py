"""Promises of a run, kept by real processes: exact resume, one order at any world size, a stand-alone export."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dnachunker.dataprep.corpus.index import Corpus
from dnachunker.pretrain.records.event_log import read_events

pytestmark = pytest.mark.timeout(3000)  # many runs; on a busy machine each start takes a minute

STEPS = 10
FAST = [
    f"steps={STEPS}", "model.width=32", "model.num_heads=2", "model.trunk_layers=1", "model.state_size=4",
    "data.seq_len=256", "evaluation.windows=6", "evaluation.every=5", "checkpoint.every=100",
]  # fmt: skip


def pretrain_command(corpus: Path, run: Path, *overrides: str) -> list[str]:
    command = [sys.executable, "-m", "dnachunker", "pretrain", "--config", "tiny"]
    return [*command, "--corpus", str(corpus), "--run", str(run), *overrides]


def train(corpus: Path, run: Path, *overrides: str) -> "subprocess.CompletedProcess[str]":
    command = pretrain_command(corpus, run, *overrides)
    return subprocess.run(command, capture_output=True, text=True, timeout=900)


def train_until(step: int, number: int, command: list[str], run: Path) -> "tuple[int, str]":
    """Start a run, send it a signal once it has logged `step`, and return its exit code and what it printed."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 600
    while not any(e["event"] == "step" and e["steps_done"] >= step for e in read_events(run)):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "the run never logged that step"
        time.sleep(0.05)
    process.send_signal(number)
    printed, _ = process.communicate(timeout=400)
    return process.returncode, printed


def of_kind(run: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in read_events(run) if event["event"] == kind]


def losses(run: Path) -> dict[int, tuple[float, float]]:
    return {event["steps_done"]: (event["loss"], event["grad_norm"]) for event in of_kind(run, "step")}


def mlflow_losses(run: Path) -> dict[int, float]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{run.parent / 'mlflow.db'}")
    history = client.get_metric_history(json.loads((run / "mlflow.json").read_text())["run_id"], "train/loss")
    assert len({point.step for point in history}) == len(history), "a point was sent twice"
    return {point.step: point.value for point in history}


@pytest.fixture(scope="module")
def quiet(sample_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two ranks that nothing disturbs."""
    run = tmp_path_factory.mktemp("quiet") / "run"
    done = train(sample_corpus, run, *FAST)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return run


def test_a_run_interrupted_by_sigterm_continues_to_the_bit(quiet: Path, sample_corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, printed = train_until(3, signal.SIGTERM, pretrain_command(sample_corpus, run, *FAST), run)
    assert code == 3, printed
    assert "Traceback" not in printed
    saved = of_kind(run, "interrupt")[0]["steps_done"]
    assert f"saved after step {saved} of {STEPS}" in printed
    assert 3 <= saved < STEPS
    assert 0 < of_kind(run, "checkpoint")[-1]["seconds"] < of_kind(run, "interrupt")[0]["seconds"]
    assert of_kind(run, "interrupt")[0]["seconds"] <= of_kind(run, "exit")[0]["seconds"] < 400
    done = train(sample_corpus, run, *FAST)
    assert done.returncode == 0, done.stderr
    assert f"resumed from step-{saved:08d}" in done.stderr
    assert losses(run) == losses(quiet)
    assert mlflow_losses(run) == {step: loss for step, (loss, _) in losses(run).items()}
    assert of_kind(run, "evaluation")[-1]["masked_loss"] == of_kind(quiet, "evaluation")[-1]["masked_loss"]


def test_ranks_whose_supervisor_is_killed_save_and_leave(sample_corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [*pretrain_command(sample_corpus, run, *FAST), "steps=100000", "tracking.enabled=false"]
    code, printed = train_until(3, signal.SIGKILL, command, run)  # its output ends when the last rank has gone
    assert code == -signal.SIGKILL
    saved = of_kind(run, "interrupt")[-1]["steps_done"]
    assert f"saved after step {saved} of 100000" in printed
    assert (run / "checkpoints" / f"step-{saved:08d}").is_dir()


@pytest.mark.slow
def test_other_world_sizes_and_zero_stages_take_the_same_steps(
    quiet: Path, sample_corpus: Path, tmp_path: Path
) -> None:
    variants = {
        "one rank, ZeRO stage 0, micro-batches, chunk capacity foreseen": [
            "launch.processes=1",
            "engine.zero_stage=0",
            "engine.micro_batch=2",
            "engine.foresee_chunks=true",
        ],
        "two ranks, ZeRO stage 3, windows in order of work": ["engine.zero_stage=3", "engine.micro_batch=2"],
    }
    for index, (name, overrides) in enumerate(variants.items()):
        run = tmp_path / str(index)
        done = train(sample_corpus, run, *FAST, "tracking.enabled=false", *overrides)
        assert done.returncode == 0, (name, done.stderr)
        for step, (loss, _) in losses(quiet).items():
            assert losses(run)[step][0] == pytest.approx(loss, abs=2e-5), (name, step)
        held_out = [of_kind(r, "evaluation")[-1] for r in (quiet, run)]
        assert held_out[1]["order5_loss"] == held_out[0]["order5_loss"]
        assert held_out[1]["masked_loss"] == pytest.approx(held_out[0]["masked_loss"], abs=2e-5), name
        exported = export(run, tmp_path / f"export{index}")
        assert exported["max_abs_diff"] <= 1e-5, name


def export(run: Path, out: Path, *options: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "dnachunker", "export", str(run), str(out), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return dict(json.loads((out / "export.json").read_text()))


def test_an_export_loads_without_this_project_and_gives_the_same_logits(quiet: Path, tmp_path: Path) -> None:
    out = tmp_path / "export"
    assert export(quiet, out, "--register", "tiny", "--alias", "best")["max_abs_diff"] <= 1e-5
    assert {"config.json", "model.safetensors", "tokenizer.json", "modeling_dnachunker.py"} <= set(os.listdir(out))
    again = subprocess.run(
        [sys.executable, "-m", "dnachunker", "export", str(quiet), str(out)], capture_output=True, text=True
    )
    assert again.returncode == 2
    assert "already exists" in again.stderr
    uri = f"sqlite:///{quiet.parent / 'mlflow.db'}"
    loaded = subprocess.run([sys.executable, "-I", "-c", REGISTERED, uri, str(out)], capture_output=True, text=True)
    assert loaded.returncode == 0, loaded.stderr
    assert float(loaded.stdout) <= 1e-5


REGISTERED = """
import sys
import mlflow, torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

mlflow.set_tracking_uri(sys.argv[1])
registered = mlflow.pyfunc.load_model("models:/tiny@best")
assert registered.metadata.signature.inputs.has_input_names() is False
sequences = [*registered.input_example, "ACGTTGCATTAGGC" * 20]
model = AutoModelForMaskedLM.from_pretrained(sys.argv[2], trust_remote_code=True).eval()
tokenizer = AutoTokenizer.from_pretrained(sys.argv[2], trust_remote_code=True)
worst = 0.0
for sequence, logits in zip(sequences, registered.predict(sequences), strict=True):
    with torch.no_grad():
        wanted = model(**tokenizer(sequence, return_tensors="pt")).logits[0]
    worst = max(worst, (torch.tensor(logits) - wanted).abs().max().item())
assert not [name for name in sys.modules if name.startswith("dnachunker")]
print(worst)
"""


def test_mlflow_holds_the_run_and_its_curves(quiet: Path) -> None:
    from mlflow.tracking import MlflowClient

    assert mlflow_losses(quiet) == {step: loss for step, (loss, _) in losses(quiet).items()}
    client = MlflowClient(tracking_uri=f"sqlite:///{quiet.parent / 'mlflow.db'}")
    run_id = json.loads((quiet / "mlflow.json").read_text())["run_id"]
    record = client.get_run(run_id)
    assert record.info.status == "FINISHED"
    assert record.data.params["data.seq_len"] == "256"
    assert "valid/masked_loss" in record.data.metrics
    assert record.data.metrics["system/node0/forward_seconds"] > 0
    assert record.data.tags["device"] == "cpu"
    assert record.data.params["held_out.order5_loss"], "a baseline is a parameter, since it does not change"
    (corpus,) = record.inputs.dataset_inputs
    assert record.data.tags["corpus"].startswith(corpus.dataset.digest)
    assert {file.path for file in client.list_artifacts(run_id)} == {"config.yaml", "corpus_card.html", "report.html"}


def test_a_report_is_one_page_with_the_curves_and_chunks(quiet: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "dnachunker", "report", str(quiet)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (quiet / "report.html").read_text()
    assert not re.search(r"""(src|href)=["']|@import|url\(""", page)  # it needs no other file
    curves = json.loads(re.findall(r'id="data">(.*?)</script>', page, re.S)[0])
    losses = [step["mlm_loss"] for step in of_kind(quiet, "step")]
    assert curves["tables"][0]["step"]["mlm_loss"] == pytest.approx(losses, rel=1e-5)
    assert {"loss", "objective", "compression", "system-forward_seconds"} <= {chart["id"] for chart in curves["charts"]}
    segment = of_kind(quiet, "segmentation")[-1]
    assert page.count('class="c') >= len(segment["stage0"])


def test_a_refused_resume_leaves_the_run_as_it_was(quiet: Path, sample_corpus: Path) -> None:
    before = (quiet / "config.yaml").read_text()
    done = train(sample_corpus, quiet, *FAST, "seed=7")
    assert done.returncode == 2
    assert "seed was 0 and is now 7" in done.stderr
    assert (quiet / "config.yaml").read_text() == before


def test_overwrite_does_not_touch_what_is_no_export(quiet: Path) -> None:
    command = [sys.executable, "-m", "dnachunker", "export", str(quiet), str(quiet), "--overwrite"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "not an earlier export" in done.stderr
    assert (quiet / "checkpoints").is_dir()


def test_a_damaged_checkpoint_is_refused_by_name(quiet: Path, sample_corpus: Path, tmp_path: Path) -> None:
    import shutil

    run = tmp_path / "run"
    shutil.copytree(quiet, run)
    weights = next((run / "checkpoints").rglob("rank-00001*"))
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    command = [sys.executable, "-m", "dnachunker", "export", str(run), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert weights.name in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def read_checkpoint(folder: Path) -> dict[str, dict[str, Any]]:
    """Adam's moments and the weights by parameter, as docs/checkpoints.md says."""
    import torch
    from safetensors.torch import load_file

    for name, digest in json.loads((folder / "manifest.json").read_text()).items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    found = {name: {"weight": weight} for name, weight in load_file(folder / "weights.safetensors").items()}
    parts: dict[tuple[str, str], list[tuple[int, Any]]] = {}
    for path in (folder / "optimizer").iterdir():
        for key, vector in load_file(path).items():
            kind, start, name = key.split("/", 2)
            parts.setdefault((name, kind), []).append((int(start), vector))
    for (name, kind), vectors in parts.items():
        whole = torch.cat([vector for _, vector in sorted(vectors, key=lambda part: part[0])])
        found[name][kind] = whole.reshape(found[name]["weight"].shape)
    return found


def test_a_checkpoint_is_read_with_torch_and_safetensors_alone(quiet: Path) -> None:
    import torch

    folder = quiet / "checkpoints" / (quiet / "checkpoints" / "latest").read_text().strip()
    read = read_checkpoint(folder)
    assert any("trunk" in name for name in read)
    for values in read.values():
        assert values.keys() == {"weight", "exp_avg", "exp_avg_sq"}
        assert {value.dtype for value in values.values()} == {torch.float32}
        assert (values["exp_avg_sq"] >= 0).all()
    assert any(values["exp_avg"].abs().max() > 0 for values in read.values())
    assert len(list((folder / "optimizer").iterdir())) == 2, "each rank writes its own"
    files = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert files == {".json", ".safetensors"}, "nothing is pickled, and no script lies in a checkpoint"


class _Bomb:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return Path.touch, (self.canary,)


def test_a_checkpoint_that_could_run_code_or_is_of_an_older_version_is_refused_in_one_line(
    quiet: Path, tmp_path: Path
) -> None:
    import shutil

    import torch

    from dnachunker.foundations.failures import BadInputOnAllRanks
    from dnachunker.pretrain.checkpoints.loading import find_checkpoint
    from dnachunker.pretrain.engine.ranks import Rank

    run, canary = tmp_path / "run", tmp_path / "canary"
    shutil.copytree(quiet, run)
    folder = max((run / "checkpoints").glob("step-*"))
    names = list(json.loads((folder / "manifest.json").read_text()))

    def refused() -> str:
        manifest = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
        (folder / "manifest.json").write_text(json.dumps(manifest))  # whoever writes the other files can do that too
        with pytest.raises(BadInputOnAllRanks) as refusal:  # of which one rank prints one line
            find_checkpoint(run, Rank(0, 1, 0, torch.device("cpu")))
        assert "\n" not in str(refusal.value)
        return str(refusal.value)

    hostile = folder / "optimizer" / "rank-00001.safetensors"
    torch.save({"more": _Bomb(canary)}, hostile)
    assert refused().startswith(f"{hostile}: refused: it is not a safetensors file")
    state = json.loads((folder / "run_state.json").read_text())
    (folder / "run_state.json").write_text(json.dumps({**state, "format": 3}))
    assert (
        "has format 3, and this version of dnachunker reads format 4; continue or export the run with the" in refused()
    )
    assert not canary.exists()


def test_a_corrupt_shard_stops_the_run_with_code_2_and_its_name(sample_corpus: Path, tmp_path: Path) -> None:
    import shutil

    corpus = tmp_path / "corpus"
    shutil.copytree(sample_corpus, corpus)
    shard = corpus / "train-000000.tar.zst"
    content = bytearray(shard.read_bytes())
    blocks = Corpus.open(corpus).blocks("train")
    for offset, length in zip(blocks.offset, blocks.length, strict=True):
        content[int(offset) + int(length) // 2] ^= 1
    shard.write_bytes(content)
    done = train(corpus, tmp_path / "run", *FAST, "steps=60", "data.streams=2", "tracking.enabled=false")
    assert done.returncode == 2, done.stderr
    assert "train-000000.tar.zst" in done.stderr
    assert "offset" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_human_and_yeast_survive_an_interruption(real_genomes: Path, tmp_path: Path) -> None:
    """The whole path on real genomes: two species, chromosome-wise split, SIGTERM, resume, export."""
    config = tmp_path / "two_species.yaml"
    config.write_text(
        f"""
sources:
  human:
    path: {real_genomes / "hg38.chr2_1-2333275.fa.gz"}
    species: Homo sapiens
    split: {{kind: contigs, splits: {{}}}}
  yeast:
    path: {real_genomes / "sacCer3.fa.gz"}
    species: Saccharomyces cerevisiae
    split: {{kind: contigs, splits: {{valid: [chrXVI]}}}}
"""
    )
    corpus = tmp_path / "corpus"
    command = [sys.executable, "-m", "dnachunker"]
    subprocess.run([*command, "shard", "--config", str(config), "--output", str(corpus)], check=True, timeout=600)
    fast = [
        "steps=60",
        "evaluation.every=60",
        "evaluation.windows=8",
        "checkpoint.every=1000",
        "tracking.enabled=false",
    ]
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    done = train(corpus, straight, *fast)
    assert done.returncode == 0, done.stderr
    code, printed = train_until(30, signal.SIGTERM, pretrain_command(corpus, broken, *fast), broken)
    assert code == 3, printed
    done = train(corpus, broken, *fast)
    assert done.returncode == 0, done.stderr
    assert losses(broken) == losses(straight)
    assert len(losses(broken)) == 60
    assert export(broken, tmp_path / "export")["max_abs_diff"] <= 1e-5
