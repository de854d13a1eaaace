"""Suites of labelled variants as data: the files to look for, and what is positive in them."""

from pathlib import Path

from pydantic import Field
from yaml import safe_load

from dnachunker.foundations.failures import BadInput
from dnachunker.foundations.typed_config import Config, validate_config

FOLDER = Path(__file__).parent / "suites"


class VariantSuite(Config):
    """Variants that are reported together; the user has fetched the files."""

    title: str = Field(description="heading of the page")
    vcf: str = Field(description="name of the file of variants")
    fasta: str | None = Field(default=None, description="name of the genome; null: named on the command line")
    label: str = Field(description="what is positive, as --label")
    only: tuple[str, ...] = Field(default=(), description="conditions on the variants, as --only")
    by: str | None = Field(default=None, description="column of the strata, as --by")
    against: tuple[str, ...] = Field(default=(), description="columns with other scores, as --against")
    about: str = Field(description="source of the files")


def load_variant_suite(name: str) -> VariantSuite:
    """One of the suites that ship with the package.

    Raises:
        BadInput: no such suite.
    """
    known = sorted(path.stem for path in FOLDER.glob("*.yaml"))
    if name not in known:
        raise BadInput(f"--suite {name}: no such suite; there are {', '.join(known)}")
    text = (FOLDER / f"{name}.yaml").read_text("utf-8")
    return validate_config(VariantSuite, safe_load(text), origin=f"suite {name}")
