"""Replaces the `dnachunker` command in tests of sweeps: writes the files its verbs write, in a second, without a model.

Every number depends only on the overrides. Like the real command, `pretrain` continues a run that was killed, and the
other verbs write their output completely or not at all. Environment variables:

- STUB_FAIL=KEY=VALUE: `pretrain` fails if it gets this override.
- STUB_COUNT=FILE: each call appends one line to the file.
- STUB_SUMMARY=JSON: the result of an analysis.
- STUB_STEP_SECONDS=S: duration of a step of `pretrain`.
"""

import hashlib
import json
import os
import sys
import time
from pathlib import Path


def number(*words: object) -> float:
    """A number in [0, 1) that depends only on the words."""
    return int(hashlib.sha256(repr(words).encode()).hexdigest()[:8], 16) / 2**32


def option(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1]


def overrides() -> dict[str, str]:
    return dict(word.split("=", 1) for word in sys.argv[2:] if "=" in word and not word.startswith(("-", "/")))


def pretrain() -> int:
    given = {key: value for key, value in overrides().items() if not key.startswith("tracking.")}
    if os.environ.get("STUB_FAIL") in {f"{key}={value}" for key, value in given.items()}:
        print("dnachunker: guard: the loss is not finite", file=sys.stderr)
        return 4
    run, steps, every = Path(option("--run")), int(given["steps"]), int(given["evaluation.every"])
    run.mkdir(parents=True, exist_ok=True)
    events = run / "events.jsonl"
    lines = [line for line in events.read_text().splitlines() if line.endswith("}")] if events.exists() else []
    done = max([json.loads(line)["steps_done"] for line in lines if '"checkpoint"' in line], default=0)
    with events.open("a") as file:

        def write(event: str, **values: object) -> None:
            file.write("\n" * (file.tell() > 0) + json.dumps({"event": event, **values}))
            file.flush()

        write("resume" if done else "start", steps_done=done)
        for step in range(done + 1, steps + 1):
            time.sleep(float(os.environ.get("STUB_STEP_SECONDS", "0.02")))
            rate = number(sorted(given.items()), step)
            write(
                "step", steps_done=step, bases=8192, bases_per_second=6000 + 1000 * rate,
                forced_share={"stage0": rate / 2, "stage1": rate / 3},
                compression={"stage0": 0.4 + rate / 10, "stage1": 0.6},
            )  # fmt: skip
            write("system", steps_done=step, node0={"ranks_peak_memory_gb": rate})
            if step % every == 0 or step == steps:
                loss = 1.4 - 0.1 * number(sorted(given.items())) * step / steps
                shares = {"stage0": 0.4 + rate / 10, "stage1": 0.6}
                write(
                    "evaluation", steps_done=step, masked_loss=loss, order0_loss=1.36, order3_loss=1.29,
                    order5_loss=1.27, masked_accuracy=0.3, compression=shares, pretraining_compression=shares,
                    species={"Homo sapiens": {"masked_loss": loss + 0.01}},
                )  # fmt: skip
                write("diagnostics", steps_done=step, warnings=["mask_leakage"] * (rate > 0.5), trunk_mean_cost=rate)
                write("checkpoint", steps_done=step)
        write("finish", steps_done=steps)
    return 0


def leave(folder: Path, name: str, value: object) -> int:
    """Write a folder with one file; the folder appears by one rename."""
    time.sleep(0.1)
    staging = folder.with_name(f".{folder.name}.{os.getpid()}")
    (staging / name).parent.mkdir(parents=True)
    (staging / name).write_text(json.dumps(value))
    staging.rename(folder)
    return 0


def finetune() -> int:
    output, task, method = Path(option("--output")), Path(option("--task")).name, option("--method")
    if not (output / task / method / "result.json").exists():
        (output / task / method).mkdir(parents=True, exist_ok=True)
        time.sleep(0.1)
        mcc = {"mcc": number(str(output).partition("/cells/")[2]), "f1": None}
        partial = output / task / method / ".partial"
        partial.write_text(json.dumps({"scores": mcc}))
        partial.rename(output / task / method / "result.json")
    return 0


def main() -> int:
    if os.environ.get("STUB_COUNT"):
        with open(os.environ["STUB_COUNT"], "a") as file:
            file.write(json.dumps(sys.argv[1:]) + "\n")
    verb = sys.argv[1]
    if verb == "pretrain":
        return pretrain()
    if verb == "finetune":
        return finetune()
    if verb == "export":
        return leave(Path(sys.argv[3]), "export.json", {"step": 1})
    if verb == "shard":
        return leave(Path(option("--output")), "index.json", {})
    summary = json.loads(os.environ.get("STUB_SUMMARY", '{"mean_chunk_bases": [3.0, 9.0], "model": "x"}'))
    return leave(Path(option("--output")), "summary.json", summary)


if __name__ == "__main__":
    sys.exit(main())
