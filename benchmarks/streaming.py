"""Speed of reading windows: our loader and those of litdata, MosaicML streaming, webdataset and pyfaidx.

    make peers
    .venv-peers/bin/python benchmarks/streaming.py              a generated genome of 1 Gbp, 3 rounds
    .venv-peers/bin/python benchmarks/streaming.py --mbp 200    a smaller genome

Every loader delivers shuffled batches of 32 windows of 8,192 bases, as (32, 8192) uint8, to one training process, with
no worker process or with two. "MLM batches" adds the corruption, which is the same for all loaders, in the training
process (int64 ids and labels, float weights). The peers store each window as one uncompressed sample, which they read
fastest, and do not check what they read. Ours reads 2 bits a base, checks every frame, draws new window borders each
epoch and takes half of the windows from the other strand. Each measurement runs in its own process, the loaders take
turns, and the table gives medians. Resume is the time to the first batch at 90 % of the epoch, after the imports and
before the corpus is opened. The table is written into docs/loader.md.
"""

import argparse
import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # instead of this folder, whose streaming.py would hide the package `streaming`
PAGE = ROOT / "docs" / "loader.md"
MARK = "<!-- written by benchmarks/streaming.py -->"
LENGTH, BATCH = 8192, 32
PACKAGES = {"dnachunker": "dnachunker", "litdata": "litdata", "mosaicml-streaming": "streaming",
            "webdataset": "webdataset", "pyfaidx": "pyfaidx"}  # fmt: skip
Batches = Iterator[Any]


