"""Code written for any Hugging Face model works with an exported folder: pipelines, Trainer, peft.

The checks are in tests/support/generic_code.py, which runs in a process where this project cannot be imported.
"""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers.dynamic_module_utils import get_relative_import_files, get_relative_imports

from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.model.modeling_causal import DNAChunkerForCausalLM
from dnachunker.model.modeling_dnachunker import DNAChunkerForMaskedLM
from dnachunker.model.tokenization_dnachunker import DNATokenizer

SCRIPT = Path(__file__).parents[1] / "support" / "generic_code.py"
SMALL = {
    "width": 32, "encoder_layers": (1, 1), "decoder_layers": (1, 1), "trunk_layers": 2, "num_heads": 2,
    "scan_backend": "reference",  # nothing to compile
}  # fmt: skip


def check_names() -> list[str]:
    """The functions that CHECKS of the script lists."""
    for node in ast.parse(SCRIPT.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "CHECKS":
            return [ast.unparse(name) for name in node.value.elts]  # type: ignore[attr-defined]
    raise AssertionError("no CHECKS")


def away_from_the_project(scratch: Path) -> dict[str, str]:
    variables = {**os.environ, "HF_HOME": str(scratch), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    variables.pop("PYTHONPATH", None)
    return variables


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("exports") / "saved"
    model = DNAChunkerForMaskedLM(DNAChunkerConfig(**SMALL))
    with torch.no_grad():  # away from initial values, so that outputs differ between bases
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    DNATokenizer(model_max_length=1024).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def result(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | None]:
    scratch = tmp_path_factory.mktemp("scratch")
    done = subprocess.run(
        [sys.executable, "-I", str(SCRIPT), str(saved), str(scratch)],
        cwd=scratch, env=away_from_the_project(scratch), capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads((scratch / "result.json").read_text()))


@pytest.mark.parametrize("name", check_names())
def test_generic_code_works_with_an_exported_folder(result: dict[str, str | None], name: str) -> None:
    assert result[name] is None, result[name]


@pytest.mark.parametrize("head", [DNAChunkerForMaskedLM, DNAChunkerForCausalLM])
def test_saved_modules_name_every_file_that_they_need(tmp_path: Path, head: type) -> None:
    """transformers before 5.10 copies, from a local folder, only the files that a module names itself."""
    model = head(DNAChunkerConfig(**SMALL, causal=head is DNAChunkerForCausalLM))
    model.save_pretrained(tmp_path)
    modules = {where.partition(".")[0] for where in model.config.auto_map.values()}
    assert len(modules) >= 2
    for module in modules:
        path = tmp_path / f"{module}.py"
        needed = {Path(file).stem for file in get_relative_import_files(path)}
        assert needed == set(get_relative_imports(path)), module
        assert all((tmp_path / f"{name}.py").is_file() for name in needed)


def test_an_old_transformers_is_refused_in_one_line(saved: Path, tmp_path: Path) -> None:
    code = (
        "import sys, transformers\n"
        "transformers.__version__ = '4.57.6'\n"
        "try:\n"
        "    transformers.AutoConfig.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(saved)],
        cwd=tmp_path, env=away_from_the_project(tmp_path), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.stdout == ("DNACHUNKER needs transformers 5.0 or newer, not 4.57.6: pip install -U transformers\n"), (
        done.stderr
    )
