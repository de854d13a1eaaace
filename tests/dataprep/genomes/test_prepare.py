"""Every accepted form of FASTA gives the same bases; any other file gives a one-line error and leaves nothing."""

import gzip
import random
import shutil
import struct
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dnachunker.dataprep.corpus.index import Corpus
from dnachunker.dataprep.genomes.fasta_scan import FastaScan
from dnachunker.dataprep.genomes.genome import Genome
from dnachunker.dataprep.genomes.prepare import glance, prepare_genome
from dnachunker.dataprep.genomes.prepared_sequence import PreparedWriter, read_stretch
from dnachunker.dataprep.layout.plan import PlannedSource
from dnachunker.dataprep.packed_codes import unpack_bases
from dnachunker.foundations.failures import BadInput

Build = Callable[..., Corpus]
Reassemble = Callable[[Corpus, str], dict[str, str]]
GOOD = b">chr1 first\nACGTNNacgtn\nACG\n>chr2\nTTTTTTTTTTTTTTTTTTTTTTTTTTTTTTTTTTT\n"


def members(data: bytes, piece: int = 20) -> bytes:
    """Many gzip members; the last one is empty."""
    pieces = [data[i : i + piece] for i in range(0, len(data), piece)]
    return b"".join(gzip.compress(member) for member in [*pieces, b""])


def bgzip(data: bytes, piece: int = 20) -> bytes:
    """bgzip: many members that state their length; the last one is empty (BGZF, SAM specification, section 4.1)."""
    packed = b""
    for piece_of in [*(data[i : i + piece] for i in range(0, len(data), piece)), b""]:
        body = zlib.compress(piece_of, wbits=-15)
        header = b"\x1f\x8b\x08\x04" + bytes(5) + b"\xff" + b"\x06\0BC\x02\0" + struct.pack("<H", len(body) + 25)
        packed += header + body + struct.pack("<II", zlib.crc32(piece_of), len(piece_of))
    return packed


ACCEPTED = {
    "plain": (GOOD, {"chr1": "ACGTNNacgtnACG", "chr2": "T" * 35}),
    "gzip": (gzip.compress(GOOD), {"chr1": "ACGTNNacgtnACG", "chr2": "T" * 35}),
    "gzip, many members": (members(GOOD), {"chr1": "ACGTNNacgtnACG", "chr2": "T" * 35}),
    "bgzip, then gzip": (bgzip(GOOD[:20]) + gzip.compress(GOOD[20:]), {"chr1": "ACGTNNacgtnACG", "chr2": "T" * 35}),
    "bgzip": (bgzip(GOOD), {"chr1": "ACGTNNacgtnACG", "chr2": "T" * 35}),
    "gzip with zero padding": (gzip.compress(GOOD) + bytes(100), {"chr1": "ACGTNNacgtnACG", "chr2": "T" * 35}),
    "zstd": (zstandard.compress(GOOD), {"chr1": "ACGTNNacgtnACG", "chr2": "T" * 35}),
    "zstd, several frames, one to skip": (
        zstandard.compress(GOOD[:30]) + b"\x50\x2a\x4d\x18\x03\0\0\0abc" + zstandard.compress(GOOD[30:]),
        {"chr1": "ACGTNNacgtnACG", "chr2": "T" * 35},
    ),
    "no trailing newline": (GOOD.rstrip(b"\n"), {"chr1": "ACGTNNacgtnACG", "chr2": "T" * 35}),
    "CRLF": (GOOD.replace(b"\n", b"\r\n"), {"chr1": "ACGTNNacgtnACG", "chr2": "T" * 35}),
    "blank lines and trailing blanks": (b"\n\n>a\nACGT  \n\n\tAC\n\n", {"a": "ACGTAC"}),
    "uneven lines": (b">a\nA\nCCCCCCC\nGG\n", {"a": "ACCCCCCCGG"}),
    "empty records": (b">none\n>a\nACGT\n>alsonone", {"a": "ACGT"}),
    "one base": (b">a\nG", {"a": "G"}),
    "IUPAC letters": (b">a\n" + b"ACGT" * 20 + b"RYkN\n", {"a": "ACGT" * 20 + "NNnN"}),
    "hostile names": (
        ">../../etc\nAAAA\n>a|b.c/d\nCCCC\n>ü\nGGGG\n>a_b.c_d\nTTTT\n".encode(),
        {"../../etc": "AAAA", "a|b.c/d": "CCCC", "ü": "GGGG", "a_b.c_d": "TTTT"},
    ),
    "byte order mark": (b"\xef\xbb\xbf>a\r\nACGT\r\n", {"a": "ACGT"}),
    "byte order mark on a line of its own": (b"\xef\xbb\xbf\n\n>a\nACGT\n", {"a": "ACGT"}),
    "byte order mark, gzip": (gzip.compress(b"\xef\xbb\xbf>a\nACGT\n"), {"a": "ACGT"}),
    "Latin-1 headers": (">a Gr\u00f6\u00dfe\nAC\n>\u00fc x\nGT\n".encode("latin-1"), {"a": "AC", "\\xfc": "GT"}),
    "a no-break space in a name": (">a\u00a0b\nAC\n".encode(), {"a\u00a0b": "AC"}),
    "gzip, then bgzip": (gzip.compress(GOOD[:20]) + bgzip(GOOD[20:]), {"chr1": "ACGTNNacgtnACG", "chr2": "T" * 35}),
    "bgzip with zero padding": (bgzip(GOOD) + bytes(5000), {"chr1": "ACGTNNacgtnACG", "chr2": "T" * 35}),
    "two bgzip files": (bgzip(GOOD[:20]) + bgzip(GOOD[20:]), {"chr1": "ACGTNNacgtnACG", "chr2": "T" * 35}),
    "empty members first": (members(b"") + bgzip(b"") + bgzip(b">a\nAC\n"), {"a": "AC"}),
    "a header with >": (b">a b>c > d\nACGT\n", {"a": "ACGT"}),
}


