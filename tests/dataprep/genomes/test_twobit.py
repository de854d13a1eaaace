"""A .2bit file gives the same bases, N and soft-mask as its FASTA file; a damaged one gives a one-line error."""

import struct
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import pytest

from dnachunker.dataprep.corpus.index import Corpus
from dnachunker.dataprep.genomes.genome import Genome
from dnachunker.dataprep.genomes.prepare import prepare_genome
from dnachunker.foundations.failures import BadInput

LETTERS = {
    "chr1": "NNNNNacgtACGTTGCAnnnnACGTA",
    "chr2_random": "T",
    "empty": "",
    "ü|/..": "ACGTN" * 3 + "ggggCC" * 9,
}


def twobit(letters: dict[str, str], order: str = "<", version: int = 0) -> bytes:
    """An independent writer, made from the description of the format."""

    def runs(flags: list[bool]) -> bytes:
        starts, sizes, position = [], [], 0
        for flag, group in groupby(flags):
            size = len(list(group))
            if flag:
                starts.append(position)
                sizes.append(size)
            position += size
        return struct.pack(f"{order}I{2 * len(starts)}I", len(starts), *starts, *sizes)

    records = []
    for text in letters.values():
        codes = ["TCAG".find(letter) % 4 if letter in "TCAG" else 0 for letter in text.upper()]
        codes += [0] * (-len(codes) % 4)
        packed = bytes(a << 6 | b << 4 | c << 2 | d for a, b, c, d in zip(*[iter(codes)] * 4, strict=True))
        records.append(
            struct.pack(f"{order}I", len(text))
            + runs([letter in "nN" for letter in text])
            + runs([letter.islower() for letter in text])
            + bytes(4)
            + packed
        )
    word = "Q" if version else "I"
    names = [name.encode() for name in letters]
    offset = 16 + sum(1 + len(name) + struct.calcsize(word) for name in names)
    index = b""
    for name, record in zip(names, records, strict=True):
        index += bytes([len(name)]) + name + struct.pack(order + word, offset)
        offset += len(record)
    return struct.pack(f"{order}4I", 0x1A412743, version, len(letters), 0) + index + b"".join(records)


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders_and_versions(
    order: str, version: int, build: Callable[..., Corpus], reassemble: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    corpus = build(twobit(LETTERS, order, version), name="genome.2bit")
    assert reassemble(corpus, "g") == {name: text for name, text in LETTERS.items() if text}
    assert corpus.sources[0].empty_records == 1
    with Genome(tmp_path / "genome.2bit") as genome:
        found = {name: genome.fetch(name, 1, length) for name, length in genome.lengths.items()}
    assert found == {name: text[1:] for name, text in LETTERS.items() if text}


def test_blocks_across_pieces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, letters_of: Callable[..., str]) -> None:
    monkeypatch.setattr("dnachunker.dataprep.genomes.twobit._STEP", 8)
    path = tmp_path / "genome.2bit"
    path.write_bytes(twobit(LETTERS))
    genome = prepare_genome(path, tmp_path)
    found = {contig.name: letters_of(genome.read(contig, 0, contig.length)) for contig in genome.contigs}
    assert found == {name: text for name, text in LETTERS.items() if text}


def damaged() -> dict[str, tuple[bytes, str]]:
    good, long = (twobit({"a": "ACGTACGTAC", "b": "NNAC"}, version=version) for version in (0, 1))
    mask_count = len(twobit({"a": ""})) - 8  # in a file whose only record is empty
    return {
        "version": (good[:4] + b"\7" + good[5:], "version 7"),
        "truncated": (good[:-1], "ends 1 bytes early"),
        "twice": (good.replace(b"\1b", b"\1a"), "sequence a twice"),
        "many sequences": (good[:8] + b"\xff\xff\xff\xff" + good[12:], "claims 4294967295"),
        "many blocks": (twobit({"a": ""})[:mask_count] + b"\xff\xff\xff\xff" + bytes(4), "4294967295 mask blocks"),
        "block outside": (good.replace(struct.pack("<3I", 1, 0, 2), struct.pack("<3I", 1, 3, 2)), "N blocks of b"),
        "control character": (good.replace(b"\1b", b"\1\x1b"), "sequence 2: the name '.x1b' holds a control character"),
        "offset in the index": (good[:18] + struct.pack("<I", 20) + good[22:], "sequence a at offset 20"),
        "offset beyond the end": (good[:18] + struct.pack("<I", len(good)) + good[22:], "sequence a at offset"),
        "offset beyond any file": (long[:18] + struct.pack("<Q", 2**63) + long[26:], "offset 9223372036854775808"),
        "many bases": (twobit({"a": ""})[: mask_count - 8] + b"\xff\xff\xff\xff" + bytes(16), "4294967295 bases of a"),
        "blank name": (good.replace(b"\1b", b"\1 "), "sequence name ' '"),
    }


@pytest.mark.parametrize("form", damaged())
def test_damage_is_refused(form: str, build: Callable[..., Corpus]) -> None:
    data, message = damaged()[form]
    with pytest.raises(BadInput, match=message) as error:
        build(data, name="bad.2bit")
    assert "bad.2bit" in str(error.value)


def test_no_truncation_passes(tmp_path: Path) -> None:
    data = twobit(LETTERS)
    path = tmp_path / "genome.2bit"
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(BadInput):
            prepare_genome(path, tmp_path)
