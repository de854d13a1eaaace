"""Tasks from every format of file, and the messages about other files."""

import gzip
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from dnachunker.downstream.tasks.labelled import read_labelled, sort_classes
from dnachunker.downstream.tasks.task_folders import SUITES, find_task, load_suite, split_validation, suite_tasks
from dnachunker.foundations.failures import BadInput

ROWS = [("ACGTN", "1"), ("ttgaca", "0"), ("ACGTRYA", "1")]
CSV = "sequence,label\n" + "".join(f"{s},{label}\n" for s, label in ROWS)
TSV = "name\tseq\tlabels\n" + "".join(f"x\t{s}\t{label}\n" for s, label in ROWS)
FASTA = "".join(f">chr1:{i}|{label}\n{s[:3]}\n{s[3:]}\n" for i, (s, label) in enumerate(ROWS))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", CSV),
        ("a.csv", CSV.replace("\n", "\r\n")),
        (
            "a.csv",
            "\ufeff"
            + CSV.replace("sequence,label", '" Sequence" , LABEL').replace(",", " , ").replace("ACGTN", "ACGTN\t"),
        ),
        ("a.tsv", TSV),
        ("a.fna", FASTA),
        ("a.fa", "\ufeff" + FASTA),
    ],
)
@pytest.mark.parametrize("ending", ["", ".gz", ".bgz", ".zst", ".GZ"])
def test_text_formats_give_the_same_rows(tmp_path: Path, name: str, text: str, ending: str) -> None:
    pack = {"": bytes, ".zst": zstandard.compress}.get(ending, gzip.compress)
    path = tmp_path / (name + ending)
    path.write_bytes(pack(text.encode()))
    data = read_labelled(path)
    assert data.sequences == tuple(sequence for sequence, _ in ROWS)
    assert data.classes == ("0", "1")
    assert data.labels.tolist() == [1, 0, 1]


def test_the_files_of_a_task_may_be_compressed_in_several_ways(tmp_path: Path) -> None:
    (tmp_path / "train.csv.zst").write_bytes(zstandard.compress(CSV.encode()))
    (tmp_path / "test.tsv.bgz").write_bytes(gzip.compress(TSV.encode()))
    task = find_task(tmp_path)
    train, _ = task.read_training()
    assert task.read_test(train.classes).sequences == train.sequences


def test_a_field_may_be_longer_than_the_csv_modules_default(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f'sequence,label\n"{"ACGT" * 100_000}",0\nAC,1\n')
    assert len(read_labelled(tmp_path / "a.csv").sequences[0]) == 400_000


def test_parquet_and_named_classes(tmp_path: Path) -> None:
    pq.write_table(pa.table({"sequence": ["AC", "GT", "AA"], "label": [10, 9, 10]}), tmp_path / "train.parquet")
    data = read_labelled(tmp_path / "train.parquet")
    assert data.classes == ("9", "10")  # as numbers
    assert data.labels.tolist() == [1, 0, 1]
    for missing in (None, float("nan")):
        pq.write_table(pa.table({"sequence": ["AC", "GT"], "label": [1.0, missing]}), tmp_path / "train.parquet")
        with pytest.raises(BadInput, match="row 2: has no label"):
            read_labelled(tmp_path / "train.parquet")


@pytest.mark.parametrize(
    ("columns", "names", "message"),
    [
        ([[1, 2], [0, 1]], ["sequence", "label"], "column 'sequence' holds int64, not text"),
        ([[b"AC", b"GT"], [0, 1]], ["sequence", "label"], "column 'sequence' holds binary, not text"),
        ([["AC", "GT"], [[0], [1]]], ["sequence", "label"], "column 'label' holds list<.*int64>, not text"),
        ([["AC", "GT"], [0, 1], [1, 0]], ["sequence", "label", "label"], "several columns could be 'label'; keep one"),
    ],
)
def test_parquet_of_other_columns_gives_one_line(
    tmp_path: Path, columns: list[list[object]], names: list[str], message: str
) -> None:
    pq.write_table(pa.table([pa.array(column) for column in columns], names=names), tmp_path / "train.parquet")
    with pytest.raises(BadInput, match=message):
        read_labelled(tmp_path / "train.parquet")


