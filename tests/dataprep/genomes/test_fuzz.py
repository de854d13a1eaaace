"""Reading arbitrary bytes gives a result or a one-line `BadInput`, and no other exception.

Each target starts from files that are right and damages them. A short run is part of every test run;
`DNACHUNKER_FUZZ_SECONDS=300 pytest tests/dataprep/genomes/test_fuzz.py` shares five minutes between the targets, and
`DNACHUNKER_FUZZ_SEED` starts elsewhere.
"""

import gzip
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from dnachunker.dataprep.config import BedSplit
from dnachunker.dataprep.corpus.shard_format import block_from_packed, decode_block, encode_block
from dnachunker.dataprep.downloads.catalog import read_list
from dnachunker.dataprep.genomes.prepare import prepare_genome
from dnachunker.dataprep.genomes.repeats import RepeatSource, read_repeats
from dnachunker.dataprep.layout.splits import divide
from dnachunker.foundations.failures import BadInput

SECONDS = float(os.environ.get("DNACHUNKER_FUZZ_SECONDS", 0))
SEED = int(os.environ.get("DNACHUNKER_FUZZ_SEED", 0))
EXAMPLES = 150  # a round

CONTIGS = {"chr1": 1000, "chr2|x": 500, "ü": 90}
FASTA = b">chr1 first\nACGTNNacgtn\nACGRYacgtaa\nAC\n>chr2\nTTTTTTTTTT\nTTTTTTTTTT\n>none\n>c\r\nA C\r\n"
BED = b"track name=x\n#c\nchr1\t0\t100\ttrain\nchr1 100 200 valid\n\xc3\xbc\t1\t90\ttest\nchr1\t200\t300\tvalid\n"
OUT = (
    b"   SW   perc perc perc  query\nscore   div. del. ins.  sequence\n\n"
    b"  463   1.3  0.6  1.7  chr1         3      6     (14) +  (TAACCC)n Simple_repeat      1  471    (0)      1\n"
    b" 3612  11.4 21.5  1.3  chr1         5    980     (12) C  TAR1      Satellite/telo (399) 1712    483      2 *\n"
)
LIST = b"#c\nname\tspecies\turl\taccession\nx\tH. s.\thttps://a/b.fa\t\n\t\t\tGCF_000005845.2\n"
TWOBIT = bytes.fromhex(
    "4327411a 00000000 02000000 00000000 01 61 1c000000 01 62 37000000"
    "0a000000 01000000 00000000 02000000 00000000 00000000 9ce4b0"
    "04000000 00000000 01000000 01000000 02000000 00000000 1b"
)


