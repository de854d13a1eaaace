"""The wheel in an environment of its own, used in a folder whose files have the names of our modules."""

import os
import site
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "steps=3", "model.width=32", "model.num_heads=2", "model.trunk_layers=1", "model.state_size=4", "data.seq_len=256",
    "evaluation.windows=2", "tracking.enabled=false",
]  # fmt: skip
THEIRS = ["model", "dataprep", "configs", "cluster", "experiments", "failures", "pretrain", "foundations"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # a copy, since setuptools leaves build/ behind
    source = folder / "source"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout: the wheel is built of what git tracks")
    for name in filter(None, listed.stdout.split("\0")):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_symlink():
            (source / name).symlink_to(os.readlink(ROOT / name))
        elif (ROOT / name).exists():
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `dnachunker` command of a fresh environment: the wheel, and the libraries of this test's environment."""
    home = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", str(wheel)]
    done = subprocess.run(pip, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    packages = next((home / "lib").glob("python*/site-packages"))
    # Python reads no .pth files in a folder that a .pth file adds, so an editable install in that folder stays unseen
    (packages / "libraries.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return home / "bin" / "dnachunker"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A user's folder with modules and packages named as ours, each of which must stay unread."""
    theirs = 'raise SystemExit("a file of the user was imported")\n'
    for name in THEIRS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(theirs)
        (tmp_path / f"{name}.py").write_text(theirs)
    (tmp_path / "dnachunker").mkdir()  # say, a clone of this repository, without what makes it a package
    return tmp_path


def test_the_wheel_has_one_top_level_name_and_every_file(wheel: Path) -> None:
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert {name.partition("/")[0] for name in names} == {"dnachunker"}
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    front = {name for name in listed if name.startswith("dnachunker/") and name.endswith((".py", "py.typed"))}
    links = [path.name for path in (ROOT / "dnachunker").iterdir() if path.is_symlink()]
    linked = {f"dnachunker/{name}" for name in listed if name.partition("/")[0] in links}
    assert set(names) == front | linked


def test_the_metadata_of_the_wheel_are_valid(wheel: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", wheel], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("python_path", [False, True], ids=["", "PYTHONPATH=."])
def test_everything_runs_beside_files_of_the_same_names(installed: Path, hostile: Path, python_path: bool) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if python_path:
        environment["PYTHONPATH"] = str(hostile)
    else:  # a module that Python itself imports; on PYTHONPATH the user would have chosen to replace it
        (hostile / "random.py").write_text('raise SystemExit("a file of the user was imported")\n')

    def dnachunker(*arguments: Any) -> None:
        command = [str(installed), *map(str, arguments)]
        done = subprocess.run(command, cwd=hostile, env=environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)

    dnachunker("--help")
    dnachunker("shard", "--config", "sample", "--output", "plain", "--ray", "none")
    dnachunker("shard", "--config", "sample", "--output", "with-ray", "--workers", "2")
    dnachunker("pretrain", "--config", "tiny", "--corpus", "plain", "--run", "run", "--processes", "2", *SMALL)
    dnachunker("export", "run", "exported")
    assert (hostile / "exported" / "model.safetensors").exists()
    assert not list(hostile.glob(".*.building"))


def test_everything_runs_from_a_read_only_install_without_a_home(installed: Path, tmp_path: Path) -> None:
    """As in a container: a user id without an account, and neither the install nor the libraries can be written."""
    read_only = [installed.parents[1], *site.getsitepackages(), Path.home()]
    mount = 'for folder; do [ "$folder" = -- ] && break; mount --bind "$folder" "$folder" || exit; '
    mount += 'mount -o remount,ro,bind "$folder" || exit; shift; done; shift; exec "$@"'
    inside = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh", *map(str, read_only), "--"]
    inside += ["unshare", "--user", "--map-user=54321", "--map-group=54321"]
    environment = {
        name: value for name, value in os.environ.items() if name not in ("HOME", "PYTHONPATH", "NUMBA_CACHE_DIR")
    }
    temporary = tempfile.TemporaryDirectory(prefix="d", dir="/tmp")  # Ray's sockets allow a short path only
    environment |= {"TMPDIR": temporary.name, "OMP_NUM_THREADS": "1"}

    def run(*command: Any) -> "subprocess.CompletedProcess[str]":
        argv = [*inside, *map(str, command)]
        return subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)

    try:
        allowed = run("true")
    except FileNotFoundError:
        pytest.skip("unshare is not installed")
    if allowed.returncode:
        pytest.skip(f"this machine does not allow user namespaces: {allowed.stderr.strip()}")
    assert run("touch", installed.parent / "file").returncode, "the install can be written"

    (tmp_path / "g.yaml").write_text(
        "sources: {m: {path: 'sample:vertebrate_mitochondria.fa.gz'}}\n"
        "split: {kind: contigs, splits: {valid: [chicken_chrM]}}\nblock_bases: 8192\n"
    )
    (tmp_path / "g.fa").write_text(">a\n" + "ACGTTGCA" * 40 + "\n")
    for arguments in (
        ["shard", "--config", "g.yaml", "--output", "corpus", "--workers", "1"],
        ["pretrain", "--config", "tiny", "--corpus", "corpus", "--run", "run", "--processes", "1", *SMALL],
        ["export", "run", "exported"],
        ["segment", "--model", "exported", "--fasta", "g.fa", "--output", "tracks"],
    ):
        done = run(installed, *arguments)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        said = [line for line in done.stderr.splitlines() if line.startswith("caches are kept in ")]
        assert len(said) == 1, done.stderr
    assert list((tmp_path / "tracks").glob("*.bed*"))


def test_a_clone_in_the_current_folder_is_not_taken_for_an_editable_install(tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("dnachunker")
    if not command.exists():
        pytest.skip("dnachunker is not installed in this environment: pip install -e .")
    (tmp_path / "dnachunker").mkdir()  # without __init__.py, as the clone of the repository is
    (tmp_path / "random.py").write_text('raise SystemExit("a file of the user was imported")\n')
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    argv = [command, "shard", "--config", "sample", "--output", "corpus", "--workers", "2"]
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
