"""Builds as users run them: again, after a kill, over another corpus, and with wrong input."""

import hashlib
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from dnachunker.dataprep.build import steps, tasks
from dnachunker.dataprep.build.build import BuildSummary, build_corpus
from dnachunker.dataprep.config import CorpusConfig
from dnachunker.dataprep.corpus.index import Corpus
from dnachunker.dataprep.corpus.verify import verify_corpus
from dnachunker.foundations.failures import BadInput, Failure

FASTA = b">a\n" + b"ACGTTGCAacgtgNNN" * 40 + b"\n>b\n" + b"GATTACA" * 30 + b"\n"


@pytest.fixture
def config(tmp_path: Path) -> CorpusConfig:
    (tmp_path / "g.fa").write_bytes(FASTA)
    return small_config(tmp_path)


def small_config(folder: Path, **values: Any) -> CorpusConfig:
    defaults = {
        "sources": {"g": {"path": str(folder / "g.fa")}},
        "split": {"kind": "contigs", "splits": {"valid": ["b"]}},
        "block_bases": 32,
        "shard_bases": 100,
        "duplicates": "keep",  # the toy genome repeats itself, and has blocks of mostly N
        "max_n": 1.0,
    }
    return CorpusConfig(**(defaults | values))


def build(config: CorpusConfig, output: Path, **options: Any) -> BuildSummary:
    return build_corpus(config, output, **({"workers": 0, "quiet": True} | options))


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_building_again_recognises_the_finished_corpus(config: CorpusConfig, tmp_path: Path) -> None:
    first = build(config, tmp_path / "corpus")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "corpus").iterdir()}
    again = build(config, tmp_path / "corpus", workers=3)
    assert (first.reused, again.reused) == (False, True)
    assert again.corpus.fingerprint == first.corpus.fingerprint
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "corpus").iterdir()}


@pytest.mark.parametrize("change", ["config", "input", "damage"])
def test_another_corpus_is_replaced_only_on_request(change: str, config: CorpusConfig, tmp_path: Path) -> None:
    output = tmp_path / "corpus"
    build(config, output)
    old = hashes(output)
    if change == "config":
        config = small_config(tmp_path, block_bases=64)
    elif change == "input":
        (tmp_path / "g.fa").write_bytes(FASTA + b">c\nACGT\n")
    else:
        (output / "train-000000.tar.zst").unlink()
        del old["train-000000.tar.zst"]
    with pytest.raises(BadInput, match="--overwrite"):
        build(config, output)
    assert hashes(output) == old
    build(config, output, overwrite=True)
    assert hashes(output) != old
    assert verify_corpus(Corpus.open(output)) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "g.fa"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_is_no_corpus_is_never_replaced(overwrite: bool, config: CorpusConfig, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").write_text("x")
    with pytest.raises(BadInput, match="not a corpus"):
        build(config, tmp_path / "precious", overwrite=overwrite)
    assert (tmp_path / "precious" / "thesis.tex").read_text() == "x"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["g.fa", "precious"]


def test_the_corpus_does_not_depend_on_where_things_lie(config: CorpusConfig, tmp_path: Path) -> None:
    build(config, tmp_path / "one")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "g.fa").write_bytes(FASTA)
    build(small_config(tmp_path / "elsewhere", workers=7), tmp_path / "elsewhere" / "two")
    assert hashes(tmp_path / "one") == hashes(tmp_path / "elsewhere" / "two")


@pytest.mark.parametrize("shards_before_kill", [0, 1, 5])
def test_a_killed_build_continues(shards_before_kill: int, config: CorpusConfig, tmp_path: Path) -> None:
    build(config, tmp_path / "reference")
    output = tmp_path / "corpus"
    child = multiprocessing.get_context("fork").Process(target=_die_after, args=(shards_before_kill, config, output))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert not output.exists()
    summary = build(config, output)
    assert summary.resumed_shards == shards_before_kill
    assert hashes(output) == hashes(tmp_path / "reference")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "g.fa", "reference"]


def _die_after(shards: int, config: CorpusConfig, output: Path) -> None:
    done = 0
    write = tasks.shard_task

    def _task(*arguments: Any) -> Any:
        nonlocal done
        if done == shards:
            os.kill(os.getpid(), signal.SIGKILL)
        done += 1
        return write(*arguments)

    steps.shard_task = _task  # type: ignore[attr-defined]
    build(config, output)


def test_leftovers_of_another_build_are_not_taken_over(config: CorpusConfig, tmp_path: Path) -> None:
    build(config, tmp_path / "reference")
    child = multiprocessing.get_context("fork").Process(
        target=_die_after, args=(4, small_config(tmp_path, block_bases=48), tmp_path / "corpus")
    )
    child.start()
    child.join(60)
    shard = tmp_path / ".corpus.building" / "corpus" / "train-000000.tar.zst"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert build(config, tmp_path / "corpus").resumed_shards == 0
    assert hashes(tmp_path / "corpus") == hashes(tmp_path / "reference")