@pytest.mark.parametrize("form", ACCEPTED)
def test_accepted_forms(form: str, build: Build, reassemble: Reassemble, tmp_path: Path) -> None:
    data, expected = ACCEPTED[form]
    corpus = build(data)
    assert reassemble(corpus, "g") == expected
    with Genome(tmp_path / "genome.fa") as genome:
        assert {name: genome.fetch(name, 0, length) for name, length in genome.lengths.items()} == expected
    keys = corpus.blocks().key.tolist()
    assert len(set(keys)) == len(keys)


def test_what_was_read_as_n_is_reported(build: Build) -> None:
    corpus = build(b">a\n" + b"ACGT" * 50 + b"RrYN\n>b\n>c\nAC\n", min_bases=3)
    source = corpus.sources[0]
    assert source.ambiguous == {"R": 2, "Y": 1}
    assert (source.n_bases, source.soft_masked, source.empty_records, source.bases_too_short) == (4, 1, 1, 2)


REFUSED = {
    "empty file": (b"", "is empty"),
    "no sequence": (b">a\n>b\n", "no sequence in 2 FASTA records"),
    "not FASTA": (b"hello\nworld\n", "not FASTA"),
    "binary": (bytes(range(256)) * 10, "not FASTA"),
    "BED": (b"chr1\t0\t100\ttrain\n", "not FASTA"),
    "truncated gzip": (gzip.compress(GOOD + b"ACGGT" * 500)[:-20], "truncated gzip"),
    "gzip cut at its trailer": (gzip.compress(GOOD)[:-4], "truncated gzip"),
    "bgzip cut inside a member": (bgzip(GOOD)[:-40], "truncated gzip"),
    "bgzip cut inside a header": (bgzip(GOOD)[:-20], "truncated gzip"),
    "bgzip cut before the size in a header": (bgzip(GOOD)[:-12], "truncated gzip"),
    "bgzip cut between members": (bgzip(GOOD)[:-28], "bgzip file is missing at offset"),
    "gzip, then bgzip cut between members": (gzip.compress(GOOD) + bgzip(b">c\nAC\n")[:-28], "is missing at offset"),
    "compressed twice": (gzip.compress(gzip.compress(GOOD)), "compressed twice"),
    "half a byte order mark": (b"\xef\xbb>a\nACGT\n", "line 1: `>` inside a line"),
    "UTF-16": (">a\nACGT\n".encode("utf-16"), "UTF-16 text"),
    "damaged bgzip": (bgzip(GOOD)[:26] + b"\xff\xff" + bgzip(GOOD)[28:], "damaged gzip"),
    "damaged gzip": (gzip.compress(GOOD)[:15] + b"\xff\xff" + gzip.compress(GOOD)[17:], "damaged gzip"),
    "gzip then garbage": (gzip.compress(GOOD) + b"garbage", "damaged gzip"),
    "truncated zstd": (zstandard.compress(GOOD)[:-3], "truncated zstd"),
    "zstd cut between frames' bytes": (zstandard.compress(GOOD) + zstandard.compress(GOOD)[:9], "truncated zstd"),
    "damaged zstd": (b"\x28\xb5\x2f\xfd" + b"\xff" * 20, "damaged zstd"),
    "xz": (b"\xfd7zXZ\0" + bytes(20), "compressed with xz"),
    "2bit without content": (b"\x43\x27\x41\x1a" + bytes(12), "no sequence in 0 records"),
    "truncated 2bit": (b"\x43\x27\x41\x1a" + bytes(7), "damaged or truncated .2bit"),
    "duplicate contig": (b">a\nAC\n>b\nAC\n>a x\nGT\n", "line 5: contig a again, first on line 1"),
    "protein": (b">a\nACGT\n>p\nACGT\nMKTAYIAKQR\n", "line 5, contig p: 'I' is not a nucleotide"),
    "protein of IUPAC letters": (b">p\n" + b"MKTAYSSRD\n" * 10, "looks like protein"),
    "gap letters": (b">a\nAC--GT\n", "line 2, contig a: '-' is not a nucleotide"),
    "control character in a name": (b">a\nAC\n>b\x1b[2J x\nAC\n", r"line 3: the name 'b\x1b[2J' holds a control"),
    "NUL in a name": (b">a\0b\nAC\n", r"line 1: the name 'a\x00b' holds a control character; rename it"),
    "> inside a line": (b">a\nAC>GT\n", "line 2, contig a: `>` inside a line"),
    "header without a name": (b">a\nAC\n>\nGT\n", "line 3: a header without a name"),
    "blank before the name": (b"> a\nAC\n", "line 1: a header without a name"),
    "Mac line ends": (b">a\rACGT\r>b\rACGT\r", "bare carriage returns"),
    "letter on a late CRLF line": (b">a\r\nAC\r\nAC\r\nA*\r\n", "line 4, contig a: '*'"),
}