def genome(mbp: int) -> Iterator[tuple[str, bytes]]:
    """Contigs (name, letters) of mutated copies of the sample genome, with soft-masked parts."""
    import gzip

    import numpy as np

    with gzip.open(ROOT / "dataprep" / "sample" / "helicobacter_pylori_F32.fa.gz") as handle:
        letters = np.frombuffer(b"".join(handle.read().split(b"\n")[1:]), np.uint8)
    random = np.random.default_rng(0)
    copies = -(-mbp * 10**6 // letters.size)
    for contig in range(-(-copies // 50)):
        pieces = []
        for _ in range(min(50, copies - contig * 50)):
            copy = np.roll(letters, int(random.integers(letters.size)))
            places = random.integers(0, copy.size, copy.size // 20)
            copy[places] = np.frombuffer(b"ACGT", np.uint8)[random.integers(0, 4, places.size)]
            for start in random.integers(0, copy.size, 1500):
                copy[start : start + 300] |= 32
            pieces.append(copy.tobytes())
        yield f"chr{contig + 1}", b"".join(pieces)


def windows_of(folder: Path) -> Iterator[bytes]:
    """The genome cut into whole windows, for the peers that store windows."""
    with open(folder / "genome.fa", "rb") as handle:
        for line in handle:
            if not line.startswith(b">"):
                yield from (line[i : i + LENGTH] for i in range(0, len(line) - LENGTH, LENGTH))


def as_window(folder: str) -> Iterator[dict[str, bytes]]:
    """The samples for litdata, which calls this function in its own workers."""
    yield from ({"seq": letters} for letters in windows_of(Path(folder)))


def prepare(folder: Path, mbp: int, names: list[str]) -> None:
    """Write the genome, and the store of each loader."""
    with open(folder / "genome.fa", "wb") as handle:
        for name, letters in genome(mbp):
            handle.write(b">" + name.encode() + b"\n" + letters + b"\n")
    argv = [sys.executable, "-m", "dnachunker", "shard", "--output", str(folder / "dnachunker"), "--ray", "none"]
    config = folder / "corpus.yaml"
    config.write_text(f"sources: {{g: {{path: {folder / 'genome.fa'}}}}}\nsplit: {{kind: contigs, splits: {{}}}}\n")
    subprocess.run([*argv, "--config", str(config)], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    if "webdataset" in names:
        import webdataset

        (folder / "webdataset").mkdir()
        with webdataset.ShardWriter(f"{folder}/webdataset/%05d.tar", maxcount=8192, verbose=0) as writer:
            for number, letters in enumerate(windows_of(folder)):
                writer.write({"__key__": f"{number:09d}", "seq": letters})
    if "mosaicml-streaming" in names:
        import streaming

        with streaming.MDSWriter(out=f"{folder}/mosaicml-streaming", columns={"seq": "bytes"}) as writer:
            for letters in windows_of(folder):
                writer.write({"seq": letters})
    if "litdata" in names:
        import litdata

        litdata.optimize(
            fn=as_window, inputs=[str(folder)], output_dir=f"{folder}/litdata", num_workers=1, chunk_bytes=2**26
        )
    if "pyfaidx" in names:
        import pyfaidx

        pyfaidx.Faidx(f"{folder}/genome.fa")


def letters_to_codes() -> Any:
    """A table (256,) from letter to packed code; the soft-mask bit is set for lower case."""
    import numpy as np

    table = np.full(256, 4, np.uint8)
    for code, letter in enumerate(b"ACGT"):
        table[letter], table[letter | 32] = code, code | 8
    return table


def ours(folder: Path, workers: int, skip: float) -> Batches:
    import pyarrow.parquet  # noqa: F401  # `Corpus.open` imports it, and imports are not timed
    import torch

    from dnachunker.dataprep.corpus.index import Corpus
    from dnachunker.pretrain.config import DataSettings
    from dnachunker.pretrain.data.masking import MaskingRates
    from dnachunker.pretrain.data.objective import MaskedBases
    from dnachunker.pretrain.data.training_data import TrainingData
    from dnachunker.pretrain.data.window_reader import WindowReader
    from dnachunker.pretrain.engine.ranks import Rank
    from dnachunker.pretrain.order.curriculum import Curriculum
    from dnachunker.pretrain.order.mixing import Mixture

    yield None  # all imports are done
    corpus = Corpus.open(folder / "dnachunker")
    settings = DataSettings(corpus=corpus.path, seq_len=LENGTH, global_batch=BATCH)
    bases = corpus.blocks("train").bases
    curriculum = Curriculum.of(settings, bases, Mixture.natural(len(bases)), seed=0)
    steps = curriculum.phase(0).order.epoch_windows(0) // BATCH
    reader = WindowReader(corpus, "train", cached_blocks=64 * 5, threads=workers + 1)
    data = TrainingData(
        curriculum, reader, MaskedBases(MaskingRates()), Rank(0, 1, 0, torch.device("cpu")), accumulation=1,
        first_step=int(steps * skip), end_step=steps, workers=workers,
    )  # fmt: skip
    for _ in range(int(steps * skip), steps):
        yield data.draw_packed()[1]


def collate(samples: list[Any]) -> Any:
    """Windows as letters -> (B, L) uint8 packed codes; called in the worker, as usual for these loaders."""
    import numpy as np
    import torch

    table = letters_to_codes()
    joined = b"".join(sample["seq"] if isinstance(sample, dict) else sample for sample in samples)
    return torch.from_numpy(table.take(np.frombuffer(joined, np.uint8)).reshape(len(samples), LENGTH))


def litdata(folder: Path, workers: int, skip: float) -> Batches:
    from litdata import StreamingDataLoader, StreamingDataset

    yield None
    dataset = StreamingDataset(f"{folder}/litdata", shuffle=True, drop_last=True)
    loader = StreamingDataLoader(dataset, batch_size=BATCH, num_workers=workers, collate_fn=collate, drop_last=True)
    if skip:
        done = int(len(dataset) // BATCH * skip)
        loader.load_state_dict(
            {
                "dataset": dataset.state_dict(done * BATCH, workers, BATCH),
                "current_epoch": 1,
                "num_samples_yielded": done * BATCH,
                "latest_worker_idx": 0,
            }
        )
    yield from loader


def mosaicml(folder: Path, workers: int, skip: float) -> Batches:
    from streaming import StreamingDataset
    from torch.utils.data import DataLoader

    yield None
    dataset = StreamingDataset(local=f"{folder}/mosaicml-streaming", shuffle=True, batch_size=BATCH)
    if skip:
        done = int(len(dataset) * skip) // BATCH * BATCH
        dataset.load_state_dict(dataset.state_dict(done, from_beginning=True))
    yield from DataLoader(dataset, batch_size=BATCH, num_workers=workers, collate_fn=collate, drop_last=True)


def webdataset(folder: Path, workers: int, skip: float) -> Batches:
    import webdataset as wds

    yield None
    shards = sorted(str(path) for path in (folder / "webdataset").glob("*.tar"))
    dataset = wds.WebDataset(shards, shardshuffle=len(shards), empty_check=False).shuffle(1000)
    dataset = dataset.to_tuple("seq").map(lambda sample: sample[0]).batched(BATCH, collation_fn=collate, partial=False)
    batches = iter(wds.WebLoader(dataset, batch_size=None, num_workers=workers))
    if skip:  # webdataset cannot resume, so the first part of the epoch is read again
        total = sum(path.stat().st_size for path in (folder / "webdataset").glob("*.tar")) // (LENGTH + 1024) // BATCH
        for _ in range(int(total * skip)):
            next(batches)
    yield from batches


def pyfaidx(folder: Path, workers: int, skip: float) -> Batches:
    import numpy as np
    import pyfaidx
    import torch

    class PerWindow(torch.utils.data.Dataset):
        """One file handle for each process, one read for each window."""

        def __init__(self) -> None:
            self._fasta: Any = None
            with pyfaidx.Fasta(f"{folder}/genome.fa") as fasta:
                spans = {name: len(fasta[name]) - LENGTH for name in list(fasta.keys())}
            self._places = [(name, start) for name, last in spans.items() for start in range(0, last, LENGTH)]

        def __len__(self) -> int:
            return len(self._places)

        def __getitem__(self, index: int) -> bytes:
            self._fasta = self._fasta or pyfaidx.Fasta(f"{folder}/genome.fa", as_raw=True)
            name, start = self._places[index]
            return self._fasta[name][start : start + LENGTH].encode()

    yield None
    dataset = PerWindow()
    order = np.random.default_rng(0).permutation(len(dataset))
    order = order[int(len(order) * skip) :].tolist()
    yield from torch.utils.data.DataLoader(
        dataset, batch_size=BATCH, sampler=order, num_workers=workers, collate_fn=collate, drop_last=True
    )


LOADERS: dict[str, Callable[[Path, int, float], Batches]] = {
    "dnachunker": ours,
    "litdata": litdata,
    "mosaicml-streaming": mosaicml,
    "webdataset": webdataset,
    "pyfaidx": pyfaidx,
}


def run_one(name: str, folder: Path, what: str, workers: int, seconds: float) -> float:
    """Measure one loader in this process; returns Mbp/s, or seconds for `resume`."""
    import torch

    from dnachunker.pretrain.data.masking import MaskingRates, corrupt

    torch.set_num_threads(1)
    batches = LOADERS[name](folder, workers, 0.9 if what == "resume" else 0.0)
    keys, rates, room = torch.arange(BATCH), MaskingRates(), None
    corrupt(torch.zeros((1, 8), dtype=torch.uint8), keys[:1], rates)
    next(batches)
    began = time.perf_counter()
    if what == "resume":
        corrupt(next(batches), keys, rates)
        return time.perf_counter() - began
    for _ in range(16):  # the start is not part of the rate
        next(batches)
    began, count = time.perf_counter(), 0
    for packed in batches:
        if what == "batches":
            room = corrupt(packed, keys, rates, out=room)
        count += 1
        if time.perf_counter() - began > seconds:
            break
    return count * BATCH * LENGTH / (time.perf_counter() - began) / 1e6


def measure(name: str, folder: Path, what: str, workers: int, seconds: float) -> float | str:
    """Measure one loader in a process of its own; returns the figure, or the reason why there is none."""
    argv = [sys.executable, __file__, "--one", name, "--folder", str(folder), "--what", what]
    done = subprocess.run(
        [*argv, "--workers", str(workers), "--seconds", str(seconds)], capture_output=True, text=True, timeout=300
    )
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["failed"])[-1][:80]
    return float(done.stdout.strip().splitlines()[-1])


COLUMNS = [("windows", 0), ("batches", 0), ("windows", 2), ("batches", 2), ("resume", 0)]


def table(results: dict[str, dict[tuple[str, int], list[float | str]]], versions: dict[str, str]) -> str:
    """Medians as a Markdown table, with the ratio of our speed to each peer's."""
    lines = [
        "| loader | windows, Mbp/s | MLM batches | windows, 2 workers | MLM batches, 2 workers | resume at 90 %, s |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    medians = {
        name: {
            column: statistics.median(values) if all(isinstance(v, float) for v in values) else str(values[0])
            for column, values in columns.items()
        }
        for name, columns in results.items()
    }
    for name, columns in medians.items():
        cells = []
        for column in COLUMNS:
            value, own = columns[column], medians["dnachunker"][column]
            if isinstance(value, str) or isinstance(own, str):
                cells.append(str(value))
            elif column[0] == "resume":
                cells.append(f"{value:.2f}")
            else:
                cells.append(f"{value:,.0f}" + (f" (ours {own / value:.1f}x)" if name != "dnachunker" else ""))
        lines.append("| " + " | ".join([f"{name} {versions[name]}".strip(), *cells]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mbp", type=int, default=1000, help="size of the generated genome, in millions of bases")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each figure (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=4.0, help="longest time of one measurement of speed")
    parser.add_argument("--folder", type=Path, help="folder for genome and stores, which a second run uses again")
    parser.add_argument("--one", choices=LOADERS, help=argparse.SUPPRESS)
    parser.add_argument("--what", help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(run_one(args.one, args.folder, args.what, args.workers, args.seconds))
        return
    names = [name for name, module in PACKAGES.items() if name == "dnachunker" or importlib.util.find_spec(module)]
    for name in sorted(set(PACKAGES) - set(names)):
        print(f"{name} is not installed; it is left out", file=sys.stderr)
    folder = args.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if not (folder / "prepared").exists():
            prepare(folder, args.mbp, names)
            (folder / "prepared").touch()
        results: dict[str, dict[tuple[str, int], list[float | str]]] = {n: {c: [] for c in COLUMNS} for n in names}
        for round_number in range(args.rounds):
            for column in COLUMNS:
                for name in names:
                    results[name][column].append(measure(name, folder, *column, args.seconds))
                    print(round_number, *column, name, results[name][column][-1], file=sys.stderr, flush=True)
    finally:
        if not args.folder:
            shutil.rmtree(folder)
    versions = {name: "" if name == "dnachunker" else importlib.metadata.version(name) for name in names}
    text = (
        f"{MARK}\n{datetime.date.today()}, generated genome of {args.mbp} Mbp, medians of {args.rounds} rounds, "
        f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}, "
        f"torch {importlib.metadata.version('torch')}. Made by `python benchmarks/streaming.py`.\n\n"
        f"{table(results, versions)}\n{MARK}"
    )
    print(json.dumps({name: {f"{w} {n}": v for (w, n), v in row.items()} for name, row in results.items()}))
    print(text)
    before, _, rest = PAGE.read_text().partition(MARK)
    PAGE.write_text(before + text + rest.partition(MARK)[2])


if __name__ == "__main__":
    main()
