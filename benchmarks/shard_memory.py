"""Peak memory of building a corpus from one large contig, with threads and with Ray.

    python benchmarks/shard_memory.py               a generated contig of 250 Mbp, the size of human chromosome 1
    python benchmarks/shard_memory.py --mbp 1000    a larger one

Reads the resident set of the command and of every process it starts twenty times a second. Pages of the prepared genome
that a process only maps count, too. The table has one row for each kind of process (the command, workers, Ray's
servers), with the largest peak of that kind. It is written to benchmarks/results/shard_memory.md.
"""

import argparse
import datetime
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from sharding import SAMPLE, generate

ROOT = Path(__file__).resolve().parents[1]
ALLOWED_MIB = 1024
RESULT = ROOT / "benchmarks" / "results" / "shard_memory.md"


def largest(argv: list[str]) -> tuple[dict[str, int], float]:
    """Run a command; returns peak resident bytes by kind of process, and the seconds that the command took."""
    peaks: dict[str, int] = {}
    started = time.monotonic()
    process = psutil.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        try:
            for one in [process, *process.children(recursive=True)]:
                kind = kind_of(one, process)
                peaks[kind] = max(peaks.get(kind, 0), one.memory_info().rss)
        except psutil.NoSuchProcess:
            pass  # the process ended after it was listed
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"{' '.join(argv)} failed with code {process.returncode}")
    return peaks, time.monotonic() - started


def kind_of(process: psutil.Process, command: psutil.Popen) -> str:
    """`the command itself`, `worker` (a Ray worker) or `Ray's servers`."""
    if process.pid == command.pid:
        return "the command itself"
    title = " ".join(process.cmdline())
    return "worker" if title.startswith("ray::") and "IDLE_SpillWorker" not in title else "Ray's servers"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mbp", type=int, default=250, help="length of the contig, in millions of bases")
    parser.add_argument("--template", type=Path, default=SAMPLE, help=".fa.gz whose letters the contig repeats")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        fasta, config = Path(folder) / "contig.fa.gz", Path(folder) / "corpus.yaml"
        generate(fasta, arguments.template, arguments.mbp * 10**6, bgzip=False, contig=arguments.mbp * 10**6)
        config.write_text(f"sources: {{g: {{path: {fasta}}}}}\n")
        lines = [
            f"# Memory of building a corpus\n\n{datetime.date.today()}: one contig of {arguments.mbp} Mbp, .fa.gz. "
            "Written by `benchmarks/shard_memory.py`.\n",
            "| build | process | peak MiB | allowed | seconds |\n| --- | --- | ---: | ---: | ---: |",
        ]
        for words in (["--ray", "none", "--workers", "2"], ["--ray", "local", "--workers", "2"]):
            argv = [sys.executable, "-m", "dnachunker", "shard", "--config", str(config)]
            peaks, seconds = largest([*argv, "--output", f"{folder}/{words[1]}", *words])
            for kind, peak in sorted(peaks.items()):
                allowed = "" if kind == "Ray's servers" else f"{ALLOWED_MIB:,}"
                lines.append(f"| `{' '.join(words)}` | {kind} | {peak / 2**20:,.0f} | {allowed} | {seconds:.0f} |")
    print("\n".join(lines))
    RESULT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
