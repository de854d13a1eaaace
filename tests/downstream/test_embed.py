"""`dnachunker embed`: vectors of sequences, chunks and bases agree with the model and with one another."""

import itertools
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import zarr
from transformers import AutoModel, AutoTokenizer

from dnachunker.cli import main
from dnachunker.downstream.exported import open_exported
from dnachunker.downstream.studies.cutters import ModelCutter


def embed(export: Path, fasta: Path, output: Path, *more: str) -> int:
    return main(["embed", "--model", str(export), "--fasta", str(fasta), "--output", str(output), *more])


def test_levels_agree_with_the_model_and_one_another(export: Path, fasta: Path, tmp_path: Path) -> None:
    window = ("--window", "512", "--flank", "64", "--region", "a:1-1200", "--region", "b")
    for level, name in (("mean", "m.parquet"), ("chunk", "c.parquet"), ("base", "b.zarr"), ("base", "b.parquet")):
        assert embed(export, fasta, tmp_path / name, *window, "--level", level) == 0
    tables = {name: pq.read_table(tmp_path / f"{name}.parquet") for name in "mcb"}
    root = zarr.open_group(str(tmp_path / "b.zarr"), mode="r")
    assert sorted(root) == ["a:1-1200", "b:1-300"]
    assert root.attrs["level"] == "base"
    letters = "".join(fasta.read_text().split(">")[2].split("\n")[1:])
    model = AutoModel.from_pretrained(export, trust_remote_code=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(export, trust_remote_code=False)
    with torch.no_grad():
        output = model(**tokenizer(letters, return_tensors="pt", return_token_type_ids=False))
    np.testing.assert_allclose(root["b:1-300/vectors"][:], output.last_hidden_state[0].numpy(), atol=1e-5)
    for number, (contig, length) in enumerate((("a", 1200), ("b", 300))):
        bases = root[f"{contig}:1-{length}/vectors"][:]
        assert bases.shape == (length, 32)
        assert root[f"{contig}:1-{length}/starts"][:].tolist() == list(range(length))
        rows = tables["b"].filter(pc_equal(tables["b"], contig)).column("vector").to_pylist()
        np.testing.assert_array_equal(np.array(rows, np.float32), bases)
        mean = np.array(tables["m"].column("vector")[number].as_py())
        np.testing.assert_allclose(mean, bases.mean(0), atol=1e-5)
        chunks = tables["c"].filter(pc_equal(tables["c"], contig)).to_pylist()
        assert [chunks[0]["start"], chunks[-1]["end"]] == [0, length]
        assert all(one["end"] == two["start"] for one, two in itertools.pairwise(chunks))
        for chunk in chunks:
            np.testing.assert_allclose(chunk["vector"], bases[chunk["start"] : chunk["end"]].mean(0), atol=1e-5)
    ids = output.chunk_ids[1][0].numpy()
    starts = [c["start"] for c in tables["c"].filter(pc_equal(tables["c"], "b")).to_pylist()]
    assert starts == np.flatnonzero(np.diff(ids, prepend=-1)).tolist()


def test_a_causal_model_reads_bos_first_and_its_vectors_are_of_bases(causal: Path, fasta: Path, tmp_path: Path) -> None:
    window = ("--window", "100", "--flank", "20")
    assert embed(causal, fasta, tmp_path / "c.parquet", "--region", "c", "--level", "base") == 0
    assert embed(causal, fasta, tmp_path / "b.parquet", "--region", "b:21-150", "--level", "base", *window) == 0
    model = AutoModel.from_pretrained(causal, trust_remote_code=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(causal, trust_remote_code=False)
    b, c = ("".join(record.split("\n")[1:]) for record in fasta.read_text().split(">")[2:])
    for name, letters, kept in (("c", c, slice(0, 90)), ("b", b[:100], slice(20, 80)), ("b", b[60:160], slice(20, 80))):
        with torch.no_grad():
            ids = tokenizer("[BOS]" + letters, return_tensors="pt").input_ids
            expected = model(ids).last_hidden_state[0, 1:].numpy()
        assert ids.shape == (1, len(letters) + 1)
        table = pq.read_table(tmp_path / f"{name}.parquet").to_pylist()
        first = 0 if letters != b[60:160] else 60
        found = [row["vector"] for row in table if first + kept.start <= row["start"] < first + kept.stop]
        np.testing.assert_allclose(np.array(found), expected[kept], atol=1e-4)


def test_a_causal_models_first_token_starts_at_the_first_base(causal: Path) -> None:
    exported = open_exported(causal)
    network = exported.network("none")
    letters = "ACGGTCATTGCAAC" * 9
    begun = []
    for base in "ACGT":
        cuts = ModelCutter(exported, network, 256, 32).cut(base + letters)
        assert all(found[0] for found in cuts.values())
        assert all(len(found) == 1 + len(letters) for found in cuts.values())
        ids, _ = exported.batch([exported.encode(base + letters)])
        with torch.no_grad():
            plain = network(ids).boundaries[0][0].tolist()
        assert cuts["stage 0"][1:].tolist() == plain[2:]
        begun.append(plain[1])
    assert not all(begun), "some first base is to lie in the token of [BOS]"


def pc_equal(table, contig: str):
    import pyarrow.compute as pc

    return pc.equal(table.column("contig"), contig)


def test_mistakes_leave_nothing(export: Path, fasta: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, more, message in (
        ("a.npy", (), "must end in .parquet or .zarr"),
        ("a.zarr", ("--stage", "2"), "the model has the stages 0 to 1"),
        ("a.parquet", ("--region", "nowhere"), "neither a contig of genome.fa"),
    ):
        assert embed(export, fasta, tmp_path / name, *more) == 2
        assert message in capsys.readouterr().err
        assert not list(tmp_path.iterdir())


def test_names_of_contigs_are_names_of_groups(export: Path, tmp_path: Path) -> None:
    (tmp_path / "g.fa").write_text(">a/../b%2F\nACGTACGT\n>..\nACGT\n")
    assert embed(export, tmp_path / "g.fa", tmp_path / "b.zarr", "--level", "base") == 0
    assert sorted(zarr.open_group(str(tmp_path / "b.zarr"), mode="r").group_keys()) == ["..:1-4", "a%2F..%2Fb%252F:1-8"]
    (tmp_path / "g.fa").write_text(f">{'n' * 252}\nACGT\n")  # 256 bytes with the region
    assert embed(export, tmp_path / "g.fa", tmp_path / "c.zarr") == 2
    assert not (tmp_path / "c.zarr").exists()
    assert embed(export, tmp_path / "g.fa", tmp_path / "c.parquet") == 0
