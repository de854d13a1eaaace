"""The config of a corpus: its genomes, how each is divided into splits, and how it is cut and stored."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from dnachunker.foundations.typed_config import Config

SAMPLE_PREFIX = "sample:"
SAMPLE_FOLDER = Path(__file__).parent / "sample"
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
SplitName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
Globs = tuple[str, ...]


class ContigSplit(Config):
    """Puts whole contigs into splits."""

    kind: Literal["contigs"] = Field(default="contigs", description="this rule: whole contigs by name")
    splits: dict[SplitName, Globs] = Field(description="split -> names or glob patterns of its contigs")
    rest: SplitName | Literal["unused"] = Field(
        default="train", description="split of every contig that `splits` does not name, or unused"
    )


class BedSplit(Config):
    """Intervals of a BED file whose 4th column is the split (the files of Basenji and Enformer).

    A grown interval keeps its centre; at a contig's end it is shifted inwards. If grown intervals of different splits
    overlap, the build stops.
    """

    kind: Literal["bed"] = Field(description="this rule: intervals listed in a BED file")
    path: str = Field(description="BED file or URL with the split's name in column 4")
    grow_to: Annotated[int, Field(ge=1)] | Literal["power_of_two"] | None = Field(
        default=None, description="lengthen shorter intervals to this many bases, or to the next power of two"
    )
    rest: SplitName | Literal["unused"] = Field(
        default="unused", description="split of the bases outside every interval, or unused"
    )


class HashSplit(Config):
    """Cuts each contig into fixed tiles and assigns a tile by a hash of (seed, contig, tile number)."""

    kind: Literal["hash"] = Field(default="hash", description="this rule: fixed tiles, assigned by hash")
    tile: int = Field(default=2**20, ge=1, description="length of a tile in bases")
    valid: Fraction = Field(default=0.05, description="share of the tiles for valid, 0 to 1")
    test: Fraction = Field(default=0.0, description="share of the tiles for test, 0 to 1")
    gap: int = Field(
        default=0,
        ge=0,
        description="bases left unused between two splits, taken from the train side; keeps their windows apart",
    )

    @model_validator(mode="after")
    def _fractions_leave_train(self) -> "HashSplit":
        if self.valid + self.test >= 1:
            raise ValueError("valid and test together must leave something for train")
        if self.gap >= self.tile:
            raise ValueError(f"gap ({self.gap}) must be smaller than tile ({self.tile})")
        return self


SplitRule = Annotated[ContigSplit | BedSplit | HashSplit, Field(discriminator="kind")]


class ContigSelection(Config):
    """The contigs of a source to use: names that match a pattern of `include` and no pattern of `exclude`."""

    include: Globs = Field(default=("*",), description="names or glob patterns of the contigs to use")
    exclude: Globs = Field(default=(), description="names or glob patterns of contigs to leave out")


class RepeatCase(Config):
    """Repeats from the case of the letters, or no repeats; a config file may write the word `kind` alone."""

    kind: Literal["soft_mask", "none"] = Field(
        default="soft_mask", description="soft_mask: lower-case letters are repeats; none: the case is ignored"
    )


class RepeatFile(Config):
    """Repeats from a file; the case of the letters is ignored."""

    kind: Literal["bed", "repeatmasker"] = Field(description="format of the file: BED, or RepeatMasker's .out")
    path: str = Field(description="file or URL of the repeats, plain or compressed")


Repeats = Annotated[
    Annotated[RepeatCase | RepeatFile, Field(discriminator="kind")],
    BeforeValidator(lambda value: {"kind": value} if isinstance(value, str) else value),
]


class SourceConfig(Config):
    """One genome: a file of the user's, the name of a genome in the catalog, or both.

    With `path` and `genome`, the sequence comes from `path`, and the catalog fills in the empty keys among species,
    clade, assembly, licence and citation. With `genome` alone, the sequence is downloaded too.
    """

    path: str = Field(
        default="",
        description="FASTA (plain, gzip, bgzip, zstd) or .2bit: a path, a URL, or sample:FILE for an embedded genome",
    )
    genome: str = Field(
        default="",
        description="name in `dnachunker genomes list` or NCBI accession; downloaded if `path` is empty",
    )
    species: str = Field(default="", description="species, for reports and sampling; default: the source's name")
    clade: str = Field(default="", description="clade, for reports and sampling, such as mammals")
    assembly: str = Field(default="", description="name or accession of the genome assembly")
    contigs: ContigSelection = Field(default=ContigSelection(), description="contigs to use, by name")
    min_contig: int = Field(
        default=1, ge=1, description="least bases of a contig; shorter ones are left out and counted"
    )
    repeats: Repeats = Field(
        default=RepeatCase(), description="soft_mask, none, or {kind: bed | repeatmasker, path: FILE}"
    )
    weight: float | None = Field(
        default=None,
        gt=0,
        description="how often training draws from this genome, relative to the other sources; null: training decides",
    )
    split: SplitRule | None = Field(default=None, description="split rule of this genome; null: the corpus's rule")
    provenance: str = Field(default="", description="where the sequence comes from, for the index and the card")
    licence: str = Field(default="", description="licence of the sequence, for the index and the card")
    citation: str = Field(default="", description="publication to cite, for the index and the card")

    @model_validator(mode="after")
    def _one_place(self) -> "SourceConfig":
        if not self.path and not self.genome:
            raise ValueError("give `path` (a file or URL) or `genome` (a name in the catalog)")
        return self


class CorpusConfig(Config):
    """Everything that decides the bytes of a corpus, and `workers`, which does not change them.

    `sources` is a mapping, so that the command line can reach one key: `sources.hg38.path=/data/hg38.fa.gz`. One
    worker writes one shard at a time, so a genome gives work to at most about bases / shard_bases workers.

    `duplicates`: equal blocks have the same letters on the same or the opposite strand. `refuse` and `drop` keep only
    the first of equal blocks within a split; `keep` keeps all.
    """

    sources: dict[str, SourceConfig] = Field(min_length=1, description="genomes, each under a name of your choice")
    split: SplitRule = Field(default=HashSplit(), description="split rule of every source without a rule of its own")
    block_bases: int = Field(
        default=2**20, ge=16, le=2**26, description="longest block in bases; a training window lies within one block"
    )
    min_bases: int = Field(default=1, ge=1, description="least bases of a block; shorter ones are left out and counted")
    n_gap: int = Field(
        default=1000, ge=0, description="runs of at least this many N are left out and end a block; 0 keeps all runs"
    )
    max_n: float = Field(
        default=0.5, ge=0.0, le=1.0, description="blocks with a larger share of N are left out and counted, 0 to 1"
    )
    duplicates: Literal["refuse", "drop", "keep"] = Field(
        default="refuse",
        description="equal blocks in two splits: refuse stops the build, drop omits the training copy, keep keeps all",
    )
    shard_bases: int = Field(default=2**26, ge=1, description="most bases in a shard; 2**26 is about 16 MiB")
    compression_level: int = Field(
        default=3, ge=1, le=19, description="zstd level; a high one saves little, since bases take 2 bits already"
    )
    seed: int = Field(default=0, ge=0, description="seed of the hash that assigns tiles to splits")
    workers: int | None = Field(
        default=None, ge=0, description="threads or Ray tasks at a time; 0: one, in this process; null: all cores"
    )

    @field_validator("sources")
    @classmethod
    def _names_make_keys(cls, sources: dict[str, SourceConfig]) -> dict[str, SourceConfig]:
        for name in sources:
            # no hyphen: it separates source, contig and start in a block's key
            if not name.isascii() or not name.replace("_", "").isalnum() or len(name) > 32:
                raise ValueError(f"source name {name!r}: use letters, digits and _, at most 32")
        return sources

    def split_rule(self, source: str) -> ContigSplit | BedSplit | HashSplit:
        return self.sources[source].split or self.split


def resolve_path(path: str) -> Path:
    """The absolute file that a config's path names; `sample:FILE` is embedded, `~` is the home folder."""
    if path.startswith(SAMPLE_PREFIX):
        return SAMPLE_FOLDER / Path(path.removeprefix(SAMPLE_PREFIX)).name
    return Path(path).expanduser().absolute()  # worker processes may have another current directory
