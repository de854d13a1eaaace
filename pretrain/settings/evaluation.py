"""How a run is measured while it trains: held-out windows, and probes of its checkpoints. Torch-free."""

import re
from typing import Annotated, Self

from pydantic import Field, model_validator

from dnachunker.foundations.typed_config import Config

Positive = Annotated[int, Field(ge=1)]


class ProbeSettings(Config):
    """What is measured of checkpoints beside training: a task, labelled variants or an annotated genome."""

    name: str | None = Field(None, description="of its curves; default: the name of the task, VCF or annotation")
    task: str | None = Field(None, description="task folder or sample:coding, for a linear classifier on its dev set")
    vcf: str | None = Field(None, description="VCF or table of labelled variants, for AUROC; needs label and fasta")
    label: str | None = Field(None, description="of variants, as for `variants benchmark`, such as INFO/CLS=LOF")
    annotation: str | None = Field(None, description="GTF or GFF3, for classes of bases; needs fasta and arguments")
    fasta: str | None = Field(None, description="genome of the variants or the annotation")
    arguments: tuple[str, ...] = Field((), description="further arguments of the command that measures")

    @model_validator(mode="after")
    def _is_one_kind(self) -> Self:
        given = [key for key in ("task", "vcf", "annotation") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"a probe needs one of task, vcf and annotation; it has {', '.join(given) or 'none'}")
        for key in {"task": (), "vcf": ("label", "fasta"), "annotation": ("fasta",)}[given[0]]:
            if getattr(self, key) is None:
                raise ValueError(f"a probe with {given[0]} needs {key}")
        if self.annotation is not None and not {"--validation", "--test"} <= set(self.arguments):
            raise ValueError("a probe with annotation needs arguments: [--validation, REGION, --test, REGION]")
        return self

    @property
    def title(self) -> str:
        """Its name, in letters that a folder and a metric may have."""
        source = self.name or re.split("[/:]", str(self.task or self.vcf or self.annotation))[-1].partition(".")[0]
        return re.sub(r"[^A-Za-z0-9_-]+", "-", source).strip("-") or "probe"


class EvaluationSettings(Config):
    """Held-out evaluation, beside Markov baselines counted on the training split."""

    split: str = Field("valid", description="split of the corpus that is held out")
    every: Positive = Field(50, description="steps between evaluations; the last step is always evaluated")
    windows: Positive = Field(64, description="held-out windows, spread evenly over the split")
    diagnostics_every: Positive = Field(1, description="evaluations from one with diagnostics to the next")
    average_strands: bool = Field(
        False, description="score the mean of the logits of a window and of its reverse complement, read separately"
    )
    baseline_bases: Positive = Field(50_000_000, description="most training bases that Markov tables are counted on")
    probes: tuple[ProbeSettings, ...] = Field(
        (), description="what a process beside training measures of checkpoints (docs/operations.md)"
    )
    probe_every: Positive = Field(1, description="checkpoints from one that is probed to the next; also the last is")
    probe_wait: Annotated[float, Field(ge=0)] = Field(
        600.0, description="most seconds that a finished run waits for the probes of its last checkpoint"
    )

    @model_validator(mode="after")
    def _probes_differ(self) -> Self:
        titles = [probe.title for probe in self.probes]
        if len(set(titles)) < len(titles):
            raise ValueError(f"probes: two have the same name among {', '.join(titles)}; give each a `name`")
        return self
