"""`dnachunker score-variants`: add scores to a VCF; each line that cannot be scored gets the reason."""

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
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
from dnachunker.model.alphabet import BASES, IUPAC_AMBIGUOUS

from .alleles import Alleles, Fetch, widen
from .likelihoods import Scorer, VariantScore
from .variant_files import VariantLines, check_suffix, check_writable, publish

SCORED = "scored"
_SHOWN = 20  # messages about alleles that are not scored; later ones are only counted
_SHOWN_LETTERS = 40  # of an allele in a message
_LOOKED_AT = 1000  # records compared with the genome before scoring
_GROUP = 16  # lines scored and stored together, or more where these lie at one position
_LARGEST_GROUP = 64
_OURS = "DNC_"
_AMBIGUOUS = str.maketrans(IUPAC_AMBIGUOUS, "N" * len(IUPAC_AMBIGUOUS))  # as the genome gives these letters
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


class _Reference:
    """The genome, with contigs named as in the VCF.

    Attributes:
        lengths: contig -> length in bases; contigs that the genome lacks are left out.
    """

    def __init__(self, genome: Genome, names: Mapping[str, str]) -> None:
        self.path = genome.path
        self._genome, self._names = genome, names
        self.lengths = {name: genome.lengths[contig] for name, contig in names.items()}

    def fetcher(self, name: str) -> Fetch:
        return partial(self._upper, self._names[name])

    def _upper(self, contig: str, start: int, end: int) -> str:
        return self._genome.fetch(contig, start, end).upper()


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
        genome = _Reference(opened, agree_on_contigs(vcf, lines_of, opened.lengths))
        _check_assembly(variants, genome, options.longest)
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


def _groups(variants: VariantLines, genome: _Reference, longest: int, context: int) -> Iterator[list[_Line]]:
    group: list[_Line] = []
    for number, fields in variants.records():
        there = bool(group) and fields[:2] == group[-1].fields[:2]  # variants at a position share their windows
        if len(group) >= (_LARGEST_GROUP if there else _GROUP):
            yield group
            group = []
        outcomes = [_look(fields, alt, genome, longest, context) for alt in fields[4].split(",")]
        group.append(_Line(number, fields, outcomes))
    if group:
        yield group


def _look(
    fields: Sequence[str], alt: str, genome: _Reference, longest: int, context: int
) -> tuple[str, Alleles | None]:
    """The status of one ALT, and its alleles if it can be scored."""
    contig, start, alternative = fields[0], whole_number(fields[1]) - 1, alt.upper()
    reference = fields[3].upper().translate(_AMBIGUOUS)
    if contig not in genome.lengths:
        return "unknown_contig", None
    length = genome.lengths[contig]
    if start < 0 or start + len(reference) > length:
        return "outside_contig", None
    fetch = genome.fetcher(contig)
    if fetch(start, start + len(reference)) != reference:
        return "reference_mismatch", None
    if not alternative or not set(alternative) <= set(BASES):
        return "no_sequence", None  # symbolic, breakend, spanning deletion, missing, N
    if not set(reference) <= set(BASES):
        return "reference_n", None
    if reference == alternative:
        return "no_change", None
    alleles = widen(start, reference, alternative, fetch, length, longest)
    if alleles is None:
        return "too_long", None
    filling = abs(len(alleles.reference) - len(alleles.alternative))
    if max(alleles.start, length - alleles.end) < filling:
        return "too_long", None  # the contig has too few bases to extend the shorter allele
    around = fetch(max(0, alleles.start - context // 2), min(length, alleles.end + context // 2))
    if around.count("N") * 2 > len(around):
        return "mostly_n", None
    return SCORED, alleles


def _check_assembly(variants: VariantLines, genome: _Reference, longest: int) -> None:
    seen = wrong = 0
    for _, fields in variants.records():
        status, _ = _look(fields, fields[4].split(",")[0], genome, longest, 0)
        seen += 1
        wrong += status in ("unknown_contig", "outside_contig", "reference_mismatch")
        if seen == _LOOKED_AT:
            break
    if wrong * 2 > seen:
        raise BadInput(
            f"{variants.path}: {wrong} of the first {seen} lines contradict {genome.path.name} (contig or REF); "
            "is the VCF of another assembly?"
        )


def _message(vcf: Path, line: _Line, number: int, status: str, genome: _Reference) -> str:
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
