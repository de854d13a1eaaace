"""Benchmark of the model on one GPU: parity, bandwidth of every kernel, training steps, and where their time goes.

python benchmarks/gpu/run.py [--corpus CORPUS] [--minutes 8] [--smoke]     (make gpu-bench)

Needs torch, triton, transformers and numba, but not the packages for training. Writes gpu-DATE.md and gpu-DATE.json
into benchmarks/results/. A section that cannot start within the minutes is left out, and the page names it. A section
that fails is reported, the others continue, and the exit code is 1. `--smoke` is a test: it runs every section with the
smallest sizes on a CPU, under Triton's interpreter, and its figures have no meaning.
"""

import argparse
import datetime
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
if "--smoke" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported

import torch

from benchmarks.gpu import cutting, kernel_speed, parity, training
from benchmarks.gpu.machine import Machine, describe
from benchmarks.gpu.table import write

RESULTS = Path(__file__).parents[1] / "results"
SECTIONS = {
    "parity": parity.against_reference,
    "kernels": kernel_speed.of_each,
    "cutting": cutting.by_kernels_and_torch,
    "mamba_ssm": kernel_speed.beside_mamba_ssm,
    "no_waiting": training.never_waits,
    "ten_steps": training.beside_reference,
    "training": training.steps,
    "profile": training.profile,
    "long": training.one_long_sequence,
    "loader": training.loader_wait,
    "tilings": kernel_speed.tilings,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", help="corpus folder on which the section `loader` runs `dnachunker pretrain`")
    parser.add_argument("--minutes", type=float, default=8, help="time after which no section starts")
    parser.add_argument("--only", nargs="*", choices=sorted(SECTIONS), help="run only these sections")
    parser.add_argument("--smoke", action="store_true", help="test every section on a CPU with the smallest sizes")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the results")
    arguments = parser.parse_args()
    if not arguments.smoke and not torch.cuda.is_available():
        print("benchmarks/gpu/run.py: no CUDA device found; nothing is measured")
        return 0
    machine = Machine.at_hand(smoke=arguments.smoke, minutes=arguments.minutes, corpus=arguments.corpus)
    found: dict[str, Any] = {"machine": describe(machine), "left_out": [], "failed": {}}
    print(json.dumps(found["machine"]), flush=True)
    for name, section in SECTIONS.items():
        if arguments.only and name not in arguments.only:
            continue
        if machine.seconds_left() <= 0:
            found["left_out"].append(name)
            continue
        began = time.perf_counter()
        try:
            found[name] = section(machine)
        except Exception as error:  # a failed section must not stop the others
            traceback.print_exc()
            found["failed"][name] = f"{type(error).__name__}: {error}"[:500]
        if not machine.smoke:
            torch.cuda.empty_cache()
        print(f"{name} ({time.perf_counter() - began:.0f} s): {json.dumps(found.get(name))}", flush=True)
    stamp = datetime.datetime.now(tz=datetime.UTC).strftime("%Y-%m-%d-%H%M")
    table = write(found, arguments.output, f"gpu-{stamp}")
    print(table.read_text())
    return 1 if found["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
