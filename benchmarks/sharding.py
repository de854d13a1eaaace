"""Speed from genome to shards: our writer and those of webdataset, MosaicML streaming and litdata, on the same input.

    python benchmarks/sharding.py                                   a generated genome of 64 Mbp
    python benchmarks/sharding.py --mbp 400 --template chr2.fa.gz   a larger one, made from a part of a real genome
    python benchmarks/sharding.py --input hg38.fa.gz --repeats 3    a real genome, median of three runs
    python benchmarks/sharding.py --input a.fa.gz b.fa.gz           several genomes, as one corpus
    python benchmarks/sharding.py --peers .venv-peers/bin/python    with the peers that `make peers` installed

Every writer runs in its own process, reads the same .fa.gz with the same
gunzip, and writes blocks of 2**20 bases. Ours also checks every letter, finds duplicates, measures leakage, stores
soft-mask and N apart, and verifies the result. The peers store the letters of each block as one sample, with their own
compression, and verify nothing. Wall time includes imports and the start of processes and of Ray. A peer that is not
installed is skipped, with a line in the table. The table is written to benchmarks/results/sharding.md.
"""

import argparse
import datetime
import gzip
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "sharding.md"
BLOCK = 2**20
CAUTION = (
    " A generated genome repeats the same sequence: compression across samples (MDS, litdata) gains from the "
    "repeats, and would not in a real genome."
)
SAMPLE = ROOT / "dataprep" / "sample" / "helicobacter_pylori_F32.fa.gz"


