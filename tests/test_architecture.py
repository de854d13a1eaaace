"""The house rules of docs and design, read off the import statements."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("foundations", "model", "dataprep", "pretrain", "cluster", "downstream", "experiments")
LONGEST_FILE = 400
MOST_ENTRIES = 16  # files and folders of a folder, its __init__.py and docs of data apart

# What each package may import of ours, beside itself.
MAY_IMPORT = {
    "foundations": {"."},  # where the package lies
    "model": set(),
    "dataprep": {"model.alphabet", "foundations"},
    "pretrain": {
        "model", "dataprep.corpus.shard_format", "dataprep.packed_codes", "dataprep.corpus.index",
        "dataprep.corpus.held_out_doubts", "dataprep.corpus.markov", "dataprep.storage",
        "foundations", ".",
    },
    "downstream": {"model.alphabet", "dataprep.genomes", "dataprep.corpus", "dataprep.similarity", "foundations"},
    "cluster": {"pretrain.config", "dataprep.config", "foundations"},
    # it starts everything as commands; these say what a run is, what it left behind and what it costs
    "experiments": {
        "pretrain.config", "pretrain.engine.network", "pretrain.records.event_log", "pretrain.records.mlflow_content",
        "pretrain.data.headline",
        "pretrain.run_folder", "pretrain.settings.evaluation", "pretrain.checkpoints.state",
        "pretrain.evaluation.probing",
        "model.cost", "model.configuration_dnachunker", "dataprep.config",
        "downstream.output_folder", "downstream.tasks.task_folders",
        "cluster.argv", "cluster.config", "cluster.stop_requests", "cluster.backends.slurm", "cluster.backends.local",
        "foundations",
    },
    "dnachunker": {
        "dataprep.commands", "pretrain.commands", "cluster.commands", "downstream.commands", "experiments.commands",
        "cluster.backends.local", "foundations",
        # the demo, which reads what its steps left behind
        "dataprep.corpus.index", "pretrain.records.event_log", "pretrain.records.mlflow_mirror", "pretrain.run_folder",
        # what `import dnachunker` offers
        "dataprep.corpus.webdataset_view", "model.configuration_dnachunker", "model.modeling_causal",
        "model.modeling_dnachunker", "model.tokenization_dnachunker",
    },
}  # fmt: skip

# Rooms of a package from the ground up: what stands in a row may import the rows above it, and its own room.
ORDER = {
    "dataprep": (
        {"config", "storage", "packed_codes", "sample"},
        {"base_loops"},
        {"genomes"},
        {"corpus"},
        {"downloads", "layout"},
        {"similarity"},
        {"build"},
        {"commands"},
    ),
    "pretrain": (
        {"settings"},
        {"config"},
        {"engine", "order", "run_folder"},
        {"data", "safety", "checkpoints"},
        {"evaluation", "planning"},
        {"records"},
        {"export", "run"},
        {"trainer"},
        {"worker"},
        {"commands"},
    ),
    "downstream": (
        {"arguments", "output_folder"},
        {"exported", "regions"},
        {"annotations", "tasks", "windows"},
        {"classification", "embed", "studies", "tracks", "variants"},
        {"generation", "per_base"},
        {"commands"},
    ),
    "cluster": (
        {"config", "stop_requests", "topology"},
        {"argv", "request", "restart"},
        {"backends"},
        {"launch"},
        {"doctor"},
        {"commands"},
    ),
    "experiments": ({"config"}, {"budget"}, {"cells"}, {"results"}, {"running"}, {"sweep", "probing"}, {"commands"}),
}

# Heavy dependencies, and the only files that import them.
OWNERS = {
    "ray": {
        "dataprep/build/build.py",
        "cluster/backends/ray_train.py",
        "foundations/ray_tasks.py",
    },
    "deepspeed": {
        "pretrain/engine/deepspeed_engine.py",
        "pretrain/engine/deepspeed_config.py",
        "pretrain/engine/deepspeed_keys.py",
        "cluster/deepspeed_launcher.py",
    },
    "mlflow": {
        "foundations/mlflow_client.py",
        "foundations/mlflow_models.py",
        "foundations/mlflow_model_code.py",
    },
    "pyfaidx": {"dataprep/corpus/compare_fasta.py"},
    "pysam": {"downstream/variants/variant_files.py"},
    "webdataset": {"dataprep/corpus/webdataset_view.py"},
    "matplotlib": {
        "foundations/figure_style.py",
        "downstream/per_base/outputs.py",
        "downstream/studies/figures.py",
        "experiments/results/figures.py",
    },
    "numba": {
        "dataprep/base_loops.py",
        "dataprep/similarity/kmer_loops.py",
        "downstream/per_base/markov_loops.py",
        "downstream/studies/loops.py",
        "pretrain/data/window_loops.py",
        "pretrain/data/masking_loops.py",
        "pretrain/order/counter_random.py",
    },
}
TORCH_FREE = ("dataprep/", "cluster/", "dnachunker/cli.py", "dnachunker/__main__.py", "foundations/")
NAME = "dnachunker"


def sources() -> list[Path]:
    files = [*(ROOT / NAME).glob("*.py")]
    for package in PACKAGES:
        files += (ROOT / package).rglob("*.py")
    return sorted(files)


def module_name(path: Path) -> str:
    """As it is imported: every package lies beside dnachunker/ and is a link in it."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts if parts[0] == NAME else (NAME, *parts)).removesuffix(".__init__")


MODULES = {module_name(source) for source in sources()}


