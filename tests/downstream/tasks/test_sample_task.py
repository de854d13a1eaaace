"""The labelled task that ships with the package: its labels follow from the embedded genome, and commands take it."""

import csv
import gzip
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from dnachunker.cli import main
from dnachunker.dataprep.config import SAMPLE_FOLDER
from dnachunker.downstream.tasks.task_folders import SAMPLE_TASKS, suite_tasks

WINDOW = 120
OPPOSITE = str.maketrans("ACGT", "TGCA")
SHORT, LONG = 300, 900  # bases of a reading frame that may be a gene, and of one that hardly is anything else


def reading_frames(letters: str) -> list[tuple[int, int]]:
    """Start and end, on the plus strand, of every open reading frame of at least SHORT bases on both strands.

    A frame goes from the first ATG, GTG or TTG after a stop codon to the next stop codon, which it includes.
    """
    found = []
    for strand in (letters, letters.translate(OPPOSITE)[::-1]):
        for phase in range(3):
            codons = [strand[at : at + 3] for at in range(phase, len(strand) - 2, 3)]
            stops = [-1, *(n for n, codon in enumerate(codons) if codon in ("TAA", "TAG", "TGA"))]
            for before, stop in zip(stops, stops[1:], strict=False):
                if 3 * (stop - before) >= SHORT:
                    first = next((n for n in range(before + 1, stop) if codons[n] in ("ATG", "GTG", "TTG")), stop)
                    start, end = phase + 3 * first, phase + 3 * stop + 3
                    if end - start >= SHORT:
                        found.append((start, end) if strand is letters else (len(letters) - end, len(letters) - start))
    return sorted(found)


def windows(letters: str) -> Iterator[tuple[int, str]]:
    """Start and label of every window: all that fit outside every frame, and as many from the middles of long ones."""
    frames = reading_frames(letters)
    covered = bytearray(len(letters))
    for start, end in frames:
        covered[start:end] = b"\1" * (end - start)
    outside = [
        start
        for gap in re.finditer(rb"\0+", bytes(covered))
        for start in range(gap.start(), gap.end() - WINDOW + 1, WINDOW)
    ]
    long = [(start, end) for start, end in frames if end - start >= LONG]
    inside = [start + third * (end - start) // 3 - WINDOW // 2 for start, end in long for third in (1, 2)]
    for number, start in enumerate(outside):
        yield start, "noncoding"
        yield inside[number * len(inside) // len(outside)], "coding"


def derive() -> dict[str, str]:
    """The three files as text: the first seven tenths of the genome are train, the next is dev, the last two test."""
    name, *lines = gzip.decompress((SAMPLE_FOLDER / "helicobacter_pylori_F32.fa.gz").read_bytes()).decode().splitlines()
    contig, letters = name[1:].split()[0], "".join(lines).upper()
    files = {"train": "", "dev": "", "test": ""}
    for start, label in sorted(windows(letters)):
        tenth = 10 * start // len(letters)
        split = "train" if tenth < 7 else "dev" if tenth < 8 else "test"
        end = start + WINDOW
        files[split] += f">{contig}:{start + 1}-{end}|{label}\n{letters[start:end]}\n"
    return files


def test_the_labels_follow_from_the_embedded_genome() -> None:
    folder = SAMPLE_TASKS["sample:coding"]
    for split, text in derive().items():
        assert gzip.decompress((folder / f"{split}.fa.gz").read_bytes()).decode() == text
    assert sum(path.stat().st_size for path in folder.iterdir() if path.is_file()) < 200_000


def test_the_commands_take_it_by_name(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # no folder of that name lies here
    command = ["finetune", "--task", "sample:coding", "--method", "kmer", "kmer=4", "bootstrap=20"]
    assert main([*command, "--model", str(export), "--output", "out"]) == 0
    (row,) = csv.DictReader((tmp_path / "out" / "table.csv").open())
    assert (row["task"], row["test"]) == ("sample_coding", "402")
    assert float(row["mcc_mean"]) > 0.3, "counts of words tell genes from the rest"
    _, (task,) = suite_tasks("sample:coding", None)  # as `evaluate --suite` finds it
    assert task.test.parent == SAMPLE_TASKS["sample:coding"]
    capsys.readouterr()
    assert main(["tasks", "list"]) == 0
    assert "sample:coding" in capsys.readouterr().out
