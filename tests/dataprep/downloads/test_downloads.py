"""Downloads from a server on loopback that fails in every known way; no test uses another network."""

import errno
import gzip
import hashlib
import json
import random
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from dnachunker.dataprep.build.build import build_corpus
from dnachunker.dataprep.config import CorpusConfig
from dnachunker.dataprep.downloads import catalog, download
from dnachunker.dataprep.downloads.cache import fetch_genome, fetch_url
from dnachunker.dataprep.downloads.catalog import find_genome, read_list
from dnachunker.foundations.failures import BadInput, Failure

FASTA = b">chr1\n" + bytes(random.Random(0).choices(b"ACGTacgt", k=60_000)) + b"\n"
DATA = gzip.compress(FASTA, mtime=0)
DATA = DATA + bytes(100_000)  # padding: large enough to be cut


class Server(ThreadingHTTPServer):
    """Serves `files`; each request first takes a fault from `faults`, if one is left."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.faults: list[str] = []
        self.ranges = True
        self.etag = '"v1"'
        self.requests: list[tuple[str, str | None]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.requests.append((self.path, wanted))
        fault = self.server.faults.pop(0) if self.server.faults and self.path in self.server.files else ""
        if fault == "hang up":
            self.close_connection = True
            return
        if fault.isdecimal():
            self.send_response(int(fault))
            self.send_header("Retry-After", "0")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = self.server.files.get(self.path)
        if data is None:
            self.send_error(404)
            return
        start = 0
        same = self.headers.get("If-Range") in (None, self.server.etag)
        if wanted and self.server.ranges and same:
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
            if start >= len(data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data) - start))
        if self.server.etag:
            self.send_header("ETag", self.server.etag)
        self.end_headers()
        body = data[start:]
        if fault.startswith("short"):
            body = body[: int(fault.removeprefix("short "))]
            self.close_connection = True
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setenv("DNACHUNKER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "_FIRST_WAIT", 0.001)
    monkeypatch.setattr(download, "_TIMEOUT", 5.0)
    serving = Server()
    serving.files["/g.fa.gz"] = DATA
    thread = threading.Thread(target=serving.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield serving
    serving.shutdown()
    serving.server_close()
    thread.join()


def fetch(server: Server, **options: Any) -> Any:
    return fetch_url(f"{server.url}/g.fa.gz", **({"quiet": True} | options))


def test_a_file_is_fetched_once_and_found_by_content(server: Server, tmp_path: Path) -> None:
    first = fetch(server)
    assert first.path.read_bytes() == DATA
    assert first.path == tmp_path / "cache" / "files" / hashlib.sha256(DATA).hexdigest() / "g.fa.gz"
    again = fetch(server)
    assert (first.new, again.new, again.path) == (True, False, first.path)
    assert len(server.requests) == 1
    assert not list((tmp_path / "cache" / "partial").glob("*.version"))


@pytest.mark.parametrize(
    "faults",
    [
        ["503"],
        ["503", "429", "500", "502", "504"],
        ["hang up", "503"],
        ["short 5000"],
        ["short 5000", "503", "short 3", "hang up", "short 90000"],
        ["short 0", "short 0"],
    ],
    ids=str,
)
def test_transient_errors_are_retried_and_the_download_resumes(faults: list[str], server: Server) -> None:
    server.faults = list(faults)
    assert fetch(server).path.read_bytes() == DATA
    assert len(server.requests) == len(faults) + 1
    got = 0
    for fault, (_, wanted) in zip([*faults, ""], server.requests, strict=True):
        assert wanted == (f"bytes={got}-" if got else None)
        got += int(fault.removeprefix("short ")) if fault.startswith("short") else 0


def test_a_server_without_ranges_is_read_from_the_start_again(server: Server) -> None:
    server.ranges = False
    server.faults = ["short 5000", "short 7000"]
    assert fetch(server).path.read_bytes() == DATA


@pytest.mark.parametrize("etag", ['"v2"', ""])
def test_a_file_that_changes_on_the_server_is_not_spliced(etag: str, server: Server) -> None:
    if not etag:
        server.etag = ""
    server.faults = ["short 5000"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(download, "_ATTEMPTS", 1)
        with pytest.raises(Failure):
            fetch(server)
    server.files["/g.fa.gz"] = DATA[::-1] + b"longer"
    server.etag = etag
    assert fetch(server).path.read_bytes() == DATA[::-1] + b"longer"


def test_lasting_errors_end_the_attempts_and_keep_the_partial_file(server: Server, tmp_path: Path) -> None:
    server.faults = ["short 5000"] + ["503"] * 50
    with pytest.raises(Failure, match=r"HTTP 503, 6 times in a row; the partial file is kept") as error:
        fetch(server)
    assert error.value.code == 1
    assert len(server.requests) == 6  # the attempt that made progress counts as the first of six
    server.faults = []
    server.requests.clear()
    assert fetch(server).path.read_bytes() == DATA
    assert server.requests == [("/g.fa.gz", "bytes=5000-")]


def test_a_full_disk_is_one_line_and_the_download_continues(server: Server) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    server.faults = ["short 5000"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(download.os, "fsync", full)
        with pytest.raises(Failure, match="the disk is full"):
            fetch(server)
    assert fetch(server).path.read_bytes() == DATA
    assert server.requests[-1] == ("/g.fa.gz", "bytes=5000-")


@pytest.mark.parametrize("code", ["404", "403", "410", "401"])
def test_a_refusal_is_final(code: str, server: Server, tmp_path: Path) -> None:
    server.faults = [code]
    with pytest.raises(BadInput, match=f"HTTP {code}"):
        fetch(server)
    assert len(server.requests) == 1
    assert not list((tmp_path / "cache").glob("files/*/*"))


def test_secrets_in_a_url_are_not_shown(server: Server, tmp_path: Path) -> None:
    url = server.url.replace("http://", "http://me:s3cret@") + "/none.fa?token=t0ken"
    with pytest.raises(BadInput) as error:
        fetch_url(url, quiet=True)
    assert "s3cret" not in str(error.value)
    assert "t0ken" not in str(error.value)
    server.files["/ok.fa?token=t0ken"] = FASTA
    fetch_url(f"{server.url}/ok.fa?token=t0ken", quiet=True)
    assert not any("t0ken" in path.read_text() for path in (tmp_path / "cache").rglob("*.json"))
    assert "t0ken" not in (tmp_path / "cache" / "genomes.lock").read_text()


@pytest.mark.parametrize("style", ["{md5}  g.fa.gz\n", "{md5}  ./g.fa.gz\n", "{md5} *g.fa.gz", "{MD5}  g.fa.gz"])
def test_a_published_checksum_is_verified(style: str, server: Server) -> None:
    md5 = hashlib.md5(DATA).hexdigest()
    listing = "0" * 32 + "  other.fa.gz\n" + style.format(md5=md5, MD5=md5.upper())
    server.files["/md5sum.txt"] = listing.encode()
    assert fetch(server, checksums=f"{server.url}/md5sum.txt").md5 == md5


def test_a_truncated_list_of_checksums_is_fetched_again(server: Server) -> None:
    md5 = hashlib.md5(DATA).hexdigest()
    server.files["/md5sum.txt"] = ("0" * 32 + "  other.fa.gz\n" + md5 + "  g.fa.gz\n").encode()
    server.faults = ["short 45", "503"]
    assert fetch(server, checksums=f"{server.url}/md5sum.txt").md5 == md5
    assert [path for path, _ in server.requests] == ["/md5sum.txt"] * 3 + ["/g.fa.gz"]


def test_a_wrong_checksum_leaves_nothing(server: Server, tmp_path: Path) -> None:
    server.files["/md5sum.txt"] = b"0" * 32 + b"  g.fa.gz\n"
    with pytest.raises(BadInput, match=r"its md5 is \w+, the provider publishes 0000"):
        fetch(server, checksums=f"{server.url}/md5sum.txt")
    assert not list((tmp_path / "cache").glob("files/*/*"))
    assert not (tmp_path / "cache" / "genomes.lock").exists()
    server.files["/md5sum.txt"] = hashlib.md5(DATA).hexdigest().encode() + b"  g.fa.gz\n"
    assert fetch(server, checksums=f"{server.url}/md5sum.txt").path.read_bytes() == DATA


def test_without_a_published_checksum_the_first_content_is_pinned(server: Server, tmp_path: Path) -> None:
    lock = tmp_path / "project" / "genomes.lock"
    fetch(server, checksums=f"{server.url}/none.txt", lock=lock)
    pinned = json.loads(lock.read_text())[f"{server.url}/g.fa.gz"]
    assert pinned == {"sha256": hashlib.sha256(DATA).hexdigest(), "bytes": len(DATA), "published_md5": None}
    # another machine, the same lock; the provider has replaced the file
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DNACHUNKER_CACHE", str(tmp_path / "another"))
        server.files["/g.fa.gz"] = DATA + bytes(1)
        with pytest.raises(BadInput, match=r"genomes\.lock pins"):
            fetch(server, lock=lock)
        assert not list((tmp_path / "another").glob("files/*/*"))
    lock.write_text("not json")
    with pytest.raises(BadInput, match="not a lock"):
        fetch(server, lock=lock)


def ncbi(server: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """NCBI's folders as its site lists them."""
    monkeypatch.setattr(catalog, "NCBI", f"{server.url}/genomes/all")
    folder = "/genomes/all/GCF/000/005/845/GCF_000005845.2_ASM584v2"
    parent = folder.rpartition("/")[0] + "/"
    server.files[parent] = (
        b'<a href="/genomes/all/GCF/000/005/">Parent</a> <a href="GCF_000005845.1_ASM584v1/">GCF_000005845.1_ASM584v1/'
        b'</a>\n<a href="GCF_000005845.2_ASM584v2/">GCF_000005845.2_ASM584v2/</a>'
    )
    server.files[f"{folder}/GCF_000005845.2_ASM584v2_genomic.fna.gz"] = DATA
    listing = f"{hashlib.md5(DATA).hexdigest()}  ./GCF_000005845.2_ASM584v2_genomic.fna.gz\n"
    server.files[f"{folder}/md5checksums.txt"] = listing.encode()
    return folder


