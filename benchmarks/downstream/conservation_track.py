r"""A bigWig of conservation for `dnachunker study track`: at each base, the share of other species with the same base.

python benchmarks/downstream/conservation_track.py human.fa.gz --contigs 'ENm002*' --others mouse.fa.gz dog.fa.gz \
    --output out.bw

Contigs of each other genome are aligned to those of the first by LAST (`apt-get install last-align`) with the scores
HOXD70 (Chiaromonte et al. 2002), which suit mammals. `last-split` keeps one alignment of each base of the other genome.
A base that nothing aligns to has the value 0.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pyBigWig
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[2]))

from dnachunker.dataprep.genomes.genome import Genome
from dnachunker.foundations.failures import BadInput

_ALIGN = "lastal -P1 -m10 -pHOXD70 -e4500 -D1e6 {database} {other} | last-split -m1"
_GAP = ord("-")


def write_fasta(path: Path, genome: Path, pattern: str) -> dict[str, int]:
    """Write the contigs whose names match; their lengths.

    Raises:
        BadInput: none does.
    """
    with Genome(genome) as opened, path.open("w") as out:
        lengths = {contig: length for contig, length in opened.lengths.items() if fnmatch(contig, pattern)}
        if not lengths:
            raise BadInput(f"{genome}: no contig matches {pattern}; it has {', '.join(list(opened.lengths)[:5])}")
        for contig, length in lengths.items():
            out.write(f">{contig}\n{opened.fetch(contig, 0, length)}\n")
    return lengths


def same_bases(maf: Iterable[str], lengths: dict[str, int]) -> dict[str, NDArray[np.bool_]]:
    """By contig, where a base of the first genome is aligned to the same base; of a MAF with pairs."""
    same = {contig: np.zeros(length, bool) for contig, length in lengths.items()}
    first: list[str] = []
    for line in maf:
        if not line.startswith("s "):
            continue
        if not first:
            first = line.split()
            continue
        ours, theirs = (np.frombuffer(text.upper().encode(), np.uint8) for text in (first[6], line.split()[6]))
        at = int(first[2]) + np.cumsum(ours != _GAP) - 1
        same[first[1]][at[(ours == theirs) & (ours != _GAP)]] = True
        first = []
    return same


def main() -> int:
    """Read the arguments; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("genome", type=Path)
    parser.add_argument("--others", type=Path, nargs="+", required=True)
    parser.add_argument("--contigs", default="*", help="pattern of contigs, in all genomes (default: all)")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    if not shutil.which("lastal"):
        print("conservation_track: LAST is not installed; apt-get install last-align", file=sys.stderr)
        return 2
    try:
        with tempfile.TemporaryDirectory() as scratch:
            ours, other, database = (str(Path(scratch, name)) for name in ("ours.fa", "other.fa", "database"))
            lengths = write_fasta(Path(ours), options.genome, options.contigs)
            subprocess.run(["lastdb", "-P1", "-uMAM4", database, ours], check=True)
            totals = {contig: np.zeros(length) for contig, length in lengths.items()}
            for path in options.others:
                write_fasta(Path(other), path, options.contigs)
                argv = ["bash", "-o", "pipefail", "-c", _ALIGN.format(database=database, other=other)]
                maf = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.splitlines()
                found = same_bases(maf, lengths)
                print(f"{path.name}: {np.mean(np.concatenate(list(found.values()))):.3f} the same", flush=True)
                for contig, same in found.items():
                    totals[contig] += same
    except BadInput as error:
        print(f"conservation_track: {error}", file=sys.stderr)
        return error.code
    with pyBigWig.open(str(options.output), "w") as wig:
        wig.addHeader(sorted(lengths.items()))
        for contig in sorted(lengths):
            wig.addEntries(contig, 0, values=totals[contig] / len(options.others), span=1, step=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
