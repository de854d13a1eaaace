"""Fetch benchmark suites: from Hugging Face datasets, or from published coordinates and local genomes."""

import csv
import gzip
import io
import re
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from yaml import YAMLError, safe_load

from dnachunker.dataprep.genomes.contig_names import match_contigs
from dnachunker.dataprep.genomes.file_kinds import unpacked_name
from dnachunker.dataprep.genomes.genome import Genome
from dnachunker.foundations.atomic_files import new_folder, write_json
from dnachunker.foundations.failures import BadInput, Failure, one_line
from dnachunker.foundations.progress import Progress
from dnachunker.foundations.whole_numbers import whole_number

from .labelled import data_suffix, read_labelled
from .task_folders import ORIGIN, Suite, TaskFacts, check_origin, load_suite

COORDINATES = "https://raw.githubusercontent.com/{repository}/{revision}/datasets"
_LONGEST_ERROR = 200  # characters
_SPLITS = ("train", "test")
_OPPOSITE = str.maketrans("ACGTUNRYSWKMBDHVacgtunryswkmbdhv", "TGCAANYRSWMKVHDBtgcaanyrswmkvhdb")


def fetch_suite(
    name: str,
    output: Path,
    *,
    tasks: Sequence[str] = (),
    genomes: Mapping[str, Path] | None = None,
    source: str | None = None,
    endpoint: str | None = None,
) -> list[str]:
    """Fetch tasks of a suite into OUTPUT/TASK; tasks that exist there are kept.

    Args:
        tasks: names; empty for all tasks of the suite.
        genomes: for suites of coordinates, local FASTA files by the beginning of the reference's file name.
        source: folder or URL of the coordinates, TASK/{train,test}/CLASS.csv.gz; default: the suite's repository.
        endpoint: address of the Hugging Face hub; default: HF_ENDPOINT, else the public one.

    Returns:
        A line for each task: its numbers of sequences, and whether they are the published ones.

    Raises:
        BadInput: no such suite or task; an existing folder is of another suite; a genome is missing or does not fit.
        Failure: a download failed.
    """
    suite = load_suite(name)
    if suite.source == "folder":
        raise BadInput(
            f"suite {name} is one archive of its authors: download it as https://github.com/{suite.repository} says, "
            f"unpack it, and pass its folder to `dnachunker evaluate --suite {name} --data DIR`"
        )
    unknown = sorted(set(tasks) - set(suite.tasks))
    if unknown:
        raise BadInput(f"suite {name} has no task {unknown[0]!r}; it has {', '.join(suite.tasks)}")
    lines = []
    wanted = [task for task in suite.tasks if not tasks or task in tasks]
    with Progress(f"fetching {name}", len(wanted), "task") as bar:
        for task in wanted:
            check_origin(output / task, suite)
            if not (output / task).exists():
                with new_folder(output / task) as partial:
                    if suite.source == "huggingface":
                        _fetch_huggingface(suite, task, partial, endpoint)
                    else:
                        _rebuild(suite, task, partial, source, genomes or {})
                    write_json(partial / ORIGIN, suite.origin)
            lines.append(_counted(output / task, suite.tasks[task]))
            bar.update(1)
    return lines


def _fetch_huggingface(suite: Suite, task: str, folder: Path, endpoint: str | None) -> None:
    from huggingface_hub import HfApi, hf_hub_download

    assert suite.repository is not None
    at: dict[str, Any] = {"repo_type": "dataset", "revision": suite.revision}
    try:
        files = HfApi(endpoint=endpoint).list_repo_files(suite.repository, **at)
        own = {split: _of_split(files, split, task) for split in _SPLITS}
        paths = {
            split: [
                Path(hf_hub_download(suite.repository, file, endpoint=endpoint, **at))
                for file in own[split] or _of_split(files, split, "data")
            ]
            for split in _SPLITS
        }
    except Exception as error:  # the client's classes of errors depend on its version
        raise Failure(f"{suite.repository}: {one_line(error)[:_LONGEST_ERROR]}; run this again to continue") from error
    for split in _SPLITS:
        try:
            _store(paths[split], folder, split, None if own[split] else task, suite)
        except (OSError, pa.ArrowException) as error:
            raise Failure(f"{suite.repository}: {split} data of {task}: {one_line(error)[:_LONGEST_ERROR]}") from error


def _of_split(files: Sequence[str], split: str, folder: str) -> list[str]:
    pattern = re.compile(rf"{re.escape(folder)}/{split}([-.].*)?")
    return [file for file in sorted(files) if pattern.fullmatch(file) and data_suffix(Path(file))]


