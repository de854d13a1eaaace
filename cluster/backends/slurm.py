"""Kind slurm: the batch script of a job, its submission, and the plan from which the job restarts itself."""

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
# The job gets these variables of the submitting environment, and those that cluster.pass_environment names.
BASE_VARIABLES = (
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_*", "TMPDIR", "LD_LIBRARY_PATH", "SLURM_CONF",
    "MODULEPATH", "MODULESHOME", "LMOD_*", "BASH_ENV", "BASH_FUNC_*",
)  # fmt: skip


class JobPlan(Config):
    """What slurm_next.py needs at the end of a job to start the next one.

    Attributes:
        submit: the argv that submits the job.
        exclude_after: crashes on one node after which jobs avoid this node.
    """

    submit: tuple[str, ...]
    restart: RestartSettings
    exclude_after: int


def launch(request: Request) -> int:
    """Submit the job; returns 0 once SLURM has accepted it.

    Raises:
        BadInput: no number of ranks, a number that does not divide the run's batches, or SLURM refuses the job.
        Failure: sbatch is not installed here.
    """
    cluster, settings = request.cluster, request.cluster.slurm
    if not cluster.gpus:
        raise BadInput("kind slurm needs --gpus G, the number of ranks on each node (and --nodes N)")
    request.require_divisible((cluster.nodes or 1) * cluster.gpus)
    run = Path(request.workdir, request.run.run)
    script = batch_script(cluster, run, python=request.python, workdir=request.workdir)
    submit = submit_argv(run, request.workdir)
    if request.dry_run:
        print(f"# {run / SCRIPT}\n{script}\n{shlex.join(submit)}")
        return 0
    request.prepare(request.run, (cluster.nodes or 1) * cluster.gpus)
    plan = JobPlan(submit=tuple(submit), restart=cluster.restart, exclude_after=settings.exclude_after)
    (run / SCRIPT).write_text(script)
    (run / PLAN).write_text(plan.model_dump_json(indent=1) + "\n")
    (run / LOGS).mkdir(exist_ok=True)  # sbatch does not make the folder
    environment = passed_variables(os.environ, (*BASE_VARIABLES, *cluster.pass_environment))
    say(f"submitted job {submit_job(submit, environment)}; logs in {run / LOGS}; `squeue --me` shows it")
    return 0


def submit_argv(run: Path, workdir: str) -> list[str]:
    """The argv of sbatch. Free text is passed here, as whole arguments, because #SBATCH lines have no quoting."""
    log = _literal(run / LOGS / f"{job_name(run)}-") + "%j.log"
    return ["sbatch", "--parsable", f"--chdir={workdir}", f"--output={log}", str(run / SCRIPT)]


def submit_job(argv: list[str], environment: Mapping[str, str]) -> str:
    """Submit a job to SLURM with the argv of sbatch; returns the job's id.

    Raises:
        BadInput: SLURM refuses the job.
        Failure: sbatch is not installed here.
    """
    try:
        done = subprocess.run(argv, capture_output=True, text=True, env=dict(environment))
    except FileNotFoundError as error:
        raise Failure("sbatch: not found; run this command on a machine that can submit SLURM jobs") from error
    if done.returncode:
        raise BadInput(f"sbatch: {' '.join(done.stderr.split()) or f'exit code {done.returncode}'}")
    return done.stdout.strip().partition(";")[0]


def job_name(run: Path) -> str:
    """The run's name, with only those characters that SLURM needs not quote."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", run.name).lstrip("-") or "dnachunker"


def batch_script(cluster: ClusterConfig, run: Path, *, python: str, workdir: str) -> str:
    """The text of the batch script, made from slurm.sh.j2."""
    settings, ranks = cluster.slurm, cluster.gpus or 1
    options: dict[str, Any] = {
        "job-name": job_name(run),
        "nodes": cluster.nodes or 1,
        "ntasks-per-node": ranks,
        **resources(settings, ranks),
        "signal": f"USR1@{settings.signal_seconds}",  # without `B:` the ranks get the signal, the batch script does not
        "open-mode": "append",
    }
    header = [f"#SBATCH --{name}={value}" for name, value in options.items() if value is not None]
    container = [f"--container-image={settings.container}"] if settings.container else []
    container += [f"--container-mounts={','.join(settings.container_mounts)}"] if settings.container_mounts else []
    body = _template().render(
        workdir=workdir, setup=settings.setup, modules=settings.modules, environment=cluster.environment,
        port=settings.port, notice=settings.signal_seconds, state=run / STATE, logs=run / LOGS, ranks=ranks,
        python=python, plan=run / PLAN,
        rank_log=_literal(run / LOGS / f"{job_name(run)}-") + "%j-rank-%t.log",
        container=_Words(container, " "), worker=_Words(worker_of(run / "config.yaml")),
    )  # fmt: skip
    return "\n".join(["#!/bin/bash", *header, "#SBATCH --requeue", body])


def resources(settings: SlurmSettings, gpus: int) -> dict[str, Any]:
    """The resources a job requests on each node, by option of sbatch; None for an option that is not given."""
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
    """Several arguments for the template; each is quoted as one word of the shell."""

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
    """The path with `%` escaped, because SLURM replaces patterns such as `%j`."""
    return str(path).replace("%", "%%")
