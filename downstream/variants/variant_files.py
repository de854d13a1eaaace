"""Reads VCF and BCF as lines of text, and writes lines as VCF, bgzipped VCF with an index, or BCF.

Records stay text, so that whatever is not scored is written as it was read. pysam converts BCF, and makes indexes. Its
own records are not used: htslib drops columns, rewrites numbers, and ends the process where a header lacks a contig.
"""

import re
import sys
import tempfile
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pysam
import pysam.bcftools

from dnachunker.dataprep.genomes.contig_names import check_characters
from dnachunker.dataprep.genomes.decompress import first_piece, read_plain
from dnachunker.dataprep.genomes.file_kinds import BCF, VCF, text_kind, wrong_kind
from dnachunker.dataprep.genomes.text_lines import text_lines
from dnachunker.foundations.atomic_files import new_file
from dnachunker.foundations.failures import BadInput, one_line
from dnachunker.foundations.whole_numbers import whole_number

_CONTIG = re.compile(rb"##contig=<ID=([^,>]+)")
_SUFFIXES = (".vcf", ".vcf.gz", ".vcf.bgz", ".bcf")
_LONGEST_TBI = 2**29  # bases of a contig that a .tbi index can hold; a .csi index holds more

pysam.set_verbosity(0)  # else htslib writes warnings to stderr


class VariantLines:
    """The lines of a VCF file (plain, gzip, bgzip or zstd) or of a BCF file, as text.

    Bytes that are not UTF-8 become surrogates, which `surrogateescape` turns back.

    Raises:
        BadInput: no such file, or it is empty, damaged, or another kind of file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._text = path
        head = first_piece(path)
        kind = text_kind(head)
        if kind not in ("", VCF, BCF) or not (kind or head.lstrip().startswith(b"#")):
            raise wrong_kind(path, head, "VCF or BCF")
        if kind == BCF:
            for _ in read_plain(path):  # notices damage and a cut between two blocks
                pass
            self._folder = tempfile.TemporaryDirectory(prefix="dnachunker-bcf-")
            self._text = Path(self._folder.name) / "text.vcf"
            try:
                pysam.bcftools.view("-Ov", "-o", str(self._text), str(path.absolute()), catch_stdout=False)
            except pysam.SamtoolsError as error:
                self._folder.cleanup()
                raise BadInput(f"{path}: cannot be read as BCF: {_said(error)}") from error

    def header(self) -> list[str]:
        """The lines before the first record."""
        return list(takewhile(lambda line: line.startswith("#"), text_lines(self._text, "surrogateescape")))

    def records(self) -> Iterator[tuple[int, list[str]]]:
        """Line number and fields of each record. Of a BCF file, lines are those of its VCF text.

        Raises:
            BadInput: a malformed line.
        """
        columns = 0
        for number, line in enumerate(text_lines(self._text, "surrogateescape"), 1):
            if line.startswith("#CHROM"):
                columns = len(line.split("\t"))
            elif not line.startswith("#") and line:
                fields = line.split("\t")
                if not columns:
                    raise BadInput(
                        f"{self.path}: line {number}: a record before the #CHROM line, whose columns tabs separate"
                    )
                try:
                    _check_record(fields, columns)
                except ValueError as error:
                    raise BadInput(f"{self.path}: line {number}: not a VCF record: {error}: {line[:60]!r}") from error
                yield number, fields
        if not columns:
            raise BadInput(f"{self.path}: has no #CHROM line; this is not VCF")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._folder:
            self._folder.cleanup()


def _check_record(fields: list[str], columns: int) -> None:
    """Check the columns that are read, CHROM, POS and REF, and that none is missing.

    Raises:
        ValueError: one of these is wrong.
    """
    if len(fields) != columns or len(fields) < 8:
        raise ValueError(f"{len(fields)} columns between tabs; the #CHROM line has {columns}, and a VCF at least 8")
    whole_number(fields[1], "a position (POS)")
    for column, name in ((0, "CHROM"), (3, "REF")):
        if not fields[column].strip():
            raise ValueError(f"{name} is empty")
    check_characters(fields[0])


def check_suffix(output: Path) -> None:
    """Check that the name of `output` says in which format to write.

    Raises:
        BadInput: the suffix is unknown.
    """
    if not output.name.endswith(_SUFFIXES):
        raise BadInput(f"--output {output}: its name chooses the format, and must end in {', '.join(_SUFFIXES)}")


def check_writable(variants: VariantLines, output: Path) -> None:
    """Check before scoring that these variants can be written in the format of `output`.

    Raises:
        BadInput: the format is BCF, and the file lacks a header line or contradicts one.
    """
    if output.suffix == ".bcf":
        with tempfile.TemporaryDirectory(prefix="dnachunker-bcf-") as folder:
            text = Path(folder) / "text.vcf"
            with text.open("w", encoding="utf-8", errors="surrogateescape") as file:
                file.writelines(f"{line}\n" for line in variants.header())
                file.writelines("\t".join(fields) + "\n" for _, fields in variants.records())
            _write_bcf(text, Path(folder) / "out.bcf", f"{variants.path}: cannot be written as BCF")


def publish(text: Path, output: Path, longest_contig: int) -> None:
    """Move the VCF in `text` to `output`, in the format that the name says; .vcf.gz and .bcf get an index beside them.

    Args:
        longest_contig: in bases; long contigs need another kind of index.
    """
    if output.suffix not in (".gz", ".bgz", ".bcf"):
        text.replace(output)
        return
    bcf = output.suffix == ".bcf"
    csi = bcf or longest_contig > _LONGEST_TBI
    with new_file(output) as partial:
        if bcf:
            _write_bcf(text, partial, f"{output}: cannot be written")
        else:
            pysam.tabix_compress(str(text), str(partial), force=True)
        try:
            with new_file(output.with_name(f"{output.name}.{'csi' if csi else 'tbi'}")) as index:
                preset: Any = "bcf" if bcf else "vcf"  # its stub does not list bcf
                pysam.tabix_index(
                    str(partial), preset=preset, index=str(index), csi=csi, force=True, keep_original=True
                )
        except OSError:
            print(f"{output}: the records are not sorted by position, so there is no index", file=sys.stderr)
    text.unlink()


def _write_bcf(text: Path, bcf: Path, failure: str) -> None:
    """Convert VCF text; contigs that its header lacks are added.

    Raises:
        BadInput: the header lacks an INFO, FILTER or FORMAT, or a record contradicts the header; begins with `failure`.
    """
    listed: set[bytes] = set()
    named: dict[bytes, None] = {}
    with text.open("rb") as lines:
        for line in lines:
            if found := _CONTIG.match(line):
                listed.add(found[1])
            elif not line.startswith(b"#"):
                named[line.split(b"\t", 1)[0]] = None
    added = [b"##contig=<ID=" + name + b">\n" for name in named if name not in listed]
    with text.open("rb") as lines, tempfile.NamedTemporaryFile(suffix=".vcf") as whole:
        for line in lines:
            if line.startswith(b"#CHROM"):
                whole.writelines(added)
            whole.write(line)
        whole.flush()
        try:
            pysam.bcftools.view("-Ob", "-o", str(bcf), whole.name, catch_stdout=False)
        except pysam.SamtoolsError as error:
            raise BadInput(
                f"{failure}: BCF needs a header line for every INFO, FILTER and FORMAT, and values that fit it "
                f"({_said(error)}); name the output .vcf.gz instead"
            ) from error


def _said(error: Exception) -> str:
    """What bcftools printed, whose line ends pysam shows as a backslash and an n."""
    return one_line(str(error).replace("\\n", " "))[:200]
