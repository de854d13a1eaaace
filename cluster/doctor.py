"""The verb `doctor`: checks the machines of a run before it starts, and gives a remedy for each fault.

The doctor starts ranks as `launch` does (the same hosts, handshake, launcher and environment), but they check the
machine instead of training.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from dnachunker.pretrain.config import PretrainConfig

    from .config import ClusterConfig

DOCTOR_HELP = "check the machines of a run before it starts"

_CLOCK_SECONDS = 2.0
_WRITE_RATE = 50e6  # bytes a second: a checkpoint of the 172M model in under a minute
_SHARED_MEMORY = 1 << 30  # bytes
_OPEN_FILES = 4096
_DISK_FREE = 20e9  # bytes


@dataclass(frozen=True)
class Finding:
    """The outcome of one check, of one machine or of all machines together (`host` is then `all`).

    Attributes:
        state: `ok`, `warn` (training works, but slower or less safely) or `fail`.
        found: what the check measured.
        remedy: what the user can do; empty when the state is `ok`.
    """

    host: str
    check: str
    state: str
    found: str
    remedy: str = ""


def add_doctor_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    from .launch import add_where_arguments

    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (
        "Check the machines on which a run would start: versions, GPUs, clocks, shared storage, disk, shared memory,\n"
        "limits, ports, the MLflow server, kernel backends, a sample of the corpus, and all-reduce between all ranks.\n"
        "Works for the kinds local and hosts. Exit code 2 if a check fails; every failed check prints a remedy."
    )
    parser.epilog = (
        "examples:\n  dnachunker doctor --config tiny --corpus corpora/sample --run runs/first --on local\n"
        "  dnachunker doctor --config dnachunker-172m --corpus /data/hg38 --run /data/runs/paper \\\n"
        "      --on hosts --hostfile hosts.txt --expect-gb-s 200 --json"
    )
    add_where_arguments(parser)
    parser.add_argument(
        "--expect-gb-s",
        type=float,
        metavar="X",
        help="expected bus bandwidth of all-reduce, in GB/s; below 80 %% it fails",
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run_doctor(arguments: argparse.Namespace) -> int:
    """Run the verb; returns the exit code."""
    from dnachunker.foundations.failures import BadInput

    from .launch import read_configs

    run, cluster = read_configs(arguments)
    if cluster.kind not in ("local", "hosts"):
        raise BadInput(
            f"kind {cluster.kind}: doctor works for kinds local and hosts only; run it inside a job of the cluster"
        )
    answer = os.dup(1)
    os.dup2(2, 1)  # libraries in the ranks print to stdout; only the findings belong there
    try:
        findings = list(examine(run, cluster, arguments.expect_gb_s))
    finally:
        sys.stdout.flush()
        os.dup2(answer, 1)
        os.close(answer)
    if arguments.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        print(table(findings))
    return 2 if any(finding.state == "fail" for finding in findings) else 0


def examine(run: "PretrainConfig", cluster: "ClusterConfig", expected: float | None) -> Iterator[Finding]:
    """The findings of all checks: first for each machine, then for all machines together.

    Args:
        expected: bus bandwidth of all-reduce in GB/s; None: do not judge it.
    """
    from dnachunker.cluster.backends.local import visible_gpus
    from dnachunker.foundations.failures import BadInput

    visible, wanted_gpus = len(visible_gpus()), cluster.gpus or 0
    if cluster.kind == "local" and 0 < visible < wanted_gpus:
        remedy = "lower --gpus, or list more GPUs in CUDA_VISIBLE_DEVICES"
        yield Finding("localhost", "GPUs", "fail", f"{visible} visible, fewer than --gpus {wanted_gpus}", remedy)
        return
    shared = Path(run.run).absolute().parent
    shared = next(parent for parent in (shared, *shared.parents) if parent.exists())
    try:
        folder = Path(tempfile.mkdtemp(prefix=".dnachunker-doctor-", dir=shared))
    except OSError as error:
        yield Finding("all", "shared storage", "fail", f"{shared}: {error.strerror}", "choose another --run")
        return
    try:
        output = folder / "ranks.json"
        worker = [
            "dnachunker.pretrain.planning.rank_check",
            "--output",
            str(output),
            "--engine",
            run.engine.model_dump_json(),
            "--model",
            run.model.model_dump_json(),
        ]
        worker += ["--corpus", run.data.corpus]
        tracker = tracking_address(run.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI"))
        wanted = {"folder": str(folder), "tracker": tracker if run.tracking.enabled else None}
        try:
            facts, code = (_on_hosts if cluster.kind == "hosts" else _here)(cluster, worker, wanted)
        except BadInput as error:
            yield Finding("all", "handshake", "fail", str(error), "the message says what to change")
            return
        for host, known in facts.items():
            yield from judge_host(host, known, on_gpus=any(f.get("gpus") for f in facts.values()))
        yield from judge_together(facts)
        if code or not output.exists():
            yield Finding("all", "ranks", "fail", f"exit code {code}", "the ranks' own messages are printed above")
            return
        yield from judge_ranks(json.loads(output.read_text()), expected)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _here(
    cluster: "ClusterConfig", worker: list[str], wanted: Mapping[str, Any]
) -> tuple[dict[str, dict[str, Any]], int]:
    from dnachunker.cluster.backends.local import run_local, visible_gpus
    from dnachunker.cluster.backends.node_facts import gather

    ranks = cluster.gpus or len(visible_gpus()) or 2
    facts = {"localhost": gather(**wanted)}
    return facts, run_local(worker, ranks, {**os.environ, **cluster.environment})


def _on_hosts(
    cluster: "ClusterConfig", worker: list[str], wanted: Mapping[str, Any]
) -> tuple[dict[str, dict[str, Any]], int]:
    from dnachunker.cluster.backends.ssh_hosts import HostsJob, hosts_and_ranks

    from .argv import passed_variables
    from .request import say
    from .stop_requests import StopRequests

    hosts, ranks = hosts_and_ranks(cluster)
    mark = Path(wanted["folder"], "mark")
    mark.write_text("seen by all\n")
    with StopRequests() as stop:
        job = HostsJob(
            cluster, hosts, ranks, worker,
            environment={**passed_variables(os.environ, cluster.pass_environment), **cluster.environment},
            files={str(mark): hashlib.sha256(mark.read_bytes()).hexdigest()}, divides=lambda nodes: True,
            workdir=cluster.workdir or os.getcwd(), python=cluster.python or sys.executable, stop=stop, say=say,
            wanted_facts=wanted,
        )  # fmt: skip
        code = job.attempt().code
    return job.facts, code


def tracking_address(uri: str | None) -> str | None:
    """`host:port` of an MLflow tracking URI; None when the URI names no server."""
    parts = urlsplit(uri or "")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return None
    return f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"


def judge_host(host: str, facts: Mapping[str, Any], *, on_gpus: bool) -> Iterator[Finding]:
    """The findings about one machine.

    Args:
        facts: what `backends/node_facts.py` measured on the machine.
        on_gpus: some machine of the job has GPUs, so this machine needs them too.
    """

    def finding(check: str, good: bool, found: str, remedy: str, worst: str = "fail") -> Finding:
        return Finding(host, check, "ok" if good else worst, found, "" if good else remedy)

    faults = [f"{gpu['index']}: {gpu['fault']}" for gpu in facts["gpus"] if gpu["fault"]]
    if on_gpus:
        remedy = "reset or replace the GPU, or leave it out with CUDA_VISIBLE_DEVICES"
        yield finding("GPUs", bool(facts["gpus"]) and not faults, "; ".join(faults) or str(len(facts["gpus"])), remedy)
        unlimited = facts["locked_memory"] < 0
        yield finding("locked memory", unlimited, "unlimited" if unlimited else f"{facts['locked_memory']:,} bytes",
                      "raise `ulimit -l` to unlimited; otherwise RDMA falls back to sockets", "warn")  # fmt: skip
    free = facts["shared_memory_free"]
    if free is not None:
        remedy = "in a container raise --shm-size; ranks on one machine exchange data through /dev/shm"
        yield finding("/dev/shm", free >= _SHARED_MEMORY, f"{free / 2**30:.1f} GiB free", remedy, "warn")
    files = facts["open_files"]
    yield finding("open files", files >= _OPEN_FILES or files < 0, f"{files:,}",
                  f"raise `ulimit -n` to {_OPEN_FILES:,} or more", "warn")  # fmt: skip
    yield finding("ports", facts["can_listen"], "can listen" if facts["can_listen"] else "cannot listen",
                  "allow TCP between the machines")  # fmt: skip
    if facts["tracker"] is not None:
        remedy = "check MLFLOW_TRACKING_URI; training runs without the server and sends the metrics later"
        yield finding("tracking server", not facts["tracker"], facts["tracker"] or "reached", remedy, "warn")
    if facts["storage_fault"]:
        yield finding(
            "shared storage", False, facts["storage_fault"], "mount it, writable, at the same path on every machine"
        )
        return
    rate = f"writes {facts['write_rate'] / 1e6:,.0f} MB/s, reads {facts['read_rate'] / 1e6:,.0f} MB/s"
    remedy = f"saving checkpoints will stall training; use storage that writes {_WRITE_RATE / 1e6:.0f} MB/s or more"
    yield finding("shared storage", facts["write_rate"] >= _WRITE_RATE, rate, remedy, "warn")
    yield finding("free disk", facts["disk_free"] >= _DISK_FREE, f"{facts['disk_free'] / 1e9:,.0f} GB",
                  f"free some space: a few checkpoints need {_DISK_FREE / 1e9:.0f} GB", "warn")  # fmt: skip


def judge_together(facts: Mapping[str, Mapping[str, Any]]) -> Iterator[Finding]:
    """The findings from comparing the machines with each other."""
    kinds = {json.dumps(known["versions"], sort_keys=True) for known in facts.values()}
    shown = ", ".join(f"{name} {version}" for name, version in next(iter(facts.values()))["versions"].items())
    remedy = "install the same versions everywhere"
    same = len(kinds) == 1
    yield Finding("all", "versions", "ok" if same else "fail", shown if same else "differ", "" if same else remedy)
    clocks = [known["clock"] for known in facts.values() if "clock" in known]
    if len(clocks) > 1:
        skew = max(clocks) - min(clocks)
        good = skew <= _CLOCK_SECONDS
        remedy = "run an NTP client on every machine; logs and the watchdog compare times of different machines"
        yield Finding("all", "clocks", "ok" if good else "warn", f"{skew:.2f} s apart", "" if good else remedy)


def judge_ranks(found: Mapping[str, Any], expected: float | None) -> Iterator[Finding]:
    """The findings of the ranks, which checked kernels, corpus and all-reduce.

    Args:
        found: the JSON that `pretrain/planning/rank_check.py` wrote.
        expected: bus bandwidth of all-reduce in GB/s; None: do not judge it.
    """
    ranks = found["ranks"]
    backends = sorted({rank["backends"] for rank in ranks})
    slow = any("scan chunked" in backend or "scan reference" in backend for backend in backends)
    wrong = [(rank, fault) for rank in ranks for fault in rank["kernel_faults"]]
    for stops in (True, False):
        those = [f"rank {rank['rank']} on {rank['host']}: {fault['found']}" for rank, fault in wrong
                 if fault["stops"] == stops]  # fmt: skip
        if those:
            more = f" (and {len(those) - 1} more)" if len(those) > 1 else ""
            remedy = "update the driver or the kernels' package; until then all ranks use slower plain PyTorch"
            if stops:
                remedy = "the run will stop; set engine.scan_backend and engine.attention_backend to auto"
            yield Finding("all", "kernels", "fail" if stops else "warn", those[0] + more, remedy)
    if len(backends) > 1:
        yield Finding("all", "kernels", "fail", " | ".join(backends), "install the same extras on every machine")
    elif not wrong:
        remedy = "the selective scan runs as slow plain PyTorch; install gcc for Triton on a GPU, or numba on a CPU"
        yield Finding("all", "kernels", "warn" if slow else "ok", backends[0], remedy if slow else "")
    faults = [f"{rank['host']}: {rank['corpus_fault']}" for rank in ranks if rank["corpus_fault"]]
    if faults:
        remedy = "`dnachunker corpus verify` lists all damaged parts; copy or build the corpus again"
        yield Finding("all", "corpus", "fail", faults[0], remedy)
    else:
        yield Finding("all", "corpus", "ok", f"a sample of its blocks decodes on each of {len(ranks)} ranks")
    if "latency" in found:
        rate = found["bus_bandwidth"] / 1e9
        short = expected is not None and rate < 0.8 * expected
        shown = f"{found['latency'] * 1e6:,.0f} us, {rate:,.2f} GB/s" + (f" of {expected:g}" if expected else "")
        remedy = "look for a slow link: NCCL_DEBUG=INFO shows which network is used; NCCL_SOCKET_IFNAME selects it"
        yield Finding("all", "all-reduce", "fail" if short else "ok", shown, remedy if short else "")


def table(findings: list[Finding]) -> str:
    """The findings as text for people, one line each, with the remedy below."""
    lines = []
    for item in findings:
        lines.append(f"{item.state:5}{item.host:18}{item.check:17}{item.found}")
        if item.remedy:
            lines.append(f"{'':40}-> {item.remedy}")
    return "\n".join(lines)
