"""Ranks as a SLURM job: the batch script, its submission, and what it needs to know to restart itself."""

import os
import re
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from dnachunker.cluster.argv import passed_variables
from dnachunker.cluster.config import ClusterConfig, RestartSettings, SlurmSettings
from dnachunker.cluster.request import Request, say, worker_of
from dnachunker.foundations.failures import BadInput, Failure
from dnachunker.foundations.typed_config import Config

SCRIPT, PLAN, STATE, LOGS = "slurm.sh", "slurm.json", ".slurm", "logs"
# Of the environment that submits, the job sees these and what cluster.pass_environment names.
BASE_VARIABLES = (
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_*", "TMPDIR", "LD_LIBRARY_PATH", "SLURM_CONF",
    "MODULEPATH", "MODULESHOME", "LMOD_*", "BASH_ENV", "BASH_FUNC_*",
)  # fmt: skip


class JobPlan(Config):
    """What the end of a job needs to know to bring about the next one."""

    submit: tuple[str, ...]
    restart: RestartSettings
    exclude_after: int


def launch(request: Request) -> int:
    """Submit the job; returns once SLURM has taken it."""
    cluster, settings = request.cluster, request.cluster.slurm
    if not cluster.gpus:
        raise BadInput("kind slurm needs to know how many ranks a node runs: --gpus G (and --nodes N)")
    request.require_divisible((cluster.nodes or 1) * cluster.gpus)
    run = Path(request.workdir, request.run.run)
    script = batch_script(cluster, run, python=request.python, workdir=request.workdir)
    submit = submit_command(run, request.workdir)
    if request.dry_run:
        print(f"# {run / SCRIPT}\n{script}\n{shlex.join(submit)}")
        return 0
    request.prepare(request.run, (cluster.nodes or 1) * cluster.gpus)
    plan = JobPlan(submit=tuple(submit), restart=cluster.restart, exclude_after=settings.exclude_after)
    (run / SCRIPT).write_text(script)
    (run / PLAN).write_text(plan.model_dump_json(indent=1) + "\n")
    (run / LOGS).mkdir(exist_ok=True)  # sbatch does not make it
    environment = passed_variables(os.environ, (*BASE_VARIABLES, *cluster.pass_environment))
    say(f"submitted job {submit_job(submit, environment)}; logs in {run / LOGS}; `squeue --me` shows it")
    return 0


def submit_command(run: Path, workdir: str) -> list[str]:
    """The sbatch argv. Free text stands here, as whole arguments, and not in #SBATCH lines, which have no quoting."""
    log = _literal(run / LOGS / f"{job_name(run)}-") + "%j.log"
    return ["sbatch", "--parsable", f"--chdir={workdir}", f"--output={log}", str(run / SCRIPT)]


def submit_job(command: list[str], environment: Mapping[str, str]) -> str:
    """Hand a job to SLURM; returns its id.

    Raises:
        BadInput: SLURM refuses it.
        Failure: there is no sbatch here.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=dict(environment))
    except FileNotFoundError as error:
        raise Failure("sbatch: not found; run this on a machine that submits SLURM jobs") from error
    if done.returncode:
        raise BadInput(f"sbatch: {' '.join(done.stderr.split()) or f'exit code {done.returncode}'}")
    return done.stdout.strip().partition(";")[0]


def job_name(run: Path) -> str:
    """A name SLURM shows without quoting."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", run.name).lstrip("-") or "dnachunker"


def batch_script(cluster: ClusterConfig, run: Path, *, python: str, workdir: str) -> str:
    """The script that sbatch takes."""
    settings, ranks = cluster.slurm, cluster.gpus or 1
    options: dict[str, Any] = {
        "job-name": job_name(run),
        "nodes": cluster.nodes or 1,
        "ntasks-per-node": ranks,
        **resources(settings, ranks),
        "signal": f"USR1@{settings.signal_seconds}",  # to the ranks; without B: the batch script gets none
        "open-mode": "append",
    }
    header = [f"#SBATCH --{name}={value}" for name, value in options.items() if value is not None]
    container = [f"--container-image={settings.container}"] if settings.container else []
    container += [f"--container-mounts={','.join(settings.container_mounts)}"] if settings.container_mounts else []
    body = _template().render(
        workdir=workdir, setup=settings.setup, modules=settings.modules, environment=cluster.environment,
        port=settings.port, state=run / STATE, logs=run / LOGS, ranks=ranks, python=python, plan=run / PLAN,
        rank_log=_literal(run / LOGS / f"{job_name(run)}-") + "%j-rank-%t.log",
        container=_Words(container, " "), worker=_Words(worker_of(run / "config.yaml")),
    )  # fmt: skip
    return "\n".join(["#!/bin/bash", *header, "#SBATCH --requeue", body])


def resources(settings: SlurmSettings, gpus: int) -> dict[str, Any]:
    """What a job asks for on each node, by sbatch option; None where nothing is asked."""
    return {
        "cpus-per-task": settings.cpus_per_task,
        "mem": settings.memory,
        "gres": settings.gres.replace("{gpus}", str(gpus)) if settings.gres else None,
        "partition": settings.partition,
        "account": settings.account,
        "qos": settings.qos,
        "constraint": settings.constraint,
        "time": settings.time,
    }


class _Words:
    """Several arguments, each quoted by itself."""

    def __init__(self, words: list[str], before: str = "") -> None:
        self.text = before + shlex.join(words) if words else ""


def _quoted(value: object) -> str:
    return value.text if isinstance(value, _Words) else shlex.quote(str(value))


def _template() -> Any:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        finalize=_quoted, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    return environment.get_template("slurm.sh.j2")


def _literal(path: Path) -> str:
    """A path in which SLURM finds no pattern of its own."""
    return str(path).replace("%", "%%")
