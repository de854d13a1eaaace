"""`dnachunker score-variants`: add scores to a VCF; each line that cannot be scored gets the reason."""

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dnachunker.dataprep.genomes.contig_names import agree_on_contigs
from dnachunker.dataprep.genomes.genome import Genome
from dnachunker.dataprep.genomes.input_file import hash_file
from dnachunker.downstream.exported import open_exported
from dnachunker.downstream.output_folder import check_place
from dnachunker.downstream.windows import default_window
from dnachunker.foundations.atomic_files import write_json
from dnachunker.foundations.failures import BadInput
from dnachunker.foundations.progress import Progress
from dnachunker.foundations.whole_numbers import whole_number

from .alleles import Alleles
from .likelihoods import Scorer, VariantScore
from .reference import SCORED, Reference, check_assembly, look
from .variant_files import VariantLines, check_suffix, check_writable, publish

_SHOWN = 20  # messages about alleles that are not scored; later ones are only counted
_SHOWN_LETTERS = 40  # of an allele in a message
_GROUP = 16  # lines scored and stored together, or more where these lie at one position
_LARGEST_GROUP = 64
_OURS = "DNC_"
_FIELDS = {
    "DNC_LLR": ("Float", "log P(ALT) - log P(REF) of the masked alleles, nats, averaged over strands"),
    "DNC_SHIFT{stage}": ("Float", "change of the chunk boundaries of stage {stage} nearby: 1 - Jaccard index"),
    "DNC_STATUS": ("String", "scored, or why not"),
}


@dataclass(frozen=True)
class VariantOptions:
    """Options of `score-variants`, in bases. `context` None means the pretraining length; without `shifts` only
    likelihoods are scored.
    """

    context: int | None = None
    radius: int = 100
    longest: int = 50
    shifts: bool = True


@dataclass(frozen=True)
class _Line:
    number: int
    fields: list[str]
    outcomes: list[tuple[str, Alleles | None]]  # of each ALT: status, and alleles if it can be scored


def score_vcf(model: Path, fasta: Path, vcf: Path, output: Path, options: VariantOptions) -> dict[str, int]:
    """Score every ALT of every line; after an interruption, the same call continues.

    Returns:
        ALT alleles by status.

    Raises:
        BadInput: no such model, genome or VCF; a malformed line; no contig in common, or most lines contradict the
            genome; `output` exists or has an unknown suffix.
    """
    check_suffix(output)
    if output.exists():
        raise BadInput(f"{output}: already exists; choose another --output")
    check_place(output)
    exported = open_exported(model)
    context = options.context or default_window(exported)
    if context < 4 * options.longest:
        raise BadInput(f"--context {context}: must be at least 4 times --longest {options.longest}")
    identity = {
        "model": exported.fingerprint, "fasta": [fasta.name, hash_file(fasta)[1]],
        "vcf": hash_file(vcf)[0], **asdict(options), "context": context,
    }  # fmt: skip
    progress = _Partial(output, identity)
    counts: dict[str, int] = {}
    with Genome(fasta) as opened, VariantLines(vcf) as variants:
        lines_of = Counter(fields[0] for _, fields in variants.records())
        if not lines_of:
            raise BadInput(f"{vcf}: holds no records")
        genome = Reference(opened, agree_on_contigs(vcf, lines_of, opened.lengths))
        check_assembly(vcf, (fields for _, fields in variants.records()), genome, options.longest)
        check_writable(variants, output)
        stages = exported.config.stages if options.shifts else 0  # whose boundaries are compared
        boundaries = exported.network("boundaries") if options.shifts else None
        scorer = Scorer(exported, exported.network("masked"), boundaries, context, options.radius)
        progress.begin(_header(variants, model.name, identity, stages))
        reported = 0
        with Progress("score-variants", lines_of.total(), "line") as bar:
            for group in _groups(variants, genome, options.longest, context):
                lines = [line for line in group if line.number > progress.done]
                for line in group:
                    for number, (status, _) in enumerate(line.outcomes):
                        counts[status] = counts.get(status, 0) + 1
                        if status != SCORED and line.number > progress.done:
                            reported += 1
                            if reported <= _SHOWN:
                                bar.write(_message(vcf, line, number, status, genome), file=sys.stderr)
                todo = [
                    (alleles, genome.fetcher(line.fields[0]), genome.lengths[line.fields[0]])
                    for line in lines
                    for _, alleles in line.outcomes
                    if alleles is not None
                ]
                scores = iter(scorer.scores(todo))
                progress.write([_scored(line, scores, stages) for line in lines], group[-1].number)
                bar.update(len(group))
        if reported > _SHOWN:
            print(f"{reported - _SHOWN} more alleles were not scored; DNC_STATUS says why", file=sys.stderr)
        progress.finish(max(opened.lengths.values()))
    return counts