def damaged(*originals: bytes) -> st.SearchStrategy[bytes]:
    """One of `originals` after a few edits, or random bytes."""
    words = [b">", b"\n", b"\r", b"\r\n", b"\t", b" ", b"\0", b"-1", b"9" * 30, b"1e3", b"\xff\xff\xff\xff", b"chr1"]
    words += [b"NNN", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\x1f\x8b", b"\x85", b"\x1c", "٣".encode(), b"#"]
    edit = st.tuples(
        st.sampled_from(["cut", "insert", "overwrite", "repeat", "end"]),
        st.integers(0, 400),
        st.integers(1, 40),
        st.one_of(st.sampled_from(words), st.binary(min_size=1, max_size=8)),
    )

    def apply(original: bytes, edits: list[tuple[str, int, int, bytes]]) -> bytes:
        data = original
        for kind, position, length, piece in edits:
            at = position % (len(data) + 1)
            if kind == "cut":
                data = data[:at] + data[at + length :]
            elif kind == "insert":
                data = data[:at] + piece + data[at:]
            elif kind == "overwrite":
                data = data[:at] + piece + data[at + len(piece) :]
            elif kind == "repeat":
                data = data[:at] + data[at : at + length] * 3 + data[at + length :]
            else:
                data = data[:at]
        return data

    edited = st.builds(apply, st.sampled_from(originals), st.lists(edit, max_size=4))
    return st.one_of(*[edited] * 7, st.binary(max_size=300))


def frames() -> tuple[bytes, ...]:
    place = {"split": "train", "source": "g", "species": "", "clade": "", "assembly": "", "contig": "a", "start": 0}
    rows = [np.arange(n, dtype=np.uint8) % 5 | (np.arange(n) // 7 % 2 * 8).astype(np.uint8) for n in (1, 4, 300)]
    blocks = [block_from_packed(row, key="g-a-0000000000", end=row.size, **place) for row in rows]
    return tuple(encode_block(block)[0] for block in blocks)


def read_genome(data: bytes, folder: Path) -> None:
    path = folder / "g.fa"
    path.write_bytes(data)
    work = folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    genome = prepare_genome(path, work)
    for contig in genome.contigs:
        stretch = genome.read(contig, 0, contig.length)
        assert stretch.bases.size == -(-contig.length // 4) > 0
        for runs in (stretch.n_runs, stretch.soft_runs):
            assert (np.diff(runs.ravel().astype(int)) > 0).all()
            assert not runs.size or runs[-1, 1] <= contig.length


def read_split_bed(data: bytes, folder: Path) -> None:
    path = folder / "splits.bed"
    path.write_bytes(data)
    rule = BedSplit(kind="bed", path=str(path), grow_to="power_of_two" if len(data) % 2 else None)
    for piece in divide(rule, CONTIGS, source="g", seed=0):
        assert 0 <= piece.start < piece.end <= CONTIGS[piece.contig]


def read_mask(kind: str) -> Callable[[bytes, Path], None]:
    def read(data: bytes, folder: Path) -> None:
        path = folder / "mask"
        path.write_bytes(data)
        for contig, runs in read_repeats(RepeatSource(kind, str(path)), CONTIGS).items():
            edges = runs.ravel()
            assert edges[0] >= 0
            assert edges[-1] <= CONTIGS[contig]
            assert (edges[1:] > edges[:-1]).all()

    return read


def decode(data: bytes, _: Path) -> None:
    block = decode_block(data)
    assert block.packed.size == block.bases


def decode_recompressed(data: bytes, folder: Path) -> None:
    """Damage inside a frame whose checksums are right."""
    decode(zstandard.ZstdCompressor(write_checksum=True).compress(data), folder)


def read_names(data: bytes, folder: Path) -> None:
    path = folder / "list.tsv"
    path.write_bytes(data)
    assert all(entry.name for entry in read_list(path))


STREAMS = tuple(zstandard.ZstdDecompressor().decompress(frame) for frame in frames())
PACKED = (gzip.compress(FASTA), gzip.compress(FASTA[:30]) + gzip.compress(FASTA[30:]), zstandard.compress(FASTA))
TARGETS: dict[str, tuple[st.SearchStrategy[bytes], Callable[[bytes, Path], None]]] = {
    "FASTA": (damaged(FASTA), read_genome),
    "compressed FASTA": (damaged(*PACKED), read_genome),
    "damaged FASTA, compressed": (damaged(FASTA).map(gzip.compress), read_genome),
    "2bit": (damaged(TWOBIT), read_genome),
    "split BED": (damaged(BED), read_split_bed),
    "repeat BED": (damaged(BED), read_mask("bed")),
    "RepeatMasker": (damaged(OUT), read_mask("repeatmasker")),
    "shard": (damaged(*frames()), decode),
    "shard with right checksums": (damaged(*STREAMS), decode_recompressed),
    "list of genomes": (damaged(LIST), read_names),
}


@pytest.mark.timeout(600 + SECONDS)
@pytest.mark.parametrize("name", TARGETS)
def test_only_bad_input_escapes(name: str) -> None:
    strategy, target = TARGETS[name]
    ends = time.monotonic() + SECONDS / len(TARGETS)
    tried = refused = rounds = 0
    messages: set[str] = set()
    with tempfile.TemporaryDirectory() as folder:

        def attempt(data: bytes) -> None:
            nonlocal tried, refused
            tried += 1
            try:
                target(data, Path(folder))
            except BadInput as error:
                refused += 1
                messages.add(str(error))

        while rounds == 0 or time.monotonic() < ends:
            run = given(strategy)(attempt)
            run = settings(
                max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck)
            )(run)
            seed(SEED + rounds)(run)()
            rounds += 1
            assert all(messages)
            assert not any("\n" in message for message in messages)
            messages.clear()
    print(f"{name}: {tried:,} inputs, {refused:,} refused")
    assert 0 < refused < tried, "the edits should leave some inputs right, and break others"
