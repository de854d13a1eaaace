"""CPU cost of `score-variants` and `embed`, beside the bare forward pass; several versions of the code in turn.

python benchmarks/downstream/speed.py --model EXPORT --data FOLDER [--source CLONE ...] [--rounds 2] [--variants-only]

FOLDER is the one that DNACHUNKER_TEST_DATA names. Each CLONE is a checkout of this repository. In each round every
checkout gets a process of its own, with one thread of OpenMP, and a copy of EXPORT with its own network code. Costs
are CPU seconds of that process: the seconds of a small command are subtracted from those of a large one, so that
loading does not count.
"""

import argparse
import contextlib
import gzip
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

FASTA, VCF = "brca1/chr17_42425001-43600000.fa.gz", "brca1/brca1_sge.vcf.gz"
VARIANTS = (3, 36)
RECORDS, BASES = (30, 1000), 50  # of short records
REGION = (3000, 43_000)  # bases of the region that is embedded base by base
SIZE = "embed, every base of a region, bytes a base"


def rate(amounts: tuple[int, int], run: Callable[[int], None]) -> float:
    """Amount per CPU second, from a small and a large command; a first command warms up."""
    seconds = []
    run(amounts[0])
    for amount in amounts:
        start = time.process_time()
        run(amount)
        seconds.append(time.process_time() - start)
    return (amounts[1] - amounts[0]) / (seconds[1] - seconds[0])


def with_own_code(model: str, folder: Path) -> str:
    """A copy of an export with the network code of the checkout that this process imports."""
    from dnachunker.model.modeling_dnachunker import DNAChunkerForMaskedLM

    shutil.copytree(model, folder)
    DNAChunkerForMaskedLM.from_pretrained(model, dtype="float32").save_pretrained(folder)
    return str(folder)


def measure(model: str, data: Path, folder: Path, *, variants_only: bool) -> dict[str, float]:
    """Every figure of the checkout that this process imports."""
    from dnachunker.cli import main as dnachunker

    model = with_own_code(model, folder / "export")
    fasta, output = str(data / FASTA), folder / "out"
    lines = gzip.decompress((data / VCF).read_bytes()).decode().splitlines()
    header = [line for line in lines if line.startswith("#")]
    letters = "".join(gzip.decompress((data / FASTA).read_bytes()).decode().split("\n")[1:])
    size = 0

    def run(verb: str, genome: str, suffix: str, *more: str) -> None:
        nonlocal size
        made = output.with_suffix(suffix)
        if dnachunker([verb, "--model", model, "--fasta", genome, "--output", str(made), *more]):
            raise SystemExit(f"{verb} failed")
        size = made.stat().st_size
        made.unlink()

    def variants(count: int, *more: str) -> None:
        (folder / "in.vcf").write_text("\n".join([*header, *lines[len(header) : len(header) + count]]) + "\n")
        run("score-variants", fasta, ".vcf", "--vcf", str(folder / "in.vcf"), *more)

    def likelihoods(count: int) -> None:
        variants(count, "--no-shifts")

    def records(count: int) -> None:
        cut = [letters[500_000 + BASES * i : 500_000 + BASES * (i + 1)] for i in range(count)]
        (folder / "short.fa").write_text("".join(f">r{i}\n{text}\n" for i, text in enumerate(cut)))
        run("embed", str(folder / "short.fa"), ".parquet")

    def bases(count: int) -> None:
        region = f"chr17_42425001_43600000:500001-{500_000 + count}"
        run("embed", fasta, ".parquet", "--region", region, "--level", "base")

    found = {"score-variants, SNVs": rate(VARIANTS, variants), "score-variants --no-shifts, SNVs": math.nan}
    with contextlib.suppress(SystemExit):  # of a version that lacks this argument
        found["score-variants --no-shifts, SNVs"] = rate(VARIANTS, likelihoods)
    if variants_only:
        return found
    found[f"embed, records of {BASES} bp, bases"] = BASES * rate(RECORDS, records)
    found["embed, every base of a region, bases"] = rate(REGION, bases)
    return {**found, SIZE: size / REGION[1], **bare(model)}


def bare(model: str) -> dict[str, float]:
    """Bases per CPU second of the network alone, by rows and length of a batch."""
    import torch
    from transformers import AutoModel

    network = AutoModel.from_pretrained(model, trust_remote_code=True).eval()
    found = {}
    for rows, length in ((8, 1024), (64, 1024), (160, BASES)):
        ids = torch.randint(7, 11, (rows, length), generator=torch.Generator().manual_seed(0))

        def run(count: int, ids: torch.Tensor = ids) -> None:
            with torch.no_grad():
                for _ in range(count):
                    network(ids)

        found[f"bare forward pass, {rows} x {length}, bases"] = (
            rows * length * rate((0, max(1, 65_536 // ids.numel())), run)
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--source", type=Path, action="append")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--variants-only", action="store_true", help="leave out embed and the network alone")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)  # of this process: where its figures go
    arguments = parser.parse_args()
    if arguments.measure:
        with tempfile.TemporaryDirectory() as folder:
            figures = measure(arguments.model, arguments.data, Path(folder), variants_only=arguments.variants_only)
            arguments.measure.write_text(json.dumps(figures))
        return
    sources = arguments.source or [Path(__file__).resolve().parents[2]]
    found: dict[Path, list[dict[str, float]]] = {source: [] for source in sources}
    for number in range(arguments.rounds):
        for source in sources if number % 2 == 0 else sources[::-1]:
            with tempfile.NamedTemporaryFile() as figures:
                environment = {**os.environ, "PYTHONPATH": str(source.resolve()), "OMP_NUM_THREADS": "1"}
                argv = [sys.executable, __file__, "--model", arguments.model, "--data", str(arguments.data)]
                argv += ["--variants-only"] if arguments.variants_only else []
                subprocess.run([*argv, "--measure", figures.name], env=environment, check=True, stdout=2)
                found[source].append(json.loads(Path(figures.name).read_text()))
            print(source, found[source][-1], file=sys.stderr, flush=True)
    commits = [subprocess.check_output(["git", "-C", s, "rev-parse", "--short", "HEAD"], text=True) for s in sources]
    print(f"| per CPU second | {' | '.join(commit.strip() for commit in commits)} |\n| --- |{' ---: |' * len(sources)}")
    for name in found[sources[0]][0]:
        medians = [statistics.median(one[name] for one in found[source]) for source in sources]
        print(f"| {name} | {' | '.join(f'{value:,.1f}' for value in medians)} |")


if __name__ == "__main__":
    main()
