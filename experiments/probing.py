"""`dnachunker probe`: exports checkpoints of a run and measures them with downstream verbs, also while it trains."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dnachunker.foundations.atomic_files import PARTIAL, write_json
from dnachunker.foundations.failures import BadInput, Failure, Interrupted
from dnachunker.pretrain.checkpoints.state import complete_checkpoints, step_of
from dnachunker.pretrain.config import PretrainConfig
from dnachunker.pretrain.evaluation.probing import FOLLOWED
from dnachunker.pretrain.run_folder import PROBES, read_config
from dnachunker.pretrain.settings.evaluation import ProbeSettings

_LOOK_SECONDS = 1.0


def probe(run: Path, *, follow: bool) -> Iterator[dict[str, Any]]:
    """Measure the due checkpoints of a run that have no result yet, the newest first; yields each result.

    Without `follow`, also those of which a probe has failed.

    Args:
        follow: wait for further checkpoints, until the last step is probed or the parent process has ended. Of the
            checkpoints that a probe took longer than, only the newest is measured.

    Raises:
        BadInput: no run folder, or its config names no probes.
    """
    config = read_config(run)
    if not config.evaluation.probes:
        raise BadInput(f"{run}: its config has no evaluation.probes, which say what to measure")
    parent, tried = int(os.environ.get(FOLLOWED) or os.getppid()), {0}
    while True:
        steps = [step_of(checkpoint) for checkpoint in complete_checkpoints(run)]
        due = [step for step in steps if step not in tried and _is_due(run, config, step, again=not follow)]
        if follow:
            due = [step for step in due if step > max(tried)]
        if due:
            tried.add(due[-1])
            yield _probe(run, config, due[-1], parent if follow else None)
        elif not follow or result_file(run, config.steps).exists():
            return
        elif os.getppid() != parent:
            raise Interrupted("the run that these probes follow has ended")
        if follow:
            time.sleep(_LOOK_SECONDS)


def result_file(run: Path, step: int) -> Path:
    """Where the result of the checkpoint after `step` steps is."""
    return run / PROBES / f"step-{step:08d}.json"


def _is_due(run: Path, config: PretrainConfig, step: int, *, again: bool) -> bool:
    """Whether a checkpoint is to be measured; `again` if a probe of it has failed, too."""
    each, path = config.checkpoint.every * config.evaluation.probe_every, result_file(run, step)
    if step % each and step != config.steps:
        return False
    return not path.exists() or (again and bool(json.loads(path.read_text("utf-8"))["failed"]))


def _probe(run: Path, config: PretrainConfig, step: int, parent: int | None) -> dict[str, Any]:
    began = time.monotonic()
    (run / PROBES).mkdir(exist_ok=True)
    found: dict[str, Any] = {"steps_done": step, "probes": {}, "failed": {}}
    with tempfile.TemporaryDirectory(dir=run / PROBES, prefix=PARTIAL) as scratch:
        export = Path(scratch, ".export")  # no probe has a name with a dot
        try:
            _run(("export", str(run), str(export), "--step", str(step)), parent)
        except Interrupted:
            raise
        except Failure as failure:
            found["failed"] = {settings.title: str(failure) for settings in config.evaluation.probes}
        for settings in config.evaluation.probes if export.exists() else ():
            output = Path(scratch, settings.title)
            try:
                _run((*_words(settings), "--model", str(export), "--output", str(output)), parent)
                found["probes"][settings.title] = _scores(settings, output)
            except Interrupted:
                raise
            except Failure as failure:
                found["failed"][settings.title] = str(failure)
            except (StopIteration, KeyError, TypeError, ValueError, OSError) as error:
                found["failed"][settings.title] = f"its result is not readable: {type(error).__name__}: {error}"
            shutil.rmtree(output, ignore_errors=True)
    found["seconds"] = round(time.monotonic() - began, 1)
    write_json(result_file(run, step), found)
    return found


def _words(settings: ProbeSettings) -> tuple[str, ...]:
    """The verb that measures, and its arguments without model and output."""
    if settings.task is not None:
        return "finetune", "--task", settings.task, "--method", "probe", *settings.arguments
    if settings.vcf is not None:
        labelled = ("--vcf", settings.vcf, "--label", str(settings.label), "--fasta", str(settings.fasta))
        return "variants", "benchmark", *labelled, "--no-architecture", "--no-random-weights", *settings.arguments
    annotated = ("--annotation", str(settings.annotation), "--fasta", str(settings.fasta))
    return "annotate", *annotated, "--method", "probe", *settings.arguments


def _scores(settings: ProbeSettings, output: Path) -> dict[str, float]:
    """The scores among what the verb has written; of validation data where there are some.

    These curves may decide which model is used, and test data must not.
    """
    if settings.task is not None:
        record = json.loads(next(output.glob("*/probe/result.json")).read_text("utf-8"))
        return {record["metric"]: float(record["validation"])}
    if settings.vcf is not None:
        rows = json.loads((output / "results.json").read_text("utf-8"))["rows"]
        row = next(row for row in rows if (row["score"], row["stratum"]) == ("likelihood", "all"))
        return {name: float(row[name]["value"]) for name in ("auroc", "auprc") if row[name]}
    (record,) = json.loads((output / "metrics.json").read_text("utf-8"))["probe"]
    return {"auprc": float(record["validation"])}


def _run(words: tuple[str, ...], parent: int | None) -> None:
    """Run a `dnachunker` command.

    Raises:
        Failure: with the last line that it printed.
        Interrupted: `parent` is not the parent of this process any more; the command is ended.
    """
    argv = [sys.executable, "-m", "dnachunker", *words]
    with tempfile.TemporaryFile() as printed:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=printed, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                if parent is not None and os.getppid() != parent:
                    raise Interrupted("the run that these probes follow has ended")
                time.sleep(0.1)
        finally:
            if process.poll() is None:  # a signal, too, ends up here
                process.terminate()
                process.wait()
        if process.returncode:
            printed.seek(0)
            lines = printed.read().decode("utf-8", "replace").strip().splitlines()
            last = lines[-1].removeprefix("dnachunker: ") if lines else "no output"
            raise Failure(f"{words[0]} ended with exit code {process.returncode}: {last[:300]}")