def imports(path: Path) -> set[str]:
    """Absolute names of the modules a file imports, wherever in the file the statement stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = module_name(path).split(".")[: -node.level]
                base = ".".join([*parent, base] if base else parent)
            names = {f"{base}.{alias.name}" for alias in node.names}
            # `from package import module` imports the module; `from module import name` the module itself
            found |= {name if name in MODULES else base for name in names}
    return found


def ours(name: str) -> bool:
    return name.partition(".")[0] == NAME


def allowed(name: str, prefixes: set[str]) -> bool:
    inner = name.removeprefix(NAME).removeprefix(".")
    return any(inner == prefix.strip(".") or (prefix != "." and inner.startswith(f"{prefix}.")) for prefix in prefixes)


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    prefixes = MAY_IMPORT[package] | {package}
    for name in filter(ours, imports(path)):
        front = package == NAME and name.count(".") == 1  # the front door's own modules
        assert front or allowed(name, prefixes), f"{path} imports {name}"


@pytest.mark.parametrize("package", ORDER)
def test_rooms_stand_on_each_other(package: str) -> None:
    level = {room: number for number, rooms in enumerate(ORDER[package]) for room in rooms}
    for path in sorted((ROOT / package).rglob("*.py")):
        room = path.relative_to(ROOT / package).with_suffix("").parts[0]
        targets = {name.split(".")[2] for name in imports(path) if name.startswith(f"{NAME}.{package}.")} - {room}
        higher = {target for target in targets if room != "__init__" and level[target] >= level[room]}
        assert not higher, f"{path} imports {higher}"


def test_ours_is_imported_by_its_one_name() -> None:
    """`import model` would work where the repository is the current folder, and nowhere else."""
    bare = {*PACKAGES, "configs"}
    listed = [*sources(), *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    for path in listed:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for name in names:
                assert name.partition(".")[0] not in bare, f"{path}: import {name} as {NAME}.{name}"


def test_every_package_is_a_link_of_the_one_that_is_imported() -> None:
    links = {path.name: os.readlink(path) for path in (ROOT / NAME).iterdir() if path.is_symlink()}
    assert links == {name: f"../{name}" for name in (*PACKAGES, "configs")}


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_heavy_dependencies_have_one_owner(path: Path) -> None:
    relative = path.relative_to(ROOT).as_posix()
    for name in imports(path):
        library = name.partition(".")[0]
        if library in OWNERS:
            assert relative in OWNERS[library], f"{relative} imports {library}"
        if library == "torch":
            assert not relative.startswith(TORCH_FREE), f"{relative} imports torch"
        # model/ looks up numba like this too: it is copied by Hugging Face, whose import check must not ask for it
        if library in ("mamba_ssm", "flash_attn", "triton"):
            pytest.fail(f"{relative} imports {library}: optional libraries are looked up with importlib")


def test_there_are_no_import_cycles() -> None:
    graph = {module_name(path): {name for name in imports(path) if ours(name)} for path in sources()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"import cycle: {' -> '.join([*trail, name])}"
        if name in graph and name not in done:
            for target in graph[name] - {name}:
                visit(target, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_small_rooms(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST_FILE
    assert path.stem not in ("utils", "helpers", "common", "misc")
    assert ast.get_docstring(ast.parse(path.read_text())) or path.stem == "__init__", "a module says what it is for"


def folders() -> list[Path]:
    tops = [ROOT / name for name in (*PACKAGES, NAME, "tests", "benchmarks", "configs", "docs")]
    return sorted(set(tops) | {path for top in tops for path in top.rglob("*") if path.is_dir()})


@pytest.mark.parametrize("folder", folders(), ids=lambda path: str(path.relative_to(ROOT)))
def test_folders_are_short_corridors(folder: Path) -> None:
    if folder.name == "__pycache__" or folder.is_symlink() or NAME in folder.relative_to(ROOT).parts[:-1]:
        return
    if folder == ROOT / "model":
        return  # flat, since Hugging Face resolves `.a.b` as a file named a.b.py
    entries = {path.name for path in folder.iterdir()} - {"__init__.py", "__pycache__"}
    assert len(entries) <= MOST_ENTRIES, f"{folder}: {len(entries)} entries"


def test_init_files_export_nothing() -> None:
    for path in (path for path in sources() if path.name == "__init__.py" and path.parent.name != NAME):
        body = ast.parse(path.read_text()).body
        assert len(body) == 1, path
        assert ast.get_docstring(ast.Module(body, [])), f"{path}: one line says what the folder holds"


def test_model_files_can_be_copied_by_hugging_face() -> None:
    for path in (ROOT / "model").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.level in (0, 1), f"{path}: only `from .x import y` is collected"
                assert node.level == 0 or node.module, f"{path}: `from . import x` is not collected"


def test_light_parts_load_no_heavy_library() -> None:
    light = [module_name(p) for p in sources() if p.relative_to(ROOT).parts[0] in ("dataprep", "cluster")]
    heavy = ("dataprep.build.build", "dataprep.corpus.webdataset_view")
    light = [name for name in light if not name.endswith(heavy)]
    pretrain = ("config", "planning.checks")
    light += [f"{NAME}.cli", *(f"{NAME}.pretrain.{name}" for name in pretrain)]
    light += [f"{NAME}.{name}.commands" for name in ("pretrain", "downstream", "experiments")]
    code = (
        "import importlib, sys\n"
        f"for name in {light!r}:\n"
        "    importlib.import_module(name)\n"
        "heavy = {'torch', 'ray', 'deepspeed', 'mlflow', 'transformers', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_no_machine_paths_in_tracked_files() -> None:
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT)
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.suffix in (".py", ".md", ".yaml", ".toml", ".j2") and path != Path(__file__) and path.exists():
            text = path.read_text()
            assert not any(f"/{home}/" in text for home in ("root", "home")), name
