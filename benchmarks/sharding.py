"""Genome to shards: our writer beside webdataset, MosaicML streaming and litdata, on one input.

    python benchmarks/sharding.py                                   a generated genome of 64 Mbp
    python benchmarks/sharding.py --input hg38.fa.gz --workers 2    a real one, and with two workers too
    python benchmarks/sharding.py --peers /path/to/venv/bin/python  peers from another environment

Peers come with `pip install '.[bench]'`. Every writer runs in its own process and gets the same .fa.gz, in blocks of
2**20 bases. Ours checks every letter, finds duplicates, stores soft-mask and N apart and verifies what it wrote; the
peers store the letters of each block as one sample, with their own compression, and verify nothing. Wall time includes
imports and the start of processes. A peer that is not installed is skipped and says so. The table goes to
benchmarks/results/sharding.md.
"""

import argparse
import datetime
import gzip
import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "sharding.md"
BLOCK = 2**20
PEERS = {"webdataset": "webdataset", "mosaicml-streaming": "streaming", "litdata": "litdata"}


def generate(path: Path, bases: int) -> None:
    """A .fa.gz of rotated copies of the sample genome, each with its own mutations and soft-mask."""
    import numpy as np

    with gzip.open(ROOT / "dataprep" / "sample" / "helicobacter_pylori_F32.fa.gz") as handle:
        letters = np.frombuffer(b"".join(handle.read().split(b"\n")[1:]), np.uint8)
    random = np.random.default_rng(0)
    compressor = zlib.compressobj(6, zlib.DEFLATED, 31)
    with open(path, "wb") as sink:
        sink.write(compressor.compress(b">chr1\n"))
        for _ in range(-(-bases // letters.size)):
            copy = np.roll(letters, int(random.integers(letters.size)))
            mutated = np.flatnonzero(random.random(copy.size) < 0.1)
            copy[mutated] = np.frombuffer(b"ACGT", np.uint8)[random.integers(0, 4, mutated.size)]
            for start in random.integers(0, copy.size, 1500):  # about as many repeats a base as in human
                copy[start : start + 300] |= 32
            lines = copy[: copy.size // 60 * 60].reshape(-1, 60)
            sink.write(compressor.compress(np.pad(lines, ((0, 0), (0, 1)), constant_values=10).tobytes()))
        sink.write(compressor.flush())


def letter_blocks(path: str) -> Iterator[bytes]:
    """What the peers store: stretches of 2**20 letters of each contig."""
    with gzip.open(path, "rb") as handle:
        rest = b""
        while chunk := handle.read(2**22):
            *full, last = chunk.split(b">")
            for piece in full:
                rest += piece.replace(b"\n", b"")
                yield from (rest[i : i + BLOCK] for i in range(0, len(rest), BLOCK))
                rest = b""
            if full:
                last = last.partition(b"\n")[2]
            rest += last.replace(b"\n", b"")
            whole = len(rest) // BLOCK * BLOCK
            yield from (rest[i : i + BLOCK] for i in range(0, whole, BLOCK))
            rest = rest[whole:]
        if rest:
            yield rest


def ours(path: str, output: str, workers: int) -> None:
    from dataprep.config import CorpusConfig
    from dataprep.ray_pipeline import build_corpus
    from dataprep.verify import verify_corpus

    config = CorpusConfig(sources={"g": {"path": path}}, split={"kind": "hash", "valid": 0.05})  # type: ignore[dict-item, arg-type]
    summary = build_corpus(config, output, workers=workers, quiet=True)
    if faults := verify_corpus(summary.corpus, threads=max(workers, 1)):
        raise SystemExit(faults[0])


def webdataset(path: str, output: str, workers: int) -> None:
    from webdataset import ShardWriter

    os.makedirs(output)
    with ShardWriter(f"{output}/%06d.tar.gz", maxcount=64, verbose=0) as writer:
        for number, letters in enumerate(letter_blocks(path)):
            writer.write({"__key__": f"{number:09d}", "seq": letters})


def mosaicml(path: str, output: str, workers: int) -> None:
    from streaming import MDSWriter

    with MDSWriter(out=output, columns={"seq": "bytes"}, compression="zstd", size_limit=2**26) as writer:
        for letters in letter_blocks(path):
            writer.write({"seq": letters})


def litdata(path: str, output: str, workers: int) -> None:
    from litdata import optimize

    optimize(fn=_samples, inputs=[path], output_dir=output, num_workers=1, chunk_bytes=2**26, compression="zstd")


def _samples(path: str) -> Iterator[dict[str, bytes]]:
    for letters in letter_blocks(path):
        yield {"seq": letters}


WRITERS: dict[str, Callable[[str, str, int], None]] = {
    "dnachunker": ours,
    "webdataset": webdataset,
    "mosaicml-streaming": mosaicml,
    "litdata": litdata,
}


def run_one(name: str, path: str, output: str, workers: int) -> None:
    """In a process of its own: write, and print the figures as JSON."""
    started = time.perf_counter()
    WRITERS[name](path, output, workers)
    seconds = time.perf_counter() - started
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    figures = {
        "seconds": seconds,
        "cpu": sum(u.ru_utime + u.ru_stime for u in usage),
        "rss": max(u.ru_maxrss for u in usage) * 1024,
        "bytes": sum(f.stat().st_size for f in Path(output).rglob("*") if f.is_file()),
        "version": importlib.metadata.version(name),
    }
    print("\n" + json.dumps(figures))


def measure(name: str, python: str, path: str, workers: int, repeats: int) -> dict[str, Any] | str:
    """The figures of the fastest of some runs, or the reason why there are none."""
    if name in PEERS:
        found = subprocess.run([python, "-c", f"import {PEERS[name]}"], capture_output=True, text=True)
        if found.returncode:
            return f"not installed ({(found.stderr.strip().splitlines() or ['?'])[-1]})"
    best: dict[str, Any] | None = None
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            command = [python, "-P", __file__, "--one", name, "--input", path, "--output", f"{folder}/out"]
            environment = os.environ | ({"PYTHONPATH": str(ROOT)} if name not in PEERS else {"PYTHONPATH": ""})
            done = subprocess.run(
                [*command, "--workers", str(workers)], capture_output=True, text=True, env=environment
            )
        if done.returncode:
            return f"failed ({(done.stderr.strip().splitlines() or ['?'])[-1][:120]})"
        figures = json.loads(done.stdout.strip().splitlines()[-1])
        if best is None or figures["seconds"] < best["seconds"]:
            best = figures
    assert best is not None
    return best


def table(rows: list[tuple[str, dict[str, Any] | str]], reference: dict[str, Any]) -> str:
    """The rows as Markdown, speeds also as ratios to the first."""
    lines = [
        "| writer | Mbp/s, wall | Mbp/s, CPU time | ours is faster by (CPU) | bits a base | peak MiB a process |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, row in rows:
        if isinstance(row, str):
            lines.append(f"| {name} | {row} | | | | |")
            continue
        ratio = row["cpu"] / row["bases"] / (reference["cpu"] / reference["bases"])
        lines.append(
            f"| {name} {row['version']} | {row['bases'] / row['seconds'] / 1e6:,.1f} "
            f"| {row['bases'] / row['cpu'] / 1e6:,.1f} | {ratio:.1f} | {8 * row['bytes'] / row['bases']:.3f} "
            f"| {row['rss'] / 2**20:,.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", help=".fa.gz to shard (default: a generated one)")
    parser.add_argument("--mbp", type=int, default=64, help="size of the generated genome")
    parser.add_argument("--workers", type=int, default=2, help="also measure ours with so many processes")
    parser.add_argument("--peers", default=sys.executable, metavar="PYTHON", help="interpreter that has the peers")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each; the fastest counts")
    parser.add_argument("--one", choices=WRITERS, help=argparse.SUPPRESS)
    parser.add_argument("--output", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        run_one(args.one, args.input, args.output, args.workers)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = args.input or f"{folder}/generated.fa.gz"
        if not args.input:
            generate(Path(path), args.mbp * 10**6)
        bases = sum(map(len, letter_blocks(path)))
        rows: list[tuple[str, dict[str, Any] | str]] = []
        for name, workers in [("dnachunker", 0), ("dnachunker", args.workers), *((peer, 1) for peer in PEERS)]:
            python = sys.executable if name == "dnachunker" else args.peers
            label = name if name in PEERS else f"{name}, {f'{workers} workers' if workers else 'this process'},"
            found = measure(name, python, path, workers, args.repeats)
            rows.append((label, found if isinstance(found, str) else found | {"bases": bases}))
            print(label, rows[-1][1], file=sys.stderr, flush=True)
        size = os.path.getsize(path)
    reference = rows[0][1]
    if isinstance(reference, str):
        raise SystemExit(f"dnachunker: {reference}")
    what = Path(args.input).name if args.input else f"generated genome of {args.mbp} Mbp"
    text = (
        f"# Genome to shards\n\n{datetime.date.today()}, {what} ({size / 1e6:,.1f} MB of .fa.gz), "
        f"{reference['bases'] / 1e6:,.1f} Mbp, {os.cpu_count()} cores ({platform.machine()}), "
        f"Python {platform.python_version()}. Ours includes the check of every byte written; peers verify nothing.\n"
        f"Written by `benchmarks/sharding.py`.\n\n{table(rows, reference)}\n"
    )
    print(text)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(text)


if __name__ == "__main__":
    main()
