"""`dnachunker launch` before anything starts: what --dry-run prints, what is refused, and how text is quoted."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from dnachunker.cli import main as dnachunker
from dnachunker.cluster.argv import passed_variables, ssh_argv
from dnachunker.cluster.backends.slurm_next import Crash, main, next_step, read_exits
from dnachunker.cluster.config import HostsSettings


def launch(*arguments: object, run: object = "runs/x") -> int:
    """Run `dnachunker launch` in this process; returns the exit code."""
    return dnachunker(["launch", "--config", "tiny", "--corpus", "c", "--run", str(run), *map(str, arguments)])


def test_hosts_dry_run_prints_the_whole_argv(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hostfile = tmp_path / "hosts.txt"
    hostfile.write_text("a slots=2\nb slots=2\n")
    for name in list(os.environ):
        if name.startswith(("NCCL_", "GLOO_", "MLFLOW_", "AWS_", "OMP_NUM_THREADS")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "correct-horse")
    where = ["cluster.workdir=/data/my project", "cluster.python=/opt/py/bin/python", "cluster.environment.A='b c'"]
    assert launch("--on", "hosts", "--hostfile", hostfile, "--dry-run", *where, run="/data/runs/x") == 0
    ssh = (
        "ssh -T -oBatchMode=yes -oConnectTimeout=60 -oServerAliveInterval=7 -oServerAliveCountMax=3 "
        "-oControlMaster=no -oControlPath=none -- {} "
        "'cd '\"'\"'/data/my project'\"'\"' && exec env PYTHONSAFEPATH=1 /opt/py/bin/python "
        "-m dnachunker.cluster.backends.ssh_agent'"
    )
    assert capsys.readouterr().out.splitlines() == [
        ssh.format("a"),
        ssh.format("b"),
        "# on each of them, 2 ranks of: python -m dnachunker pretrain --config /data/runs/x/config.yaml",
        "# with A='b c'",
        "# and, over standard input: DS_ACCELERATOR, MLFLOW_TRACKING_PASSWORD",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--on", "hosts"], "--hostfile"),
        (["--on", "hosts", "--hostfile", "nowhere.txt"], "nowhere.txt"),
        (["--on", "hosts", "--hostfile", "unsized.txt"], "slots=N"),
        (["--on", "hosts", "--hostfile", "good.txt", "--nodes", "3"], "names 2 machines"),
        (["--on", "hosts", "--hostfile", "good.txt", "--gpus", "3"], "has room for 2"),
        (["--on", "hosts", "--hostfile", "good.txt", "data.global_batch=6"], "data.global_batch=6"),
        (["--on", "slurm"], "--gpus"),
        (["--on", "slurm", "--gpus", "2", "cluster.slurm.partition=gpu;id"], "partition"),
        (["--on", "slurm", "--gpus", "2", "cluster.slurm.time='1\n#SBATCH --wrap=id'"], "time"),
        (["--on", "slurm", "--gpus", "2", "cluster.slrm.time=1"], "nearest valid key: 'slurm'"),
        (["--on", "local", 'cluster.environment.A="b\\nc"'], "environment"),
        (["--on", "local", "cluster.environment.A;B=1"], "environment"),
        (["--on", "local", "--nodes", "2"], "this machine alone"),
        (["--on", "moon"], "presets: "),
        (["--on", "local", "--shard", "sample"], "works for kind kubernetes only"),
        (["--on", "local", "cluster.workdir=/elsewhere"], "give the absolute path"),
        (["--on", "hosts", "--hostfile", "good.txt", "cluster.hosts.ssh_options=[ProxyCommand=id]"], "runs a program"),
        (["--on", "hosts", "--hostfile", "good.txt", "cluster.hosts.ssh_options=['-oProxyCommand=id']"], "ssh_options"),
        (["--on", "hosts", "--hostfile", "option.txt"], "option.txt:1: '-oProxyCommand=id' is not a host name"),
        (["--on", "hosts", "--hostfile", "command.txt"], "command.txt:1: '$(id)' is not a host name"),
        (["--on", "hosts", "--hostfile", "list.txt"], "list.txt:1: 'a;b' is not a host name"),
    ],
)
def test_what_cannot_work_is_one_line_and_starts_nothing(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files = {
        "good": "a slots=2\nb slots=2\n", "unsized": "a\nb\n", "option": "-oProxyCommand=id slots=1\n",
        "command": "$(id) slots=1\n", "list": "a;b slots=1\n",
    }  # fmt: skip
    for name, text in files.items():
        Path(f"{name}.txt").write_text(text)
    assert launch(*arguments) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""
    assert not Path("runs").exists()


HOSTILE = """a $(touch PWNED) `touch PWNED`; touch PWNED & 'x' "y" %j\n#SBATCH --wrap=id"""


