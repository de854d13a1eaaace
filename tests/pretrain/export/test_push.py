"""`dnachunker export --push`, against a server on loopback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_hub import FakeHub, fake_hub

TOKEN = "hf_aSecretThatMustNotBePrinted"
# the verb, with an export that was made before: what is pushed is the folder, whatever made it
PUSH = """
import sys
from types import SimpleNamespace
from dnachunker import cli
from dnachunker.pretrain import run_folder

def export_run(run, output, **_):
    assert output.is_dir()
    return SimpleNamespace(path=output, step=1, max_abs_diff=0.0, warning="")

run_folder.read_config = lambda run: None
sys.modules["dnachunker.pretrain.export.export"] = SimpleNamespace(export_run=export_run)  # which imports DeepSpeed
sys.exit(cli.main(sys.argv[1:]))
"""


def push(hub: FakeHub, folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    home = folder.parent / "home"
    environment = {
        **os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0", **variables,
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-c", PUSH, "export", "run", str(folder), *arguments],
        capture_output=True, text=True, env=environment, timeout=120,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "exported"
    folder.mkdir()
    (folder / "config.json").write_text("{}\n")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    (folder / "model.safetensors").write_bytes(os.urandom(5000))
    return folder


def test_an_export_is_pushed_as_it_is_and_the_token_is_not_printed(folder: Path) -> None:
    with fake_hub(TOKEN) as hub:
        done = push(hub, folder, "--push", "lab/model", "--private")
    assert done.returncode == 0, done.stderr
    assert f"pushed to {hub.url}/lab/model/commit/0123456789" in done.stdout
    assert hub.files == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert hub.created[0]["name"] == "model"
    assert hub.created[0]["organization"] == "lab"
    assert hub.created[0].get("visibility") == "private" or hub.created[0].get("private") is True
    assert TOKEN not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("repository", "variables", "said"),
    [
        ("lab/model", {"HF_TOKEN": "hf_anotherSecret"}, "hf upload lab/model"),  # the server answers 401
        ("lab/model", {"HF_TOKEN": "", "HF_ENDPOINT": "http://127.0.0.1:9"}, "hf auth login"),
        ("lab/model/x", {}, "lab/model/x"),
    ],
)
def test_what_cannot_be_pushed_is_one_line(folder: Path, repository: str, variables: dict[str, str], said: str) -> None:
    with fake_hub(TOKEN) as hub:
        done = push(hub, folder, "--push", repository, **variables)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert hub.files == {}
    assert "hf_a" not in done.stdout + done.stderr