def test_a_damaged_finished_shard_is_written_again(config: CorpusConfig, tmp_path: Path) -> None:
    build(config, tmp_path / "reference")
    child = multiprocessing.get_context("fork").Process(target=_die_after, args=(3, config, tmp_path / "corpus"))
    child.start()
    child.join(60)
    shard = tmp_path / ".corpus.building" / "corpus" / "train-000001.tar.zst"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert build(config, tmp_path / "corpus").resumed_shards == 2
    assert hashes(tmp_path / "corpus") == hashes(tmp_path / "reference")


def test_two_builds_of_one_corpus_do_not_mix(config: CorpusConfig, tmp_path: Path) -> None:
    from dnachunker.dataprep.build.folder import BuildFolder

    with BuildFolder(str(tmp_path / "corpus")) as folder:
        with pytest.raises(BadInput, match="another build"):
            build(config, tmp_path / "corpus")
        assert folder.corpus.is_dir()


def test_a_full_disk_is_one_line_and_keeps_what_is_done(
    config: CorpusConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = 0
    write = tasks.ShardWriter.add

    def _add(self: Any, *block: Any) -> Any:
        nonlocal written
        written += 1
        if written > 6:
            raise OSError(28, "No space left on device", "shard")
        return write(self, *block)

    monkeypatch.setattr(tasks.ShardWriter, "add", _add)
    with pytest.raises(Failure, match="disk is full"):
        build(config, tmp_path / "corpus")
    assert not (tmp_path / "corpus").exists()
    monkeypatch.undo()
    assert build(config, tmp_path / "corpus").resumed_shards == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"split": {"kind": "contigs", "splits": {"valid": ["a", "b"]}}}, "no train split"),
        ({"split": {"kind": "contigs", "splits": {"valid": ["z"]}}}, "names contig 'z'"),
        ({"split": {"kind": "contigs", "splits": {}, "rest": "unused"}}, "no bases at all"),
        ({"min_bases": 10**6}, "no bases at all"),
    ],
)
def test_a_corpus_that_could_not_train_is_refused(
    values: dict[str, Any], message: str, config: CorpusConfig, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=message):
        build(small_config(tmp_path, **values), tmp_path / "corpus")
    assert [path.name for path in tmp_path.iterdir()] == ["g.fa"]


def test_a_bed_file_divides_the_genome_and_belongs_to_its_identity(config: CorpusConfig, tmp_path: Path) -> None:
    bed = tmp_path / "splits.bed"
    bed.write_text("a\t0\t100\ttrain\na\t50\t200\ttrain\na\t300\t400\tvalid\nb\t0\t10\ttest\n")
    config = small_config(tmp_path, split={"kind": "bed", "path": str(bed)})
    corpus = build(config, tmp_path / "corpus").corpus
    assert {split: totals.bases for split, totals in corpus.index.splits.items()} == {
        "train": 200,
        "valid": 100,
        "test": 10,
    }
    assert verify_corpus(corpus) == []
    assert build(config, tmp_path / "corpus").reused
    bed.write_text(bed.read_text() + "b\t10\t20\ttest\n")
    with pytest.raises(BadInput, match="--overwrite"):
        build(config, tmp_path / "corpus")
    bed.write_text("a\t0\t100\ttrain\na\t99\t120\tvalid\n")
    with pytest.raises(BadInput, match=r"share bases in 1 pairs: train a:1-100 and valid a:100-120"):
        build(config, tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "g.fa", "splits.bed"]


def test_contigs_are_selected_by_pattern_and_length(config: CorpusConfig, tmp_path: Path) -> None:
    path = str(tmp_path / "g.fa")
    no_split = {"kind": "contigs", "splits": {}}
    for selection in ({"contigs": {"exclude": ["b*"]}}, {"contigs": {"include": ["a"]}}, {"min_contig": 300}):
        values = {"sources": {"g": {"path": path} | selection}, "split": no_split}
        corpus = build(small_config(tmp_path, **values), tmp_path / "corpus", overwrite=True).corpus
        assert corpus.sources[0].contigs == {"a": 640}
        assert corpus.sources[0].contigs_left_out == 1
    values = {"sources": {"g": {"path": path, "contigs": {"include": ["chr*"]}}}}
    with pytest.raises(BadInput, match="leave none of the 2 contigs"):
        build(small_config(tmp_path, **values), tmp_path / "other")


def test_case_can_be_ignored(config: CorpusConfig, tmp_path: Path) -> None:
    values = {"sources": {"g": {"path": str(tmp_path / "g.fa"), "repeats": "none"}}}
    corpus = build(small_config(tmp_path, **values), tmp_path / "corpus").corpus
    assert corpus.sources[0].soft_masked == 0
    assert verify_corpus(corpus) == []
