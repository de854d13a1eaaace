"""What the model does on one GPU: parity, bandwidth of every kernel, training steps, where the time goes.

python benchmarks/gpu/run.py [--corpus CORPUS] [--minutes 8] [--smoke]     (make gpu-bench)

Needs torch, triton, transformers and numba, nothing of the training stack, and leaves gpu-DATE.md and gpu-DATE.json in
benchmarks/results/. Sections that no longer fit the minutes are left out and named; one that fails is reported and the
others go on, but the exit status is 1. `--smoke` runs every section on sizes that mean nothing, on a CPU under Triton's
interpreter.
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
    parser.add_argument("--corpus", help="of the loader's section, which runs `dnachunker pretrain` on it")
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--only", nargs="*", choices=sorted(SECTIONS), help="these sections alone")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if not arguments.smoke and not torch.cuda.is_available():
        print("benchmarks/gpu/run.py: no CUDA device here; nothing measured")
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
        except Exception as error:  # the other sections' figures are worth having
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
