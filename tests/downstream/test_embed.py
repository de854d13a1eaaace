"""`dnachunker embed`: vectors of sequences, chunks and bases agree with the model and with one another."""

import itertools
import json
import shutil
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import zarr
from transformers import AutoModel, AutoTokenizer

from dnachunker.cli import main
from dnachunker.downstream import windows
from dnachunker.downstream.exported import Exported, open_exported
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


def test_vectors_of_whole_contigs_in_one_stretch_are_those_of_one_window(
    export: Path, fasta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model"
    shutil.copytree(export, model)
    described = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**described, "layer_block": 100}))
    monkeypatch.setattr(windows, "_PART", 700)  # bases of an output
    for level in ("chunk", "base"):
        both = []
        for source, window in ((model, "whole"), (export, "4096")):
            output = tmp_path / f"{level}-{window}.parquet"
            assert embed(source, fasta, output, "--window", window, "--level", level) == 0
            both.append(pq.read_table(output).to_pydict())
        assert both[0]["start"] == both[1]["start"]
        np.testing.assert_allclose(both[0]["vector"], both[1]["vector"], atol=1e-5)


def test_a_contig_in_one_stretch_is_read_once_for_all_its_regions_and_then_let_go(
    export: Path, fasta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    genes = [f"a\t{start}\t{start + 150}\tgene{start}\n" for start in (1900, 40, 100)]
    (tmp_path / "genes.bed").write_text("".join([*genes, "b\t0\t200\n", "b\t20\t60\n"]))
    regions = ("--region", str(tmp_path / "genes.bed"))
    assert embed(export, fasta, tmp_path / "long.parquet", *regions, "--window", "4096") == 0
    passes: list[weakref.ref[torch.Tensor]] = []
    made = Exported.network

    def watched(exported: Exported, head: Any) -> Any:
        network = made(exported, head)

        def forward(**inputs: Any) -> Any:
            assert all(earlier() is None for earlier in passes), "vectors of the contig before are still held"
            output = network(**inputs)
            passes.append(weakref.ref(output.last_hidden_state))
            return output

        return forward

    monkeypatch.setattr(Exported, "network", watched)
    monkeypatch.setattr(Exported, "batch_rows", lambda self, longest: 1)
    assert embed(export, fasta, tmp_path / "whole.parquet", *regions, "--window", "whole") == 0
    assert len(passes) == 2, "one for each contig"
    whole, long = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("whole", "long"))
    assert json.loads(whole.schema.metadata[b"dnachunker"])["flank"] == 0
    assert whole.drop(["vector"]) == long.drop(["vector"])
    np.testing.assert_allclose(whole["vector"].to_pylist(), long["vector"].to_pylist(), atol=1e-5)
    again = (*regions, "--region", "a:1-9", "--window", "whole")
    assert embed(export, fasta, tmp_path / "again.parquet", *again) == 2
    assert "list the regions of a contig one after the other" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("suffix", ["parquet", "zarr"])
def test_every_listed_region_keeps_its_place_its_name_and_its_own_vector(
    export: Path, fasta: Path, tmp_path: Path, suffix: str
) -> None:
    touching = [f"a\t{at}\t{at + 50}\tbin{at}\n" for at in range(1000, 1500, 50)]
    lines = ["b\t200\t300\tlast\n", *touching, "a\t900\t2100\toverlaps\n", "b\t10\t60\n", "b\t70\t90\t.\n"]
    for name, listed in (("down", lines), ("up", lines[::-1])):
        (tmp_path / f"{name}.bed").write_text("".join(listed))
        where = ("--region", str(tmp_path / f"{name}.bed"), "--region", "c", "--window", "512", "--flank", "64")
        for level in ("mean", "base"):
            assert embed(export, fasta, tmp_path / f"{name}.{level}.{suffix}", *where, "--level", level) == 0
    down, up, bases = (rows_of(tmp_path / f"{name}.{suffix}") for name in ("down.mean", "up.mean", "down.base"))
    names = ["last", *(f"bin{at}" for at in range(1000, 1500, 50)), "overlaps", "b:11-60", "b:71-90", "c"]
    assert [row["name"] for row in down] == names
    assert [row["region"] for row in down] == list(range(len(names)))
    assert [(row["start"], row["end"]) for row in down[:2]] == [(200, 300), (1000, 1050)]
    for row, same in zip(down[:-1], up[-2::-1], strict=True):  # whatever the rows around it are
        assert row["name"] == same["name"]
        np.testing.assert_allclose(row["vector"], same["vector"], atol=1e-5)
        own = [base["vector"] for base in bases if base["region"] == row["region"]]
        assert len(own) == row["end"] - row["start"]
        np.testing.assert_allclose(row["vector"], np.mean(own, axis=0), atol=1e-5)


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Rows of an output by region and place, whatever its format."""
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    found = []
    for _, group in sorted(zarr.open_group(str(path), mode="r").groups(), key=lambda named: named[1].attrs["region"]):
        for start, end, vector in zip(group["starts"][:], group["ends"][:], group["vectors"][:], strict=True):
            found.append({**group.attrs, "start": int(start), "end": int(end), "vector": vector})
    return found


def test_short_records_share_passes_and_row_groups(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "short.fa").write_text("".join(f">r{i}\n{'ACGTTGCA' * 5}{'ACGT'[i % 4]}\n" for i in range(90)))
    passes = []
    batch = Exported.batch
    monkeypatch.setattr(Exported, "batch", lambda self, ids: passes.append(len(ids)) or batch(self, ids))
    assert embed(export, tmp_path / "short.fa", tmp_path / "v.parquet", "--level", "base") == 0
    assert sum(passes) == 90
    assert len(passes) == 1
    described = pq.ParquetFile(tmp_path / "v.parquet").metadata
    assert (described.num_rows, described.num_row_groups) == (90 * 41, 1)
    (vectors,) = [
        column for column in map(described.row_group(0).column, range(described.num_columns))
        if column.path_in_schema.startswith("vector")
    ]  # fmt: skip
    assert not vectors.has_dictionary_page


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
        ("a.zarr", ("--region", "c", "--region", "c:1-90"), "c:1-90 is listed twice"),
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
