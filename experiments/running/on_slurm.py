"""Run a sweep as a SLURM array with one task for each missing cell; a job after the array writes the tables."""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from dnachunker.cluster.argv import passed_variables
from dnachunker.cluster.backends.slurm import BASE_VARIABLES, job_name, resources, submit_job
from dnachunker.cluster.config import ClusterConfig
from dnachunker.experiments.cells import Cell
from dnachunker.foundations.failures import BadInput

SCRIPT, TABLES_SCRIPT, LOGS = "slurm.sh", "slurm-tables.sh", "logs"
_LONGEST_ARRAY = 1001  # SLURM's default MaxArraySize


def submit(cells: Sequence[Cell], output: Path, config: Path, cluster: ClusterConfig, jobs: int) -> str:
    """Write the scripts into `output` and submit them to SLURM; return a line for the user.

    Args:
        config: file of the sweep config that the tasks of this submission read.
        jobs: tasks at a time.

    Raises:
        BadInput: SLURM refuses them, or there are more cells than an array may have tasks.
    """
    if len(cells) > _LONGEST_ARRAY:
        raise BadInput(f"{len(cells)} cells are more than an array's {_LONGEST_ARRAY} tasks; run fewer seeds at a time")
    where = cluster.workdir or os.getcwd()
    (output / LOGS).mkdir(parents=True, exist_ok=True)  # sbatch does not create it
    (output / SCRIPT).write_text(array_script(cells, output, config, cluster, jobs, workdir=where))
    (output / TABLES_SCRIPT).write_text(tables_script(output, config, cluster, workdir=where))
    variables = passed_variables(os.environ, (*BASE_VARIABLES, *cluster.pass_environment))
    log = str(output / LOGS).replace("%", "%%")  # SLURM replaces % patterns in a path
    start = ["sbatch", "--parsable", f"--chdir={where}"]
    array = submit_job([*start, f"--output={log}/%A_%a.log", str(output / SCRIPT)], variables)
    after = [f"--dependency=afterany:{array}", f"--output={log}/tables-%j.log", str(output / TABLES_SCRIPT)]
    tables = submit_job([*start, *after], variables)
    return (
        f"submitted array {array} of {len(cells)} cells, and {tables} for the tables after it; logs in {output / LOGS}"
    )


def array_script(
    cells: Sequence[Cell], output: Path, config: Path, cluster: ClusterConfig, jobs: int, *, workdir: str
) -> str:
    """The script whose task number N runs cell number N."""
    options: dict[str, Any] = {
        "job-name": job_name(output),
        "array": f"0-{len(cells) - 1}%{jobs}",
        "nodes": 1,
        "ntasks": 1,
        **resources(cluster.slurm, cluster.gpus or 1),
        "signal": f"B:USR1@{cluster.slurm.signal_seconds}",
        "open-mode": "append",
    }
    names = [cell.name for cell in cells]
    return _script(options, cells=names, config=config, output=output, cluster=cluster, workdir=workdir)


def tables_script(output: Path, config: Path, cluster: ClusterConfig, *, workdir: str) -> str:
    """The script of the job that writes the tables."""
    wanted = resources(cluster.slurm, 0) | {"gres": None, "cpus-per-task": None, "mem": None, "time": "30"}
    options = {"job-name": f"{job_name(output)}-tables", "nodes": 1, "ntasks": 1, **wanted}
    return _script(options, cells=(), config=config, output=output, cluster=cluster, workdir=workdir)


def _script(
    options: dict[str, Any], *, cells: Sequence[str], config: Path, output: Path, cluster: ClusterConfig, workdir: str
) -> str:
    header = [f"#SBATCH --{name}={value}" for name, value in options.items() if value is not None]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), finalize=lambda value: shlex.quote(str(value)),
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    body = environment.get_template("slurm.sh.j2").render(
        workdir=workdir, setup=cluster.slurm.setup, modules=cluster.slurm.modules, environment=cluster.environment,
        python=cluster.python or sys.executable, config=config, output=output, cells=cells,
    )  # fmt: skip
    return "\n".join(["#!/bin/bash", *header, "#SBATCH --requeue", body])