@pytest.mark.parametrize("compression", ["snappy", "none"])
def test_no_damaged_byte_of_parquet_gives_a_traceback(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "train.parquet"
    table = pa.table({"sequence": ["ACGTTGCA", "GATTACA"] * 9, "label": [1, 0] * 9})
    pq.write_table(table, path, compression=compression, write_page_checksum=True)
    whole = path.read_bytes()
    refused = 0
    for at in range(0, len(whole), 5):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            read_labelled(path)
        except BadInput:
            refused += 1
    assert refused > len(whole) // 20


def test_equal_numbers_are_classes_in_one_order() -> None:
    assert sort_classes({"10", "1", "01", "001", "2"}) == ("001", "01", "1", "2", "10")
    assert sort_classes({"10", "9", "x"}) == ("10", "9", "x")


def test_labels_that_mostly_occur_once_are_numbers_and_not_classes(tmp_path: Path) -> None:
    def read(labels: list[str]) -> tuple[str, ...]:
        (tmp_path / "train.csv").write_text("sequence,label\n" + "".join(f"AC,{label}\n" for label in labels))
        return read_labelled(tmp_path / "train.csv").classes

    often, rare = ["0.0"] * 30, [f"{n / 7:.3f}" for n in range(1, 11)]  # many bases without signal, as in a track
    with pytest.raises(BadInput, match=r"train.csv: of 11 different labels, 10 occur once, such as 0.143"):
        read(often + rare)
    assert len(read([str(n) for n in range(6)] + ["0", "1", "2"])) == 6  # three occur once, three do not
    assert len(read(["0", "1"])) == 2


def damaged(packed: bytes) -> bytes:
    """Bits after the header are flipped; zlib notices them before the checksum does."""
    return packed[:12] + bytes(255 - byte for byte in packed[12:])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"sequence,label\nACGT,0\nACXT,1\n", "line 3: the sequence holds 'X'"),
        ("a.csv", b"sequence,label\n,0\n", "line 2: the sequence is empty"),
        ("a.csv", b"sequence,label\nACGT,0\nACGT,\n", "line 3: has no label"),
        ("a.csv", b"letters,label\nAC,0\n", "no column 'sequence'"),
        (
            "a.csv",
            b"sequence,label\nAC,0.13\nAG,0.5\nAT,-1\nGC,-1\n",
            "of 3 different labels, 2 occur once, such as 0.13",
        ),
        *(
            ("a.csv", f"sequence,label\nAC,1\nAC,{label}\n".encode(), message)
            for label, message in (
                ("NaN", "line 3: the label is 'NaN', a missing value"),
                ("NA", "line 3: the label is 'NA', a missing value"),
                ("1" * 5000, "line 3: a label of 5,000 letters"),
                ("٣", "line 3: the label '٣' is a number in other digits"),
                ("a\x1b[2J", "holds a control character"),
                ("1,7", "line 3: 3 fields, but the header has 2"),
            )
        ),
        ("a.csv", b"sequence,label\nAC,1\nNA,2\n", "line 3: the sequence is 'NA', a missing value"),
        ("a.csv", b"sequence,label\nAC,1\nAC\n", "line 3: 1 fields, but the header has 2"),
        ("a.csv", b"sequence,label,label\nAC,0,1\n", "several columns could be 'label'; keep one"),
        ("a.csv", b"seq,sequence,label\nAC,AC,1\n", "several columns could be 'sequence'; keep one"),
        ("a.csv", b"sequence;label\nAC;0\n", "';' separates its columns, where ',' is expected; write commas"),
        ("a.csv", b"sequence\tlabel\nAC\t0\n", "expected; name the file .tsv"),
        ("a.csv", b">one|1\nACGT\n", "a.csv: FASTA, not a table"),
        ("a.csv", b'sequence,label,note\nAC,1,a\nAC,0,"5 end\nAC,1,b\n', "a quote is not closed"),
        ("a.csv", "sequence,label\nAC,\u00e9\n".encode("latin-1"), "line 2: not UTF-8 text"),
        ("a.csv", b"sequence,label\n", "holds no sequences"),
        ("a.fa", b">one\nACGT\n", "does not end in |LABEL"),
        ("a.csv.gz", gzip.compress(CSV.encode(), mtime=0)[:-12], "truncated gzip"),
        ("a.csv.gz", damaged(gzip.compress(CSV.encode() * 50, mtime=0)), "damaged gzip"),
        ("a.parquet", b"nothing", "not readable as parquet"),
        ("a.xlsx", b"", "not a data file"),
    ],
)
def test_other_files_give_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput) as failure:
        read_labelled(tmp_path / name)
    assert message in str(failure.value)
    assert name in str(failure.value)


