"""The corpus format as outsiders meet it: plain tools, stock webdataset, and a reader that shares no code with ours."""

import hashlib
import io
import json
import shutil
import struct
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pyarrow.parquet as pq
import pytest
import zstandard

from dnachunker.dataprep.build.build import build_corpus
from dnachunker.dataprep.config import CorpusConfig
from dnachunker.dataprep.corpus.index import Corpus
from dnachunker.dataprep.corpus.webdataset_view import webdataset_split
from dnachunker.foundations.failures import BadInput

FASTA = (
    b">chrA\n" + b"NNNNACGTRYacgtnnTTTTGGGGCCCCAAAA" * 30 + b"\n>chr.B\nACGTA\n>chrC\n" + b"acgtacgtaACGT" * 20 + b"\n"
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("format")
    (folder / "g.fa").write_bytes(FASTA)
    config = CorpusConfig(
        sources={"toy": {"path": str(folder / "g.fa"), "species": "Toyus toyus", "clade": "toys", "assembly": "t1"}},
        split={"kind": "contigs", "splits": {"valid": ["chrC"]}},
        block_bases=50,
        shard_bases=500,
        duplicates="keep",  # the toy genome repeats itself
    )
    return build_corpus(config, folder / "corpus", workers=0, quiet=True).corpus


def expected_letters() -> dict[str, str]:
    contigs: dict[str, str] = {}
    for record in FASTA.decode().split(">")[1:]:
        name, letters = record.split("\n", 1)
        contigs[name] = letters.strip().replace("R", "N").replace("Y", "N")
    return contigs


def read_member(members: dict[str, bytes]) -> tuple[dict[str, Any], str]:
    """Coordinates and letters of one sample, from docs/data_format.md alone."""
    place = json.loads(members["json"])
    count = place["end"] - place["start"]
    letters = ["ACGT"[members["seq"][i // 4] >> (6 - 2 * (i % 4)) & 3] for i in range(count)]
    for start, end in struct.iter_unpack("<II", members["n"]):
        letters[start:end] = "N" * (end - start)
    for start, end in struct.iter_unpack("<II", members["rep"]):
        letters[start:end] = [letter.lower() for letter in letters[start:end]]
    return place, "".join(letters)


def samples_of(tar: bytes) -> Iterator[tuple[str, dict[str, bytes]]]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        members = [(m.name, archive.extractfile(m).read()) for m in archive]  # type: ignore[union-attr]
    for i in range(0, len(members), 4):
        key = members[i][0].split(".")[0]
        assert [name for name, _ in members[i : i + 4]] == [f"{key}.{s}" for s in ("seq", "n", "rep", "json")]
        yield key, {name.split(".")[1]: data for name, data in members[i : i + 4]}


def test_an_independent_reader_recovers_every_contig(corpus: Corpus) -> None:
    root = Path(corpus.path)
    index = json.loads((root / "index.json").read_text())
    contigs = {name: [""] * len(text) for name, text in expected_letters().items()}
    for shard in index["shards"]:
        data = (root / shard["name"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (shard["bytes"], shard["sha256"])
        stream = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True).read()
        assert len(stream) % 10_240 == 0
        samples = list(samples_of(stream))
        assert len(samples) == shard["samples"]
        for _, members in samples:
            place, letters = read_member(members)
            assert (place["source"], place["species"], place["clade"]) == ("toy", "Toyus toyus", "toys")
            assert place["split"] == shard["split"]
            contigs[place["contig"]][place["start"] : place["end"]] = letters
    assert {name: "".join(letters) for name, letters in contigs.items()} == expected_letters()


def test_one_block_is_read_alone_by_offset_and_length(corpus: Corpus) -> None:
    rows = pq.read_table(f"{corpus.path}/blocks.parquet").to_pylist()
    assert [row["first_sample"] for row in rows if row["split"] == "train"] == list(range(21))
    for row in rows:
        with open(f"{corpus.path}/{row['shard']}", "rb") as handle:
            handle.seek(row["offset"])
            frame = handle.read(row["length"])
        (key, members), *rest = samples_of(zstandard.ZstdDecompressor().decompress(frame))
        place, letters = read_member(members)
        assert not rest
        assert key == row["key"]
        assert place == {name: row[name] for name in place}
        assert letters == expected_letters()[row["contig"]][row["start"] : row["end"]]
        counts = {
            "bases": len(letters),
            "n_bases": letters.upper().count("N"),
            "soft_masked": sum(map(str.islower, letters)),
            "gc": sum(letters.upper().count(letter) for letter in "GC"),
        }
        assert counts == {name: row[name] for name in counts}


@pytest.mark.skipif(not (shutil.which("zstd") and shutil.which("tar")), reason="needs the zstd and tar commands")
def test_zstd_and_tar_list_the_members(corpus: Corpus) -> None:
    for shard in corpus.index.shards:
        path = f"{corpus.path}/{shard.name}"
        plain = subprocess.run(["zstd", "-dc", path], capture_output=True, check=True).stdout
        listed = subprocess.run(["tar", "t"], input=plain, capture_output=True, check=True)
        names = listed.stdout.decode().split()
        table = corpus.blocks(shard.split)
        keys = table.key[table.shard == shard.name].tolist()
        assert names == [f"{key}.{suffix}" for key in keys for suffix in ("seq", "n", "rep", "json")]
        assert not listed.stderr


def test_stock_webdataset_iterates_every_sample(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    import webdataset

    def _open_zst(url: str, mode: str = "rb", bufsize: int = 8192, **_: Any) -> Any:
        handle = open(urlparse(url).path, mode)  # noqa: SIM115
        return zstandard.ZstdDecompressor().stream_reader(handle, read_across_frames=True)

    gopen = sys.modules["webdataset.gopen"]  # `webdataset.gopen` itself is a function of that name
    monkeypatch.setitem(gopen.gopen_schemes, "zst", _open_zst)
    urls = [f"zst:{corpus.path}/{shard.name}" for shard in corpus.index.shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == corpus.blocks().key.tolist()
    for sample in samples:
        place, letters = read_member(sample)
        assert letters == expected_letters()[place["contig"]][place["start"] : place["end"]]


def test_our_webdataset_view_decodes_and_notices_truncation(corpus: Corpus, tmp_path: Path) -> None:
    for split in corpus.splits:
        blocks = list(webdataset_split(corpus, split))
        assert [block.key for block in blocks] == corpus.blocks(split).key.tolist()
        for block in blocks:
            assert block.letters.decode() == expected_letters()[block.contig][block.start : block.end]
    copy = tmp_path / "copy"
    shutil.copytree(corpus.path, copy)
    shard = copy / corpus.index.shards[1].name
    shard.write_bytes(shard.read_bytes()[:-300])
    with pytest.raises(BadInput, match="index promises"):
        list(webdataset_split(Corpus.open(copy), "train"))


def test_the_fingerprint_is_of_the_content(corpus: Corpus, tmp_path: Path) -> None:
    shutil.copytree(corpus.path, tmp_path / "copy")
    assert Corpus.open(tmp_path / "copy").fingerprint == corpus.fingerprint
    text = (tmp_path / "copy" / "index.json").read_text()
    assert str(Path(corpus.path).parent) not in text