def test_no_text_of_the_user_becomes_a_command_on_a_host(tmp_path: Path) -> None:
    here = tmp_path / HOSTILE
    here.mkdir()
    argv = ssh_argv("h1", HostsSettings(), python="/bin/echo", workdir=str(here))
    assert argv[-3:-1] == ["--", "h1"]
    done = subprocess.run(["sh", "-c", argv[-1]], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout == "-m dnachunker.cluster.backends.ssh_agent\n"
    hostile_python = ssh_argv("h1", HostsSettings(), python=HOSTILE, workdir="/")[-1]
    assert subprocess.run(["sh", "-c", hostile_python], capture_output=True, cwd=tmp_path).returncode == 127
    assert not list(tmp_path.rglob("PWNED"))


def test_no_text_of_the_user_becomes_a_command_in_a_batch_script(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The script runs under bash; srun and other tools are replaced by programs that log their arguments."""
    tools, log = tmp_path / "bin", tmp_path / "called"
    tools.mkdir()
    for name in ("srun", "scontrol", "module", "python"):
        (tools / name).write_text(f'#!/bin/sh\nprintf "%s\\0" {name} "$@" >> {log}; printf "\\n--\\n" >> {log}\n')
        (tools / name).chmod(0o755)
    workdir = tmp_path / "work"
    workdir.mkdir()
    mounts = f"cluster.slurm.container_mounts=[{shlex.quote('/a b:$(touch PWNED)')}]"
    settings = [
        f"cluster.workdir={workdir}", f"cluster.python={tools}/python", "cluster.environment.A='$(touch PWNED) `id`'",
        "cluster.slurm.container='img;touch PWNED'", mounts, "cluster.slurm.modules=[cuda/12.4]",
    ]  # fmt: skip
    assert launch("--on", "slurm", "--gpus", "2", "--dry-run", *settings, run=workdir / HOSTILE) == 0
    script = capsys.readouterr().out.partition("\n#!/bin/bash")[2].rpartition("\nsbatch ")[0]
    header = script.partition("trap")[0]
    assert all(line.startswith("#SBATCH --") for line in header.splitlines() if line and "SIGTERM" not in line)
    assert "--wrap=" not in header
    notice = header.partition("--signal=USR1@")[2].split()[0]
    assert f"\nexport DNACHUNKER_NOTICE_SECONDS={notice}\n" in script, "a run that needs longer to stop says so"
    done = subprocess.run(
        ["bash", "-c", script], cwd=workdir, capture_output=True, text=True,
        env={"PATH": f"{tools}:/usr/bin:/bin", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1"},
    )  # fmt: skip
    calls = [call.split("\0")[:-1] for call in log.read_text().split("\n--\n")[:-1]]
    assert done.returncode == 0, done.stderr
    assert [call[0] for call in calls] == ["module", "scontrol", "srun", "python"]
    srun = next(call for call in calls if call[0] == "srun")
    assert "--container-image=img;touch PWNED" in srun
    assert "--container-mounts=/a b:$(touch PWNED)" in srun
    assert srun[-4:] == ["dnachunker", "pretrain", "--config", f"{workdir / HOSTILE}/config.yaml"]
    assert not list(tmp_path.rglob("PWNED"))


def test_variables_are_passed_by_name() -> None:
    environment = {"NCCL_DEBUG": "INFO", "MLFLOW_TRACKING_TOKEN": "s", "CANARY": "s", "HOME": "/"}
    assert list(passed_variables(environment, ["NCCL_*", "MLFLOW_*"])) == ["MLFLOW_TRACKING_TOKEN", "NCCL_DEBUG"]


def exits(folder: Path, **nodes: dict[int, int | None]) -> Path:
    """A folder with the files that ranks write: by node, the exit code of each rank, None if the rank vanished."""
    folder.mkdir(parents=True)
    for node, ranks in nodes.items():
        for rank, code in ranks.items():
            (folder / f"node-{rank}").write_text(node + "\n")
            if code is not None:
                (folder / f"rank-{rank}").write_text(str(code))
    return folder


def test_the_node_whose_ranks_vanished_is_suspected(tmp_path: Path) -> None:
    assert read_exits(exits(tmp_path / "a", n1={0: 3, 1: 3}, n2={2: 3}), 3) == (3, ())
    assert read_exits(exits(tmp_path / "b", n1={0: 1, 1: 1}, n2={2: None, 3: None}), 137) == (1, ("n2",))
    assert read_exits(exits(tmp_path / "c", n1={0: None}, n2={1: None}), 137) == (1, ())
    assert read_exits(exits(tmp_path / "d", n1={0: 4}, n2={1: None}), 137) == (4, ("n2",))
    assert read_exits(exits(tmp_path / "e"), 1) == (1, ())
    assert read_exits(exits(tmp_path / "f", n1={0: 0}, n2={1: 0}), 0) == (0, ())


PLAN = """{"submit": ["sbatch", "--parsable", "run/slurm.sh"], "exclude_after": 2,
           "restart": {"attempts": 3, "backoff_seconds": 0.01}}"""


def test_slurm_jobs_requeue_within_a_budget() -> None:
    from dnachunker.cluster.backends.slurm import JobPlan

    plan = JobPlan.model_validate_json(PLAN)
    assert next_step(0, (), [], plan, 0.0)[0] is None
    assert next_step(4, (), [], plan, 0.0)[0] is None
    assert next_step(3, (), [], plan, 0.0)[0] is not None
    crashes = [Crash(float(when), ("n2",)) for when in range(3)]
    assert next_step(1, (), crashes, plan, 10.0)[0] is None, "the fourth crash in a day is the last"
    assert next_step(1, (), crashes, plan, 1e6)[0] is not None
    assert next_step(1, ("n2",), crashes[:1], plan, 10.0)[1] == ["n2"]


def test_a_node_that_fails_twice_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools, log = tmp_path / "bin", tmp_path / "called"
    tools.mkdir()
    for name, prints in (("sbatch", "8"), ("scontrol", "JobId=7 JobState=RUNNING")):
        (tools / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {log}\necho {prints}\n')
        (tools / name).chmod(0o755)
    with (tools / "sbatch").open("a") as script:
        script.write(f"env > {tmp_path}/inherited\n")
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    for name in ("SLURM_CONF", "SLURM_RESTART_COUNT", "MASTER_ADDR", "DNACHUNKER_EXIT_FOLDER", "NCCL_DEBUG"):
        monkeypatch.setenv(name, "of the old job")
    (tmp_path / "slurm.json").write_text(PLAN)
    for attempt in range(2):
        folder = exits(tmp_path / ".slurm" / f"7-{attempt}", n1={0: 1}, n2={1: None})
        assert main(["--code", "137", "--job", "7", "--exits", str(folder), str(tmp_path / "slurm.json")]) == 1
    called = [line for line in log.read_text().splitlines() if "show" not in line]
    assert called == ["scontrol requeue 7", "sbatch --exclude=n2 --parsable run/slurm.sh"]
    inherited = (tmp_path / "inherited").read_text()
    assert "SLURM_CONF=" in inherited
    assert "NCCL_DEBUG=" in inherited
    assert not any(name in inherited for name in ("SLURM_RESTART_COUNT", "MASTER_ADDR", "DNACHUNKER_"))