def test_an_ncbi_accession_is_found_by_its_folders(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ncbi(server, monkeypatch)
    found = fetch_genome(find_genome("GCF_000005845.2"), quiet=True)
    assert found.url == f"{server.url}{folder}/GCF_000005845.2_ASM584v2_genomic.fna.gz"
    assert found.md5 == hashlib.md5(DATA).hexdigest()
    server.requests.clear()
    assert not fetch_genome(find_genome("GCF_000005845.2"), quiet=True).new
    assert not server.requests
    with pytest.raises(BadInput, match=r"no such assembly .*the folder has GCF_000005845\.1_ASM584v1, GCF"):
        fetch_genome(find_genome("GCF_000005845.9"), quiet=True)


def test_a_corpus_names_genomes_and_urls_instead_of_files(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ncbi(server, monkeypatch)
    server.files["/far.fa"] = FASTA[:6] + FASTA[6:][::-1]
    server.files["/splits.bed"] = b"chr1\t0\t30000\ttrain\nchr1\t30000\t40000\tvalid\n"
    server.files["/mask.bed"] = b"chr1\t0\t10\n"
    sources = {
        "named": {"genome": "GCF_000005845.2", "weight": 2.5},
        "far": {"path": f"{server.url}/far.fa", "repeats": {"kind": "bed", "path": f"{server.url}/mask.bed"}},
    }
    split = {"kind": "bed", "path": f"{server.url}/splits.bed"}
    values = {"sources": sources, "split": split, "block_bases": 4096}
    corpus = build_corpus(CorpusConfig(**values), tmp_path / "corpus", workers=0, quiet=True).corpus
    named, far = corpus.sources
    assert (named.assembly, named.weight, far.weight) == ("GCF_000005845.2", 2.5, None)
    assert named.provenance.startswith(server.url)
    assert "NCBI places no restrictions" in named.licence
    assert (far.file, far.soft_masked, named.soft_masked > 10) == ("far.fa", 10, True)
    assert str(tmp_path) not in (tmp_path / "corpus" / "index.json").read_text()
    server.shutdown()  # everything is in the cache by now
    assert build_corpus(CorpusConfig(**values), tmp_path / "corpus", workers=0, quiet=True).reused
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()  # for the fixture's end


def test_the_human_presets_run_on_what_the_command_fetches(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The catalog and the preset as they ship, with a small genome behind the addresses of the large one."""
    from dnachunker.cli import main

    letters = FASTA[6:].strip()
    contigs = [b"chr1", b"chr10", b"chr20", b"chrX"]
    genome = b"".join(b">%s\n%s\n" % (name, letters[n::4]) for n, name in enumerate(contigs))
    splits = ["train\n", "valid\n", "test\n", "train\n"]
    bed = "".join(f"{name.decode()}\t0\t9000\t{split}" for name, split in zip(contigs, splits, strict=True))
    intervals = "basenji_barnyard2/sequences_human.bed"
    served = catalog.CATALOG.read_text("utf-8")
    for host in ("https://hgdownload.soe.ucsc.edu", "https://storage.googleapis.com"):
        served = served.replace(host, server.url)
    (tmp_path / "genomes.tsv").write_text(served, "utf-8")
    monkeypatch.setattr(catalog, "CATALOG", tmp_path / "genomes.tsv")
    server.files["/goldenPath/hg38/bigZips/hg38.fa.gz"] = gzip.compress(genome)
    server.files[f"/{intervals}"] = bed.encode()

    assert main(["genomes", "fetch", "hg38"]) == 0
    assert f"hg38 intervals: fetched, {len(bed):,} bytes" in capsys.readouterr().out
    server.requests.clear()
    shard = ["shard", "--ray", "none", "--workers", "0", "--output"]
    at = f"split.path={server.url}/{intervals}"
    assert main([*shard, str(tmp_path / "a"), "--config", "hg38", at]) == 0
    assert main([*shard, str(tmp_path / "b"), "--config", "hg38-tiles", "split.tile=1024", "split.gap=64"]) == 0
    assert not server.requests, "everything is in the cache"
    capsys.readouterr()
    assert main(["corpus", "info", str(tmp_path / "a")]) == 0
    assert "18,000" in capsys.readouterr().out
    for corpus in ("a", "b"):
        assert set(json.loads((tmp_path / corpus / "index.json").read_text())["splits"]) == {"train", "valid", "test"}


def test_a_file_of_ones_own_is_described_by_the_catalog(server: Server, tmp_path: Path) -> None:
    (tmp_path / "mine.fa").write_bytes(FASTA)
    source = {"genome": "sacCer3", "path": str(tmp_path / "mine.fa"), "clade": "yeasts"}
    config = CorpusConfig(sources={"y": source}, split={"kind": "contigs", "splits": {}}, block_bases=4096)
    record = build_corpus(config, tmp_path / "corpus", workers=0, quiet=True).corpus.sources[0]
    assert (record.species, record.clade, record.assembly) == ("Saccharomyces cerevisiae", "yeasts", "R64")
    assert (record.provenance, record.file) == ("", "mine.fa")
    assert "Engel et al. 2014" in record.citation
    assert not server.requests


def test_object_stores_are_read_through_fsspec(server: Server) -> None:
    import fsspec

    with fsspec.open("memory://bucket/g.fa.gz", "wb") as target:
        target.write(DATA)
    assert fetch_url("memory://bucket/g.fa.gz", quiet=True).path.read_bytes() == DATA
    with pytest.raises(BadInput, match="memory://bucket/none"):
        fetch_url("memory://bucket/none", quiet=True)


def test_a_list_of_genomes_is_fetched_past_failures(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dnachunker.cli import main

    ncbi(server, monkeypatch)
    rows = [f"gone\t{server.url}/gone.fa\t", f"mine\t{server.url}/g.fa.gz\t", "\t\tGCF_000005845.2"]
    (tmp_path / "list.tsv").write_text("name\turl\taccession\n" + "\n".join(rows) + "\n")
    assert read_list(tmp_path / "list.tsv")[2].name == "GCF_000005845.2"
    lock = tmp_path / "genomes.lock"
    assert main(["genomes", "fetch", "--from", str(tmp_path / "list.tsv"), "--lock", str(lock)]) == 2
    said = capsys.readouterr()
    assert said.out.count("sha256") == 2
    assert "1 of 3 genomes could not be fetched; the first: " in said.err
    assert len(json.loads(lock.read_text())) == 2
    assert main(["genomes", "list", "--from", str(tmp_path / "list.tsv"), "--sources"]) == 0
    assert "genome: GCF_000005845.2" in capsys.readouterr().out


def test_concurrent_fetches_download_once(server: Server, tmp_path: Path) -> None:
    import multiprocessing

    context: Callable[..., Any] = multiprocessing.get_context("fork").Process
    processes = [context(target=fetch, args=(server,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(server.requests) == 1