@pytest.mark.parametrize("form", REFUSED)
def test_refused_forms(form: str, build: Build, tmp_path: Path) -> None:
    data, expected = REFUSED[form]
    with pytest.raises(BadInput) as error:
        build(data, name="bad.fa")
    message = str(error.value)
    assert expected in message
    assert "bad.fa" in message
    assert "\n" not in message
    assert [path.name for path in tmp_path.iterdir()] == ["bad.fa"]
    with pytest.raises(BadInput) as same:
        Genome(tmp_path / "bad.fa")
    assert str(same.value) == message


def test_missing_file(tmp_path: Path) -> None:
    from dnachunker.dataprep.build.build import build_corpus
    from dnachunker.dataprep.config import CorpusConfig

    config = CorpusConfig(sources={"g": {"path": str(tmp_path / "no.fa")}})
    with pytest.raises(BadInput, match=r"no\.fa: no such file"):
        build_corpus(config, tmp_path / "corpus", workers=0)
    assert not list(tmp_path.iterdir())


letters = st.text(alphabet="ACGTacgtNn", max_size=120)


@given(
    contigs=st.lists(letters, min_size=1, max_size=5).filter(any),
    width=st.integers(1, 70),
    newline=st.sampled_from(["\n", "\r\n"]),
    compression=st.sampled_from(["plain", "gzip", "bgzip"]),
    block_bases=st.integers(16, 64),
    rule=st.sampled_from(
        [
            {"kind": "contigs", "splits": {}},
            {"kind": "hash", "tile": 17, "valid": 0.3, "test": 0.2, "gap": 0},
        ]
    ),
    seed=st.integers(0, 5),
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_any_genome_comes_back_letter_by_letter(
    contigs: list[str],
    width: int,
    newline: str,
    compression: str,
    block_bases: int,
    rule: dict[str, Any],
    seed: int,
    build: Build,
    reassemble: Reassemble,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    lines: list[str] = []
    for number, text in enumerate(contigs):
        lines.append(f">c{number} comment")
        lines += [text[i : i + width] for i in range(0, len(text), width)]
    data = newline.join(lines).encode()
    data = {"plain": data, "gzip": gzip.compress(data), "bgzip": bgzip(data)}[compression]
    output = str(tmp_path_factory.mktemp("corpora") / "corpus")
    try:
        corpus = build(data, output=output, block_bases=block_bases, split=rule, seed=seed)
    except BadInput as error:
        if "no train split" not in str(error):  # all of the few tiles may fall to valid and test
            raise
        return
    assert reassemble(corpus, "g") == {f"c{i}": text for i, text in enumerate(contigs) if text}


@pytest.mark.parametrize("piece", [1, 3, 7, 10_000])
def test_any_stretch_is_what_the_file_says(piece: int, tmp_path: Path, letters_of: Any, read_fasta: Any) -> None:
    """For any size of the pieces read, and any start and end of the stretch."""
    text = {"a": "ACGTANNgtaRCn", "b": "acgtACGTACGTAC", "c": "NN", "d": "T"}
    (tmp_path / "genome").mkdir()
    with PreparedWriter(tmp_path / "genome" / "g") as sink:
        scan = FastaScan(tmp_path / "g.fa", sink)
        data = "".join(f">{name}\n{letters}\n" for name, letters in text.items()).encode()
        for start in range(0, len(data), piece):
            scan.feed(data[start : start + piece])
        scan.finish()
    expected = read_fasta(data)
    assert [contig.name for contig in sink.contigs] == list(expected)
    for contig in sink.contigs:
        letters = expected[contig.name]
        assert contig.length == len(letters)
        for start in range(contig.length):
            for end in range(start + 1, contig.length + 1):
                assert letters_of(read_stretch(tmp_path / "genome" / "g", contig, start, end)) == letters[start:end]


def test_threads_read_more_genomes_than_are_kept_open(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    genomes = []
    for number in range(40):
        codes = rng.integers(0, 4, 4000).astype(np.uint8)
        with PreparedWriter(tmp_path / str(number)) as sink:
            sink.add(codes)
            sink.close_contig("c", 1)
        genomes.append((tmp_path / str(number), sink.contigs[0], codes))

    def read(turn: int) -> bool:
        stem, contig, codes = genomes[turn * 7 % len(genomes)]
        stretch = read_stretch(stem, contig, 4, 3000)
        return np.array_equal(unpack_bases(stretch.bases, stretch.length), codes[4:3000])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(4000)))


def test_a_prepared_genome_is_reused_only_if_it_is_complete(tmp_path: Path) -> None:
    path, work = tmp_path / "g.fa", tmp_path / "work"
    work.mkdir()
    path.write_bytes(GOOD)
    genome = prepare_genome(path, work)
    first = sorted((file.name, file.stat().st_mtime_ns) for file in work.iterdir())
    assert prepare_genome(path, work) == genome
    assert sorted((file.name, file.stat().st_mtime_ns) for file in work.iterdir()) == first
    edges = Path(genome.stem + ".edges")
    edges.write_bytes(edges.read_bytes()[:-8])
    assert prepare_genome(path, work) == genome
    assert genome.is_here


def test_a_machine_without_the_prepared_files_prepares_the_same_genome(tmp_path: Path, letters_of: Any) -> None:
    path, work = tmp_path / "g.fa", tmp_path / "work"
    work.mkdir()
    path.write_bytes(GOOD)
    genome = prepare_genome(path, work)
    contigs = {contig.name: contig for contig in genome.contigs}
    source = PlannedSource("g", "", "", "", "soft_mask", None, genome, contigs)
    shutil.rmtree(work)
    assert letters_of(source.read("chr1", 2, 11)) == "GTNNacgtn"
    shutil.rmtree(work)
    path.write_bytes(GOOD.replace(b"ACG", b"TTT"))
    with pytest.raises(BadInput, match=r"g\.fa: changed during the build"):
        source.read("chr1", 2, 11)


def test_piece_borders_do_not_matter(
    monkeypatch: pytest.MonkeyPatch, build: Build, reassemble: Reassemble, read_fasta: Any
) -> None:
    """Headers, line ends and gzip members may cross the borders of the pieces read."""
    rng = random.Random(1)
    lines = []
    for number in range(30):
        lines += [f">contig{number} {'x' * rng.randrange(30)}"]
        lines += ["".join(rng.choices("ACGTacgtNR", (9, 9, 9, 9, 9, 9, 9, 9, 1, 1), k=rng.randrange(60)))] * 3
    data = "\r\n".join(lines).encode()
    monkeypatch.setattr("dnachunker.dataprep.genomes.decompress._READ_BYTES", 37)
    monkeypatch.setattr("dnachunker.dataprep.genomes.decompress._YIELD_BYTES", 23)
    for number, packed in enumerate((data, gzip.compress(data), members(data, 50), bgzip(data, 5))):
        corpus = build(packed, output=f"corpus{number}", block_bases=32)
        assert reassemble(corpus, "g") == read_fasta(data)


@pytest.mark.parametrize(
    "packed",
    [b"", gzip.compress(b""), bgzip(b"", 5), zstandard.compress(b"")],
    ids=["plain", "gzip", "bgzip", "zstd"],
)
def test_a_glance_says_that_a_file_is_empty(tmp_path: Path, packed: bytes) -> None:
    (tmp_path / "g.fa").write_bytes(packed)
    with pytest.raises(BadInput, match=r"g\.fa: the file is empty$"):
        glance(tmp_path / "g.fa")


def test_a_glance_leaves_no_thread_behind(tmp_path: Path) -> None:
    """Workers are forked after a glance, and a lock held by a thread at the fork would hang them."""
    letters = b">a\n" + b"ACGTTGCA" * 3_000_000  # more pieces than are drawn ahead
    for number, data in enumerate((gzip.compress(letters, 1), bgzip(letters, 65_280))):
        path = tmp_path / f"g{number}.fa.gz"
        path.write_bytes(data)
        glance(path)
        left = {thread.name.partition("_")[0] for thread in threading.enumerate()}
        assert not left & {"decompress", "gunzip"}