def _store(paths: Sequence[Path], folder: Path, split: str, task: str | None, suite: Suite) -> None:
    """Write one file for the split. `task` names the rows to keep of a table of all tasks; None keeps all rows."""
    if not paths:
        raise BadInput(
            f"{suite.repository}: has no {split} data of the task: neither TASK/{split}.* nor data/{split}-*"
        )
    suffix = data_suffix(paths[0])
    if suffix != ".parquet":
        if len(paths) > 1:
            names = ", ".join(path.name for path in paths)
            raise BadInput(f"{suite.repository}: {split} data in several files, {names}; only parquet is joined")
        packed = paths[0].name[len(unpacked_name(paths[0])) :]
        shutil.copyfile(paths[0], folder / f"{split}{suffix}{packed}")
        return
    table = pa.concat_tables([pq.read_table(path) for path in paths])
    if task is not None:
        if "task" not in table.column_names:
            raise BadInput(f"{suite.repository}: its {split} table has no column `task` to tell tasks apart")
        table = table.filter(pc.equal(table.column("task"), task))
    pq.write_table(table, folder / f"{split}.parquet", write_page_checksum=True)


def _rebuild(suite: Suite, task: str, folder: Path, source: str | None, genomes: Mapping[str, Path]) -> None:
    base = source or COORDINATES.format(repository=suite.repository, revision=suite.revision)
    try:
        classes = safe_load(_read(f"{base}/{task}/metadata.yaml"))["classes"]
        references = {name: str(facts["url"]).rpartition("/")[2] for name, facts in sorted(classes.items())}
    except (YAMLError, TypeError, KeyError, AttributeError) as error:
        raise BadInput(f"{base}/{task}/metadata.yaml: not the metadata of a benchmark: {error}") from error
    found = {reference: _genome_for(reference, task, genomes) for reference in set(references.values())}
    opened = {reference: Genome(path) for reference, path in found.items()}
    try:
        for split in _SPLITS:
            with gzip.open(folder / f"{split}.csv.gz", "wt", newline="") as file:
                out = csv.writer(file, lineterminator="\n")
                out.writerow(["sequence", "label"])
                for name, reference in references.items():
                    where = f"{base}/{task}/{split}/{name}.csv.gz"
                    out.writerows((letters, name) for letters in _sequences(where, opened[reference]))
    finally:
        for genome in opened.values():
            genome.close()


def _genome_for(reference: str, task: str, genomes: Mapping[str, Path]) -> Path:
    for prefix, path in genomes.items():
        if reference.startswith(prefix):
            return path
    short = reference.partition(".dna")[0].partition(".cdna")[0]
    raise BadInput(f"{task} was cut from {reference}: name a local copy with --genome {short}=FILE")


def _sequences(where: str, genome: Genome) -> Iterator[str]:
    """Sequences at the coordinates of a file with the columns region, start, end (0-based, half-open) and strand."""
    try:
        text = gzip.decompress(_read(where)).decode()
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise BadInput(f"{where}: not gzipped coordinates: {error}") from error
    table = csv.DictReader(io.StringIO(text))
    try:
        rows = [(table.line_num, row) for row in table]
    except csv.Error as error:
        raise BadInput(f"{where}: line {table.line_num + 1}: not readable: {error}") from error
    # Ensembl's FASTA gives a transcript's version, which coordinates may leave out
    spelled = {re.sub(r"^(ENS[A-Z]*\d+)\.\d+$", r"\1", name): name for name in reversed(genome.lengths)}
    spelled |= {name: name for name in genome.lengths}
    meant = match_contigs((row.get("region") or "" for _, row in rows), spelled)
    for number, row in rows:
        try:
            contig, strand = row["region"], row["strand"]
            start, end = whole_number(row["start"]), whole_number(row["end"])
            if strand not in ("+", "-", "."):
                raise ValueError(f"{str(strand)[:40]!r} is no strand")
        except (KeyError, AttributeError, ValueError) as error:
            raise BadInput(f"{where}: line {number}: needs region, start, end and strand: {error}") from error
        known = spelled.get(meant.get(contig, ""))
        if known is None or not 0 <= start < end <= genome.lengths[known]:
            raise BadInput(f"{where}: line {number}: {contig[:60]}:{start + 1}-{end} does not lie in {genome.path}")
        letters = genome.fetch(known, start, end)
        yield letters.translate(_OPPOSITE)[::-1] if strand == "-" else letters


def _read(where: str) -> bytes:
    try:
        with fsspec.open(where, "rb") as file:
            return bytes(file.read())
    except FileNotFoundError as error:
        raise BadInput(f"{where}: no such file") from error
    except Exception as error:  # each file system raises its own errors
        raise Failure(f"{where}: {one_line(error)[:_LONGEST_ERROR]}; run this again to continue") from error


def _counted(folder: Path, facts: TaskFacts) -> str:
    counts = {}
    for split in _SPLITS:
        path = next(path for path in folder.iterdir() if path.name.startswith(f"{split}."))
        counts[split] = len(read_labelled(path))
    text = f"{folder.name}: {counts['train']:,} training and {counts['test']:,} test sequences"
    if facts.train is None:
        return text
    if (facts.train, facts.test) == (counts["train"], counts["test"]):
        return f"{text}, as published"
    return f"{text}; PUBLISHED ARE {facts.train:,} AND {facts.test:,}"
