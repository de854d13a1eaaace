"""Tells from its first bytes what kind of file a user has given, so that a message can name the mistake."""

import re
from pathlib import Path

from dnachunker.foundations.failures import BadInput

GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGICS = (b"\x28\xb5\x2f\xfd", *(bytes([low]) + b"\x2a\x4d\x18" for low in range(0x50, 0x60)))  # and skippable
TWOBIT_MAGICS = (b"\x43\x27\x41\x1a", b"\x1a\x41\x27\x43")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
VCF, BCF, FASTA, GFF3, BED_LINES, REPEATMASKER_OUT = "VCF", "BCF", "FASTA", "GFF3", "BED", "RepeatMasker's .out"

_FOREIGN_COMPRESSIONS = {b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"PK\x03\x04": "zip", b"7z\xbc\xaf": "7z"}
_BINARY = {
    b"%PDF": "a PDF document",
    b"BAM\1": "BAM (alignments)",
    b"CRAM\2": "CRAM (alignments)",
    b"CRAM\3": "CRAM (alignments)",
    b"PAR1\x15": "a parquet table",  # PAR1 alone may be the name of a contig
    b"\x89HDF": "an HDF5 file",
    b"\xd0\xcf\x11\xe0": "an old Office document",
    b"\x26\xfc\x8f\x88": "bigWig",
    b"\x88\x8f\xfc\x26": "bigWig",
    b"\xeb\xf2\x89\x87": "bigBed",
    b"\x87\x89\xf2\xeb": "bigBed",
}
_PAGE = re.compile(rb"\s*<(!doctype|html|head|\?xml)", re.IGNORECASE)
_TEXT = {  # what the first line that is not blank begins with
    VCF: rb"##fileformat=VCF|#CHROM\tPOS\tID",
    BCF: rb"BCF[\2\4]",
    FASTA: rb">",
    GFF3: rb"##gff-version",
    "SAM (alignments)": rb"@(HD|SQ|RG|PG|CO)\t",
    "FASTQ (reads)": rb"@[^\n]*\n[A-Za-z.*-]+\r?\n\+",
    "GenBank": rb"LOCUS\s",
    "EMBL": rb"ID   \S",
    "MAF (alignments)": rb"##maf",
    "wiggle": rb"(fixedStep|variableStep)\s",
    REPEATMASKER_OUT: rb"\s*SW\s+(perc|score)",
    BED_LINES: rb"[^\s#>@]+\t\d+\t\d+(\s|$)",
}
_REMEDIES = {"GenBank": "convert it to FASTA or GFF3", "EMBL": "convert it to FASTA or GFF3"}
_TAR_AT = slice(257, 262)
_PACKED = (".gz", ".bgz", ".zst")


def unpacked_name(path: Path) -> str:
    """The name of a file in small letters, without an ending that says how it is compressed."""
    name = path.name.lower()
    return name.removesuffix(next((ending for ending in _PACKED if name.endswith(ending)), ""))


def check_text(path: Path, head: bytes, *, unpacked: bool) -> None:
    """Refuse content that no reader of text files takes.

    Args:
        head: the first bytes, after decompression.
        unpacked: whether the file was compressed.

    Raises:
        BadInput: it is compressed in another way or twice, binary, a page of a web server, or UTF-16 text.
    """
    if head.startswith(TWOBIT_MAGICS):
        raise BadInput(
            f"{path}: a compressed .2bit file; decompress it, since .2bit needs random access"
            if unpacked
            else f"{path}: a .2bit file, and text is needed here"
        )
    if unpacked and head.startswith((GZIP_MAGIC, *ZSTD_MAGICS, *_FOREIGN_COMPRESSIONS)):
        raise BadInput(f"{path}: compressed twice; decompress it once")
    for magic, name in _FOREIGN_COMPRESSIONS.items():
        if head.startswith(magic):
            raise BadInput(
                f"{path}: compressed with {name}; unpack it, or compress it with gzip, bgzip or zstd instead"
            )
    for magic, name in _BINARY.items():
        if head.startswith(magic):
            raise BadInput(f"{path}: {name}, not a text file of sequences, intervals or variants")
    if head[_TAR_AT] == b"ustar":
        raise BadInput(f"{path}: a tar archive; unpack it and name the file in it")
    if _PAGE.match(head.removeprefix(BYTE_ORDER_MARK)):
        raise BadInput(f"{path}: a web page or XML, perhaps the error message of a server; fetch the file again")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or _is_wide(head[:64]):
        raise BadInput(f"{path}: UTF-16 text; save it as UTF-8, for example with `iconv -f UTF-16 -t UTF-8`")


def text_kind(head: bytes) -> str:
    """What the first bytes of a text file, or of BCF, say that it is; "" where they do not say."""
    head = head.removeprefix(BYTE_ORDER_MARK)
    start = head.lstrip(b"\r\n")
    return next((name for name, pattern in _TEXT.items() if re.match(pattern, start)), "")


def wrong_kind(path: Path, head: bytes, wanted: str) -> BadInput:
    """The error about a file that is not what `wanted` names: it says what the file is, or how it starts."""
    if kind := text_kind(head):
        return BadInput(f"{path}: {kind}, not {wanted}; {_REMEDIES.get(kind, 'name another file')}")
    return BadInput(f"{path}: not {wanted}: it starts with {head[:20]!r}")


def _is_wide(head: bytes) -> bool:
    """Whether every second byte is 0, as in UTF-16 text of Latin letters without a byte order mark."""
    odd, even = head[1::2], head[::2]
    pairs = ((odd, even), (even, odd))
    return len(head) >= 8 and any(not high.strip(b"\0") and b"\0" not in low for high, low in pairs)
