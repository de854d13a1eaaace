"""What a corpus is made of: genomes, how each is divided into splits, and how it is cut and stored."""

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
    """Whole contigs to splits, by name or glob; a contig that no list names goes to `rest`."""

    kind: Literal["contigs"] = "contigs"
    splits: dict[SplitName, Globs]
    rest: SplitName | Literal["unused"] = "train"


class BedSplit(Config):
    """Intervals of a BED file whose 4th column is the split (the files of Basenji and Enformer).

    `grow_to` lengthens each shorter interval about its centre, to that many bases or to the next power of two; at a
    contig's end it is shifted inwards. Grown intervals of different splits may come to overlap: the build then stops.
    """

    kind: Literal["bed"]
    path: str
    grow_to: Annotated[int, Field(ge=1)] | Literal["power_of_two"] | None = None
    rest: SplitName | Literal["unused"] = "unused"  # where bases outside every interval go


class HashSplit(Config):
    """Fixed tiles of each contig, assigned by a hash of (seed, contig, tile); needs no list and no coordinates.

    `gap` bases between two tiles of different splits belong to neither, so that no window of one split continues
    into the next; they are taken from the train side.
    """

    kind: Literal["hash"] = "hash"
    tile: int = Field(default=2**20, ge=1)
    valid: Fraction = 0.05
    test: Fraction = 0.0
    gap: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _fractions_leave_train(self) -> "HashSplit":
        if self.valid + self.test >= 1:
            raise ValueError("valid and test together must leave something for train")
        if self.gap >= self.tile:
            raise ValueError(f"gap ({self.gap}) must be smaller than tile ({self.tile})")
        return self


SplitRule = Annotated[ContigSplit | BedSplit | HashSplit, Field(discriminator="kind")]


class ContigSelection(Config):
    """Which contigs of a source to use: names that match a pattern of `include` and none of `exclude`."""

    include: Globs = ("*",)
    exclude: Globs = ()


class RepeatCase(Config):
    """Repeats by lower case, or none; written as one word."""

    kind: Literal["soft_mask", "none"] = "soft_mask"


class RepeatFile(Config):
    """Repeats from a file instead of lower case: a BED, or RepeatMasker's `.out`; both may be gzip."""

    kind: Literal["bed", "repeatmasker"]
    path: str


Repeats = Annotated[
    Annotated[RepeatCase | RepeatFile, Field(discriminator="kind")],
    BeforeValidator(lambda value: {"kind": value} if isinstance(value, str) else value),
]


class SourceConfig(Config):
    """One genome: a file of the user's, or the name of one in the catalog, or both.

    Attributes:
        path: FASTA (plain, gzip, bgzip or zstd) or .2bit; relative to the current directory, like every path on a
            command line; `sample:FILE` is a file that ships with this package; a URL (http, s3, gs ...) is
            downloaded once into a cache.
        genome: a name `dnachunker genomes list` shows, or an NCBI accession such as GCF_000005845.2; without `path`
            it is downloaded; it fills in whatever of species, clade, assembly and so on is not given here.
        min_contig: contigs shorter than this many bases are left out, and counted.
        repeats: `soft_mask` takes lower case as repeats; `none` ignores the case; `{kind: bed | repeatmasker, path}`
            ignores it too and reads a file.
        weight: how often training should draw from this genome, in any unit common to the corpus's sources; null
            leaves it to the training config. Recorded in the index; decides nothing else.
        split: overrides the corpus's rule for this genome.
        provenance, licence, citation: where the sequence comes from, copied into the index and the card.
    """

    path: str = ""
    genome: str = ""
    species: str = ""
    clade: str = ""
    assembly: str = ""
    contigs: ContigSelection = ContigSelection()
    min_contig: int = Field(default=1, ge=1)
    repeats: Repeats = RepeatCase()
    weight: float | None = Field(default=None, gt=0)
    split: SplitRule | None = None
    provenance: str = ""
    licence: str = ""
    citation: str = ""

    @model_validator(mode="after")
    def _one_place(self) -> "SourceConfig":
        if not self.path and not self.genome:
            raise ValueError("give `path` (a file or URL) or `genome` (a name in the catalog)")
        return self


class CorpusConfig(Config):
    """Everything that decides the bytes of a corpus, and `workers`, which decides none.

    Attributes:
        sources: by name; a mapping, so that one key is reachable from the command line:
            `sources.hg38.path=/data/hg38.fa.gz`.
        block_bases: longest block; windows are cut from blocks at load time and never cross one.
        min_bases: blocks shorter than this are left out, and counted.
        n_gap: runs of N of at least this many letters are left out, and blocks end there; 0 keeps them all.
        max_n: blocks with a larger share of N are left out, and counted.
        duplicates: what becomes of blocks with the same letters, on either strand. Within a split the first stays.
            Across splits, `refuse` stops the build, `drop` leaves the training copy out; `keep` keeps all.
        shard_bases: a shard is closed before it would exceed this many bases (2**26 is about 16 MiB). One worker
            writes one shard at a time, so a genome has work for about bases / shard_bases of them.
        compression_level: of zstd; bases hardly shrink below 2 bits, so a high level buys little.
        workers: pieces of work at a time; 0 builds in this process, one at a time; null takes all cores.
    """

    sources: dict[str, SourceConfig] = Field(min_length=1)
    split: SplitRule = HashSplit()
    block_bases: int = Field(default=2**20, ge=16, le=2**26)
    min_bases: int = Field(default=1, ge=1)
    n_gap: int = Field(default=1000, ge=0)
    max_n: float = Field(default=0.5, ge=0.0, le=1.0)
    duplicates: Literal["refuse", "drop", "keep"] = "refuse"
    shard_bases: int = Field(default=2**26, ge=1)
    compression_level: int = Field(default=3, ge=1, le=19)
    seed: int = Field(default=0, ge=0)
    workers: int | None = Field(default=None, ge=0)

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
    """The file a config's path means: `sample:FILE`, `~`, or relative to the current directory."""
    if path.startswith(SAMPLE_PREFIX):
        return SAMPLE_FOLDER / Path(path.removeprefix(SAMPLE_PREFIX)).name
    return Path(path).expanduser().absolute()  # worker processes may have another current directory
