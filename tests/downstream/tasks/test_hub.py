"""`dnachunker tasks fetch`, against a server on loopback that speaks the hub's protocol and serves coordinates."""

import gzip
import hashlib
import io
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from dnachunker.cli import main
from dnachunker.downstream.tasks.hub import fetch_suite
from dnachunker.downstream.tasks.labelled import read_labelled
from dnachunker.downstream.tasks.task_folders import load_suite, suite_tasks
from dnachunker.foundations.failures import BadInput

NT = f"/datasets/InstaDeepAI/nucleotide_transformer_downstream_tasks/resolve/{load_suite('nt').revision}"
REVISED = NT.partition("/resolve")[0] + f"_revised/resolve/{load_suite('nt-revised').revision}"


class Server(ThreadingHTTPServer):
    """Serves files by path, and datasets as the hub lists and serves them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append(path)
        body = self.server.files.get(path)
        if path.startswith("/api/datasets/"):
            repository = "/".join(path.split("/")[3:5])
            top = f"/datasets/{repository}/resolve/{path.split('/')[6]}/"
            names = [name.removeprefix(top) for name in self.server.files if name.startswith(top)]
            listed = [{"type": "file", "path": name, "size": 1, "oid": "0" * 40} for name in names]
            body = json.dumps(listed).encode()
        self.send_response(200 if body is not None else 404)
        body = body or b""
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json" if path.startswith("/api") else "application/octet-stream")
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", "1" * 40)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def fetch(suite: str, output: Path, *more: str) -> int:
    return main(["tasks", "fetch", suite, "--output", str(output), *more])


def test_a_hub_dataset_of_fasta_files(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for task in ("H3", "H3K4me1"):  # one name begins with the other
        for split, count in (("train", 6), ("test", 4)):
            text = "".join(f">{task}_{i}|{i % 2}\n{'ACGT' * (i + 1)}\n" for i in range(count))
            server.files[f"{NT}/{task}/{split}.fna"] = text.encode()
    arguments = ("--endpoint", server.url, "--task", "H3")
    assert fetch("nt", tmp_path / "nt", *arguments) == 0
    assert "H3: 6 training and 4 test sequences" in capsys.readouterr().out
    data = read_labelled(tmp_path / "nt" / "H3" / "test.fna")
    assert data.labels.tolist() == [0, 1, 0, 1]
    assert not (tmp_path / "nt" / "H3K4me1").exists()
    asked = len(server.asked)
    assert fetch("nt", tmp_path / "nt", *arguments) == 0
    assert len(server.asked) == asked  # existing tasks are kept
    assert fetch("nt", tmp_path / "nt", "--endpoint", server.url, "--task", "H4") == 2
    assert "has no train data" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "nt").iterdir()) == ["H3"]
    assert fetch("nt", tmp_path / "nt", "--task", "H9") == 2
    server.files[f"{NT}/H4/train-0.fna"] = b">x|1\nA\n"
    server.files[f"{NT}/H4/train-1.fna"] = b">x|1\nA\n"
    assert fetch("nt", tmp_path / "nt", "--endpoint", server.url, "--task", "H4") == 2
    assert "train data in several files, " in capsys.readouterr().err
    assert fetch("nt", tmp_path / "nt", "--endpoint", "http://127.0.0.1:9", "--task", "H4") == 1
    error = capsys.readouterr().err
    assert "run this again to continue" in error
    assert error.count("Traceback") == 0
    # the other suite has tasks of the same names with other data
    capsys.readouterr()
    (tmp_path / "nt" / "H3").rename(tmp_path / "nt" / "H2AFZ")
    capsys.readouterr()
    assert fetch("nt-revised", tmp_path / "nt", "--endpoint", server.url, "--task", "H2AFZ") == 2
    assert "was fetched for {'suite': 'nt'" in capsys.readouterr().err
    with pytest.raises(BadInput, match="was fetched for"):
        suite_tasks("nt-revised", tmp_path / "nt")


def test_a_hub_dataset_with_all_tasks_in_one_table(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "test"):
        for part in range(2):
            table = pa.table(
                {"sequence": ["AC", "GT", "AA"], "label": [0, 1, 1], "task": ["H2AFZ", "enhancers", "H2AFZ"]}
            )
            raw = io.BytesIO()
            pq.write_table(table, raw)
            server.files[f"{REVISED}/data/{split}-0000{part}-of-00002.parquet"] = raw.getvalue()
    assert fetch("nt-revised", tmp_path / "out", "--endpoint", server.url, "--task", "H2AFZ") == 0
    data = read_labelled(tmp_path / "out" / "H2AFZ" / "train.parquet")
    for name in server.files:
        server.files[name] = b"nothing"
    shutil.rmtree(tmp_path / "cache")
    capsys.readouterr()
    assert fetch("nt-revised", tmp_path / "out", "--endpoint", server.url, "--task", "enhancers") == 1
    assert "train data of enhancers: " in capsys.readouterr().err
    assert data.sequences == ("AC", "AA", "AC", "AA")


def test_genomic_benchmarks_are_cut_from_coordinates(
    server: Server, fasta: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = "human_nontata_promoters"
    url = "ftp://ftp.ensembl.org/pub/Homo_sapiens.GRCh38.dna.toplevel.fa.gz"
    kinds = "".join(f"  {name}:\n    type: fa.gz\n    url: {url}\n" for name in ("positive", "negative"))
    server.files[f"/gb/{task}/metadata.yaml"] = f"classes:\n{kinds}version: 0\n".encode()
    rows = {"positive": "0,chra,100,110,+\n1,b,5,9,-\n", "negative": "0,a,698,704,-\n"}
    for split in ("train", "test"):
        for name, lines in rows.items():
            text = gzip.compress(b"id,region,start,end,strand\n" + lines.encode())
            server.files[f"/gb/{task}/{split}/{name}.csv.gz"] = text
    arguments = ("--source", f"{server.url}/gb", "--task", task)
    assert fetch("genomic-benchmarks", tmp_path / "gb", *arguments) == 2
    assert "--genome Homo_sapiens.GRCh38=FILE" in capsys.readouterr().err
    assert fetch("genomic-benchmarks", tmp_path / "gb", *arguments, "--genome", f"Homo_sapiens.GRCh38={fasta}") == 0
    assert f"{task}: 3 training and 3 test sequences; PUBLISHED ARE" in capsys.readouterr().out
    contigs = {r.split("\n")[0]: "".join(r.split("\n")[1:]) for r in fasta.read_text().split(">")[1:]}
    opposite = str.maketrans("ACGTacgt", "TGCAtgca")
    data = read_labelled(tmp_path / "gb" / task / "train.csv.gz")
    assert data.classes == ("negative", "positive")
    expected = [
        contigs["a"][698:704].translate(opposite)[::-1],
        contigs["a"][100:110],
        contigs["b"][5:9].translate(opposite)[::-1],
    ]
    assert list(data.sequences) == expected
    assert data.labels.tolist() == [0, 1, 1]
    server.files[f"/gb/{task}/test/positive.csv.gz"] = b"<html>sign in</html>"
    assert fetch("genomic-benchmarks", tmp_path / "two", *arguments, "--genome", f"Homo_sapiens={fasta}") == 2
    assert "positive.csv.gz: not gzipped coordinates" in capsys.readouterr().err
    server.files[f"/gb/{task}/test/positive.csv.gz"] = gzip.compress(b"id,region,start,end,strand\n0,c,80,95,+\n")
    assert fetch("genomic-benchmarks", tmp_path / "two", *arguments, "--genome", f"Homo_sapiens={fasta}") == 2
    assert "line 2: c:81-95 does not lie in" in capsys.readouterr().err
    assert not list((tmp_path / "two").iterdir())


@pytest.mark.parametrize(
    ("contig", "region"),
    [("1", "chr1"), ("chrM", "MT"), ("chrIV", "4"), ("ENST00000456328.2", "ENST00000456328"), ("chr1", "chr1")],
)
def test_coordinates_may_spell_contigs_otherwise_than_the_genome(tmp_path: Path, contig: str, region: str) -> None:
    task, split = (
        "demo_coding_vs_intergenomic_seqs",
        gzip.compress(f"region,start,end,strand\n{region},2,6,+\n".encode()),
    )
    (tmp_path / "genome.fa").write_text(f">{contig}\nAACGTTAA\n>other\nACGT\n")
    source = tmp_path / "coordinates" / task
    for name in ("train", "test"):
        (source / name).mkdir(parents=True)
        (source / name / "coding.csv.gz").write_bytes(split)
    (source / "metadata.yaml").write_text("classes:\n  coding:\n    url: ftp://host/Homo.dna.fa.gz\n")
    arguments = ("--source", str(source.parent), "--task", task, "--genome", f"Homo={tmp_path / 'genome.fa'}")
    assert fetch("genomic-benchmarks", tmp_path / "gb", *arguments) == 0
    assert read_labelled(tmp_path / "gb" / task / "train.csv.gz").sequences == ("CGTT",)
    bad = b"region,start,end,strand\nchr1,2\n"
    (source / "test" / "coding.csv.gz").write_bytes(gzip.compress(bad))
    with pytest.raises(BadInput, match=r"coding.csv.gz: line 2: needs region, start, end and strand"):
        fetch_suite(
            "genomic-benchmarks",
            tmp_path / "bad",
            tasks=[task],
            source=str(source.parent),
            genomes={"Homo": tmp_path / "genome.fa"},
        )


def test_a_compressed_file_of_the_hub_keeps_the_ending_that_says_so(server: Server, tmp_path: Path) -> None:
    for split in ("train", "test"):
        server.files[f"{NT}/H3/{split}.fna.zst"] = zstandard.compress(b">x|1\nA\n>y|0\nC\n")
    assert fetch("nt", tmp_path / "nt", "--endpoint", server.url, "--task", "H3") == 0
    assert read_labelled(tmp_path / "nt" / "H3" / "test.fna.zst").sequences == ("A", "C")


def test_counts_that_differ_from_the_published_are_said(
    fasta: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "gb" / "human_enhancers_cohn"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        (folder / f"{split}.csv").write_text("sequence,label\nACGT,positive\n")
    assert fetch("genomic-benchmarks", tmp_path / "gb", "--task", "human_enhancers_cohn") == 0
    assert "PUBLISHED ARE 20,843 AND 6,948" in capsys.readouterr().out