def _groups(variants: VariantLines, genome: Reference, longest: int, context: int) -> Iterator[list[_Line]]:
    group: list[_Line] = []
    for number, fields in variants.records():
        there = bool(group) and fields[:2] == group[-1].fields[:2]  # variants at a position share their windows
        if len(group) >= (_LARGEST_GROUP if there else _GROUP):
            yield group
            group = []
        outcomes = [look(fields, alt, genome, longest, context) for alt in fields[4].split(",")]
        group.append(_Line(number, fields, outcomes))
    if group:
        yield group


def _message(vcf: Path, line: _Line, number: int, status: str, genome: Reference) -> str:
    contig, start, reference = line.fields[0], whole_number(line.fields[1]) - 1, line.fields[3]
    alleles = f"{_short(reference)}>{_short(line.fields[4].split(',')[number])}"
    text = f"{vcf}: line {line.number}: {contig}:{start + 1} {alleles}: {status}"
    if status == "reference_mismatch":
        text += f": the genome has {_short(genome.fetcher(contig)(start, start + len(reference)))}"
    return text


def _short(allele: str) -> str:
    text = allele if len(allele) <= _SHOWN_LETTERS else f"{allele[:_SHOWN_LETTERS]}..."
    return text if text.isprintable() else repr(text)


def _scored(line: _Line, scores: Iterator[VariantScore], stages: int) -> str:
    found = [next(scores) if alleles is not None else None for _, alleles in line.outcomes]
    columns = {"DNC_LLR": ["." if score is None else f"{score.likelihood_ratio:.6f}" for score in found]}
    for stage in range(stages):
        columns[f"DNC_SHIFT{stage}"] = ["." if score is None else f"{score.shifts[stage]:.6f}" for score in found]
    columns["DNC_STATUS"] = [status for status, _ in line.outcomes]
    # fields of an earlier scoring are replaced
    kept = [item for item in line.fields[7].split(";") if item not in ("", ".") and not item.startswith(_OURS)]
    added = [f"{name}={','.join(values)}" for name, values in columns.items()]
    fields = [*line.fields[:7], ";".join([*kept, *added]), *line.fields[8:]]
    return "\t".join(fields) + "\n"


def _header(variants: VariantLines, model: str, identity: dict[str, Any], stages: int) -> str:
    made = {
        "model": f'"{model}"', "sha256": identity["model"], "fasta": f'"{identity["fasta"][0]}"',
        **{name: identity[name] for name in ("context", "radius", "longest")},
    }  # fmt: skip
    ours = [f"##dnachunker=<{','.join(f'{name}={value}' for name, value in made.items())}>"]
    for name, (kind, meaning) in _FIELDS.items():
        for stage in range(stages if "{stage}" in name else 1):
            said = meaning.format(stage=stage)
            ours.append(f'##INFO=<ID={name.format(stage=stage)},Number=A,Type={kind},Description="{said}">')
    lines = []
    for line in variants.header():
        if line.startswith((f"##INFO=<ID={_OURS}", "##dnachunker=")):
            continue  # of an earlier scoring
        if line.startswith("#CHROM"):
            lines += ours
        lines.append(line)
    return "\n".join(lines) + "\n"


class _Partial:
    """The unfinished output and its progress, in two files beside it; a group of lines is written, then counted."""

    def __init__(self, output: Path, identity: dict[str, Any]) -> None:
        self._output = output
        self._text = output.with_name(f".{output.name}.partial")
        self._state = output.with_name(f".{output.name}.partial.json")
        self._identity = json.loads(json.dumps(identity))
        self.done = self._bytes = 0  # last input line that is done, and bytes of output up to it
        if self._text.is_file() and self._state.is_file():
            stored = json.loads(self._state.read_text("utf-8"))
            if stored["identity"] == self._identity:  # else the files are of another command: start over
                self.done, self._bytes = stored["done"], stored["bytes"]

    def begin(self, header: str) -> None:
        self._text.parent.mkdir(parents=True, exist_ok=True)
        with self._text.open("r+b" if self._bytes else "wb") as file:
            file.truncate(self._bytes)
        if not self._bytes:
            self.write([header], 0)

    def write(self, lines: Sequence[str], done: int) -> None:
        with self._text.open("ab") as file:
            file.write("".join(lines).encode("utf-8", "surrogateescape"))
            self._bytes = file.tell()
        self.done = max(self.done, done)
        write_json(self._state, {"identity": self._identity, "done": self.done, "bytes": self._bytes})

    def finish(self, longest_contig: int) -> None:
        publish(self._text, self._output, longest_contig)
        self._state.unlink()
