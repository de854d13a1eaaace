"""`dnachunker shard` and `dnachunker corpus` as typed, through the argument parser."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from dnachunker.dataprep import commands
from dnachunker.dataprep.corpus.index import Corpus
from dnachunker.foundations.failures import BadInput, Failure


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(dest="verb")
    commands.add_shard_arguments(verbs.add_parser("shard"))
    commands.add_corpus_arguments(verbs.add_parser("corpus"))
    args = parser.parse_args(words)
    return commands.run_shard(args) if args.verb == "shard" else commands.run_corpus(args)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("corpora") / "sample"
    assert run("shard", "--config", "sample", "--output", str(output), "--workers", "0") == 0
    return output


def test_importing_the_commands_is_cheap() -> None:
    heavy = ["numpy", "pyarrow", "pydantic", "omegaconf", "ray", "torch", "zstandard", "webdataset"]
    code = f"import sys, dnachunker.dataprep.commands; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_reading_a_corpus_needs_neither_torch_nor_ray() -> None:
    code = (
        "import sys, pkgutil, importlib\n"
        "from dnachunker import dataprep\n"
        "for m in pkgutil.walk_packages(dataprep.__path__, 'dnachunker.dataprep.'): importlib.import_module(m.name)\n"
        "print([m for m in ('torch', 'ray', 'webdataset') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_the_sample_holds_out_parts_of_both_genomes(sample: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = Corpus.open(sample)
    valid = corpus.blocks("valid")
    pylori = valid.select(valid.source == "helicobacter")
    assert 0.07 < pylori.bases.sum() / 1_578_824 < 0.15
    assert len(pylori) >= 4
    assert set(valid.source.tolist()) == {"helicobacter", "mitochondria"}
    assert run("corpus", "info", str(sample)) == 0
    shown = capsys.readouterr().out
    assert "Helicobacter pylori" in shown
    assert corpus.fingerprint in shown


def test_verify_names_the_first_fault_and_counts_all(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    assert run("corpus", "verify", str(sample)) == 0
    assert "33 blocks in 2 shards verified" in capsys.readouterr().out
    copy = tmp_path / "copy"
    shutil.copytree(sample, copy)
    table = Corpus.open(copy).blocks("train")
    shard = copy / "train-000000.tar.zst"
    data = bytearray(shard.read_bytes())
    data[int(table.offset[3]) + 40] ^= 4
    data[int(table.offset[7]) + 40] ^= 4
    shard.write_bytes(data)
    with pytest.raises(BadInput, match=rf"train-000000.*offset {table.offset[3]}: .*\(2 faults in all\)"):
        run("corpus", "verify", str(copy))
    shard.write_bytes(bytes(data[: int(table.offset[20])]))
    with pytest.raises(BadInput, match=r"\(9 faults in all\)"):
        run("corpus", "verify", str(copy))
    shard.unlink()
    with pytest.raises(BadInput, match="no such file"):
        run("corpus", "verify", str(copy))
    # a whole, valid shard in another's place
    shutil.copy(copy / "valid-000000.tar.zst", shard)
    with pytest.raises(BadInput, match="train-000000"):
        run("corpus", "verify", str(copy))
    # the end-of-archive frame belongs to no block
    intact = (sample / shard.name).read_bytes()
    shard.write_bytes(intact[:-6] + bytes([intact[-6] ^ 1]) + intact[-5:])
    with pytest.raises(BadInput, match="sha256 differs"):
        run("corpus", "verify", str(copy))
    shard.write_bytes(intact + b"\0")
    with pytest.raises(BadInput, match="1 bytes too many at offset"):
        run("corpus", "verify", str(copy))


def test_show_prints_the_letters_of_a_region(sample: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("corpus", "show", str(sample), "human_chrM:1-60") == 0
    assert "GATCACAGGTCTATCACCCTATTAACCACTCACGGGAGCTCTCCATGCATTTGGTATTTT" in capsys.readouterr().out
    for region, message in {
        "human_chrM:1-": "on no contig",
        "chr1:1-10": "'chr1:1-10' is on no contig",
        "human_chrM:10-5": "16,571 bases",
        "human_chrM:0-10": "16,571 bases; regions count from 1",
        "human_chrM:1-99999": "16,571 bases",
    }.items():
        with pytest.raises(BadInput, match=message):
            run("corpus", "show", str(sample), region)


def test_show_lists_the_runs_of_n_and_soft_mask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fasta = tmp_path / "g.fa"
    fasta.write_text(">c\n" + "ACGT" * 25 + "acgtNNNNNnnacgt" + "A" * 85 + "\n")
    config = tmp_path / "corpus.yaml"
    config.write_text(f"sources: {{g: {{path: {fasta}}}}}\nmin_bases: 100\n")
    assert run("shard", "--config", str(config), "--output", str(tmp_path / "out"), "--ray", "none") == 0
    capsys.readouterr()
    assert run("corpus", "show", str(tmp_path / "out"), "c:99-120") == 0
    shown = capsys.readouterr().out
    assert "(N 7, soft-masked 10, unused 0)" in shown
    assert "  N 105-111\n" in shown
    assert "  soft-masked 101-104 110-115\n" in shown
    assert " 99  GTacgtNNNNNnnacgtAAAAA\n" in shown


def test_print_config_builds_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for preset in ("sample", "hg38", "multispecies"):
        assert run("shard", "--config", preset, "--print-config", "block_bases=4096") == 0
        assert "block_bases: 4096" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config", "sample", "blok_bases=3"], "unknown key 'blok_bases'; nearest valid key: 'block_bases'"),
        (["--config", "sample", "sources.helicobacter.path=nowhere.fa"], "nowhere.fa: no such file"),
        (["--config", "nothing"], "presets: "),
        (["--config", "sample", "split.gap=40000"], "gap"),
        (["--config", "sample", "sources.a-b.path=x.fa"], "source name"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(Failure, match=message) as error:
        run("shard", *words, "--output", str(tmp_path / "corpus"), "--workers", "0")
    assert error.value.code == 2
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such corpus"),
        ("{", "not valid JSON"),
        ("[]", "not the index of a dnachunker corpus"),
        (json.dumps({"format": "dnachunker-corpus", "format_version": 99}), "format version 99"),
        (json.dumps({"format": "dnachunker-corpus", "format_version": 1}), "rebuild the corpus"),
    ],
)
def test_what_is_not_a_corpus_is_said_in_one_line(content: str | None, message: str, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    if content is not None:
        corpus.mkdir()
        (corpus / "index.json").write_text(content)
    with pytest.raises(BadInput, match=message) as error:
        run("corpus", "info", str(corpus))
    assert "\n" not in str(error.value)


def test_a_corpus_is_read_through_a_url(sample: Path) -> None:
    local, remote = Corpus.open(sample), Corpus.open(f"file://{sample}")
    assert remote.fingerprint == local.fingerprint
    table = remote.blocks("valid")
    assert remote.read_block(table, 1).letters == local.read_block(local.blocks("valid"), 1).letters