def generate(path: Path, template: Path, bases: int, bgzip: bool, contig: int = 50_000_000) -> None:
    """Write a genome of `bases` bases that repeats the template's letters, in contigs of about `contig` bases.

    Each copy of the template is rotated, and one base in 100 is changed. Lower case and N stay as in the template. A
    template without lower case gets runs of lower case, about as many a base as in a human genome. The file is
    compressed like `gzip -6` does, as one gzip member, or like bgzip does, as many members.
    """
    import numpy as np

    with gzip.open(template) as handle:
        records = handle.read().split(b">")[1:]
    letters = np.frombuffer(b"".join(r.partition(b"\n")[2].replace(b"\n", b"") for r in records), np.uint8)
    masked = bool((letters >= ord("a")).any())
    random = np.random.default_rng(0)
    with open(path, "wb") as file:
        sink = _Members(file) if bgzip else _OneMember(file)
        written = since_header = 0
        while written < bases:
            if since_header == 0 or since_header > contig:
                sink.write(b">chr%d\n" % (1 + written // contig))
                since_header = 0
            copy = np.roll(letters, int(random.integers(letters.size)))
            changed = np.flatnonzero((random.random(copy.size) < 0.01) & (copy | 32 != ord("n")))
            case = copy[changed] & 32
            copy[changed] = np.frombuffer(b"ACGT", np.uint8)[random.integers(0, 4, changed.size)] | case
            for start in () if masked else random.integers(0, copy.size, copy.size // 1000):
                copy[start : start + 300] |= 32
            lines = copy[: copy.size // 60 * 60].reshape(-1, 60)
            sink.write(np.pad(lines, ((0, 0), (0, 1)), constant_values=10).tobytes())
            written += lines.size
            since_header += lines.size
        sink.finish()


class _OneMember:
    """Writes like gzip: one member for the whole file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._compressor = zlib.compressobj(6, zlib.DEFLATED, 31)

    def write(self, data: bytes) -> None:
        self._file.write(self._compressor.compress(data))

    def finish(self) -> None:
        self._file.write(self._compressor.flush())


class _Members:
    """Writes like bgzip: one gzip member for every 65,280 bytes, with its size in the header, and an empty last one."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._rest = b""

    def write(self, data: bytes) -> None:
        data = self._rest + data
        whole = len(data) // 65_280 * 65_280
        for start in range(0, whole, 65_280):
            self._member(data[start : start + 65_280])
        self._rest = data[whole:]

    def finish(self) -> None:
        self._member(self._rest)
        self._member(b"")

    def _member(self, data: bytes) -> None:
        compressor = zlib.compressobj(6, zlib.DEFLATED, -15)
        body = compressor.compress(data) + compressor.flush()
        head = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x06\0BC\x02\0" + struct.pack("<H", len(body) + 25)
        self._file.write(head + body + struct.pack("<II", zlib.crc32(data), len(data)))


def letter_blocks(paths: Sequence[str]) -> Iterator[bytes]:
    """The samples of the peers: blocks of 2**20 letters of each contig.

    Reads 4 MiB at a time; a header must not lie across two reads.
    """
    for path in paths:
        yield from _letter_blocks_of(path)


def _letter_blocks_of(path: str) -> Iterator[bytes]:
    from isal import igzip

    rest = b""
    with igzip.open(path, "rb") as handle:
        while part := handle.read(2**22):
            more, *records = part.split(b">")
            rest += more.replace(b"\n", b"")
            for record in records:
                yield from (rest[i : i + BLOCK] for i in range(0, len(rest), BLOCK))
                rest = record.partition(b"\n")[2].replace(b"\n", b"")
            whole = len(rest) // BLOCK * BLOCK
            yield from (rest[i : i + BLOCK] for i in range(0, whole, BLOCK))
            rest = rest[whole:]
        if rest:
            yield rest


def ours(paths: Sequence[str], output: str, workers: int, ray: str | None = None) -> None:
    from dnachunker.dataprep.build.build import build_corpus
    from dnachunker.dataprep.config import CorpusConfig
    from dnachunker.dataprep.corpus.verify import verify_corpus

    sources = {f"g{number}": {"path": path} for number, path in enumerate(paths)}
    config = CorpusConfig(sources=sources, split={"kind": "hash", "valid": 0.05})  # type: ignore[arg-type]
    summary = build_corpus(config, output, workers=workers, ray=ray, quiet=True)
    if faults := verify_corpus(summary.corpus, threads=workers):
        raise SystemExit(faults[0])


def ours_one_core(paths: Sequence[str], output: str) -> None:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    ours(paths, output, 1)


def webdataset(paths: Sequence[str], output: str, suffix: str) -> None:
    from webdataset import ShardWriter

    os.makedirs(output)
    with ShardWriter(f"{output}/%06d.{suffix}", maxcount=64, verbose=0) as writer:
        for number, letters in enumerate(letter_blocks(paths)):
            writer.write({"__key__": f"{number:09d}", "seq": letters})


def mosaicml(paths: Sequence[str], output: str) -> None:
    from streaming import MDSWriter

    with MDSWriter(out=output, columns={"seq": "bytes"}, compression="zstd", size_limit=2**26) as writer:
        for letters in letter_blocks(paths):
            writer.write({"seq": letters})


def litdata(paths: Sequence[str], output: str) -> None:
    from litdata import optimize

    # samples are plain bytes, because litdata takes a dictionary of bytes for compressed media and does not compress it
    optimize(fn=letter_blocks, inputs=[paths], output_dir=output, num_workers=1, chunk_bytes=2**26, compression="zstd")


class Writer(NamedTuple):
    """A row of the table.

    Attributes:
        package: name of the distribution, whose version is shown.
        module: imported to find out whether the package is installed; empty for our own.
        write: called with the paths of the genomes and the output folder.
    """

    package: str
    module: str
    write: Callable[[Sequence[str], str], None]


WRITERS = {
    "one core": Writer("dnachunker", "", ours_one_core),
    "2 workers": Writer("dnachunker", "", lambda paths, output: ours(paths, output, 2)),
    "2 workers of Ray": Writer("dnachunker", "", lambda paths, output: ours(paths, output, 2, "local")),
    ".tar": Writer("webdataset", "webdataset", lambda paths, output: webdataset(paths, output, "tar")),
    ".tar.gz": Writer("webdataset", "webdataset", lambda paths, output: webdataset(paths, output, "tar.gz")),
    "MDS, zstd": Writer("mosaicml-streaming", "streaming", mosaicml),
    "optimize, zstd": Writer("litdata", "litdata", litdata),
}


def run_one(name: str, paths: Sequence[str], output: str) -> None:
    """Run one writer in this process and print its figures as JSON."""
    started = time.perf_counter()
    WRITERS[name].write(paths, output)
    seconds = time.perf_counter() - started
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    figures = {
        "seconds": seconds,
        "cpu": sum(u.ru_utime + u.ru_stime for u in usage),
        "rss": max(u.ru_maxrss for u in usage) * 1024,
        "bytes": sum(f.stat().st_size for f in Path(output).rglob("*") if f.is_file()),
        "version": importlib.metadata.version(WRITERS[name].package),
    }
    print("\n" + json.dumps(figures))


def measure(name: str, python: str, paths: Sequence[str]) -> dict[str, Any] | str:
    """Run one writer in a process of its own; returns its figures, or the reason why there are none."""
    writer = WRITERS[name]
    if writer.module:
        found = subprocess.run([python, "-c", f"import {writer.module}"], capture_output=True, text=True)
        if found.returncode:
            return f"not installed ({(found.stderr.strip().splitlines() or ['?'])[-1]})"
    with tempfile.TemporaryDirectory() as folder:
        argv = [python, __file__, "--one", name, "--input", *paths, "--output", f"{folder}/out"]
        environment = os.environ | {"PYTHONPATH": "" if writer.module else str(ROOT)}
        done = subprocess.run(argv, capture_output=True, text=True, env=environment)
    if done.returncode:
        return f"failed ({(done.stderr.strip().splitlines() or ['?'])[-1][:120]})"
    figures: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def table(rows: dict[str, list[dict[str, Any]] | str], bases: int) -> str:
    """Medians as a Markdown table. Ratios are of CPU time, because other work on the machine disturbs it least."""
    lines = [
        "| writer | Mbp/s | slowest, fastest | Mbp a CPU second | CPU time, times ours | bits a base | peak MiB |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    reference = 0.0
    for name, runs in rows.items():
        if isinstance(runs, str):
            lines.append(f"| {WRITERS[name].package}, {name} | {runs} | | | | | |")
            continue
        speeds = [bases / run["seconds"] / 1e6 for run in runs]
        cpu = statistics.median(run["cpu"] for run in runs)
        reference = reference or cpu
        lines.append(
            f"| {WRITERS[name].package} {runs[0]['version']}, {name} | {statistics.median(speeds):,.1f} "
            f"| {min(speeds):,.1f}, {max(speeds):,.1f} | {bases / cpu / 1e6:,.1f} | {cpu / reference:.1f} "
            f"| {8 * runs[0]['bytes'] / bases:.3f} | {max(run['rss'] for run in runs) / 2**20:,.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", nargs="+", help=".fa.gz to shard (default: a generated one)")
    parser.add_argument("--mbp", type=int, default=64, help="size of the generated genome, in millions of bases")
    parser.add_argument(
        "--template", type=Path, default=SAMPLE, help=".fa.gz whose letters the generated genome repeats"
    )
    parser.add_argument("--bgzip", action="store_true", help="compress the generated genome like bgzip does")
    parser.add_argument("--peers", default=sys.executable, metavar="PYTHON", help="Python interpreter with the peers")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each writer; the writers take turns")
    parser.add_argument("--only", nargs="+", choices=WRITERS, default=list(WRITERS), help="rows to measure")
    parser.add_argument("--result", type=Path, default=RESULT, help="file that the table is written to")
    parser.add_argument("--one", choices=WRITERS, help=argparse.SUPPRESS)
    parser.add_argument("--output", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        run_one(args.one, args.input, args.output)
        return
    load = os.getloadavg()[0]  # of other work; wall times are reliable only if it is far below the number of cores
    with tempfile.TemporaryDirectory() as folder:
        paths = args.input or [f"{folder}/generated.fa.gz"]
        if not args.input:
            generate(Path(paths[0]), args.template, args.mbp * 10**6, args.bgzip)
        bases = sum(map(len, letter_blocks(paths)))
        rows: dict[str, list[dict[str, Any]] | str] = {}
        for name in args.only * args.repeats:
            found = measure(name, args.peers if WRITERS[name].module else sys.executable, paths)
            print(name, found, file=sys.stderr, flush=True)
            row = rows.setdefault(name, [])
            if isinstance(found, str) or isinstance(row, str):
                rows[name] = found if isinstance(found, str) else row
            else:
                row.append(found)
        size = sum(map(os.path.getsize, paths))
    what = (
        " and ".join(Path(one).name for one in args.input)
        if args.input
        else f"a genome generated from {args.template.name}"
    )
    caution = "" if args.input else CAUTION
    text = (
        f"# Genome to shards\n\n{datetime.date.today()}: {what}, {bases / 1e6:,.1f} Mbp, {size / 1e6:,.1f} MB of "
        f"{'bgzip' if args.bgzip else 'gzip'}. {os.cpu_count()} cores ({platform.machine()}), Python "
        f"{platform.python_version()}; median of {args.repeats} runs; load before the first run "
        f"{load:.1f}. Ours also verifies every byte it wrote; "
        f"the peers verify nothing.{caution}\nWritten by `benchmarks/sharding.py`.\n\n{table(rows, bases)}\n"
    )
    print(text)
    args.result.parent.mkdir(exist_ok=True)
    args.result.write_text(text)


if __name__ == "__main__":
    main()