def test_a_label_that_training_lacks_is_refused(tasks: Path, tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("sequence,label\nAC,0\nGT,1\n")
    (tmp_path / "test.csv").write_text("sequence,label\nAC,2\n")
    task = find_task(tmp_path)
    train, validation = task.read_training()
    assert validation is None
    with pytest.raises(BadInput, match="label '2' does not occur in training"):
        task.read_test(train.classes)
    (tmp_path / "train.tsv").write_text("")
    with pytest.raises(BadInput, match=r"both train\.csv and train\.tsv"):
        find_task(tmp_path)


def test_validation_is_a_share_of_each_class(tasks: Path) -> None:
    train, _ = find_task(tasks / "three").read_training()
    rest, held = split_validation(train, 0.2, seed=3)
    assert sorted(rest.sequences + held.sequences) == sorted(train.sequences)
    assert np.bincount(held.labels).tolist() == [4, 4, 4]
    assert split_validation(train, 0.2, seed=3)[1].sequences == held.sequences
    assert split_validation(train, 0.2, seed=4)[1].sequences != held.sequences


def test_the_suites_hold_what_was_published() -> None:
    suites = {name: load_suite(name) for name in SUITES}
    assert {name: len(suite.tasks) for name, suite in suites.items()} == {
        "nt": 18,
        "nt-revised": 18,
        "genomic-benchmarks": 9,
        "gue": 28,
    }
    pinned = [suite.revision for suite in suites.values() if suite.source != "folder"]
    assert all(re.fullmatch("[0-9a-f]{40}", revision) for revision in pinned), "a branch may change under a score"
    # both Nucleotide Transformer suites have this name, with other data
    assert suites["nt"].tasks["enhancers"].length == 200
    assert suites["nt-revised"].tasks["enhancers"].length == 400
    assert suites["nt"].repository != suites["nt-revised"].repository
    published = {(name, row.model): row.average for name, suite in suites.items() for row in suite.published}
    assert published == {
        ("nt", "DNACHUNKER"): 0.772, ("nt", "GENERator"): 0.728, ("nt", "LDARNet"): 0.738,
        ("nt-revised", "DNACHUNKER"): 0.660,
        ("genomic-benchmarks", "DNACHUNKER"): 0.885, ("genomic-benchmarks", "GENERator"): 0.892,
    }  # fmt: skip
    assert sum(f.train + f.test for f in suites["genomic-benchmarks"].tasks.values()) == 890_705


def test_gue_is_read_as_its_archive_unpacks(tmp_path: Path) -> None:
    for number, facts in enumerate(load_suite("gue").tasks.values()):
        folder = tmp_path / str(facts.folder)
        folder.mkdir(parents=True)
        for split in ("train", "dev", "test"):
            (folder / f"{split}.csv").write_text(f"sequence,label\n{'ACGT' * (number + 1)},0\nTTTT,1\n")
    _, tasks = suite_tasks("gue", tmp_path)
    assert len({task.name for task in tasks}) == 28, "mouse/0 and tf/0 are two tasks"
    by_name = {task.name: task for task in tasks}
    assert by_name["tf_0"].read_training()[0].sequences != by_name["mouse_0"].read_training()[0].sequences
    assert {task.metric for task in tasks if task.name != "virus_covid"} == {"mcc"}
    assert by_name["virus_covid"].metric == "f1"
    with pytest.raises(BadInput, match="--data is missing: the folder of the unpacked archive"):
        suite_tasks("gue", None)
