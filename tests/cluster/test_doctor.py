"""The doctor judges facts correctly, and finds faults that a test causes."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from network_hosts import NetworkHosts

from dnachunker.cli import main
from dnachunker.cluster.doctor import Finding, judge_host, judge_ranks, judge_together, tracking_address

SOUND = {
    "versions": {"python": "3.12.1", "torch": "2.13.0"}, "gpus": [{"index": "0", "name": "H100", "fault": ""}],
    "shared_memory_free": 8 << 30, "open_files": 65536, "locked_memory": -1, "can_listen": True, "tracker": "",
    "storage_fault": "", "disk_free": 1e12, "write_rate": 1e9, "read_rate": 2e9, "clock": 0.01,
}  # fmt: skip
RANKS = {
    "ranks": [{"rank": r, "host": f"n{r}", "backends": "scan mamba_ssm, attention flash_attn", "corpus_fault": "",
               "kernel_faults": []}
              for r in range(2)],
    "latency": 2e-5, "bus_bandwidth": 200e9,
}  # fmt: skip


def bad(findings: Any) -> list[Finding]:
    found = list(findings)
    assert all(finding.remedy for finding in found if finding.state != "ok"), "every fault has a remedy"
    return [finding for finding in found if finding.state != "ok"]


def test_sound_machines_pass() -> None:
    assert not bad(judge_host("n0", SOUND, on_gpus=True))
    assert not bad(judge_together({"n0": SOUND, "n1": {**SOUND, "clock": 0.3}}))
    assert not bad(judge_ranks(RANKS, 220.0))


@pytest.mark.parametrize(
    ("fact", "check", "state"),
    [
        ({"gpus": []}, "GPUs", "fail"),
        ({"gpus": [{"index": "3", "name": "H100", "fault": "12 uncorrected memory errors"}]}, "GPUs", "fail"),
        ({"shared_memory_free": 1 << 26}, "/dev/shm", "warn"),
        ({"open_files": 1024}, "open files", "warn"),
        ({"locked_memory": 65536}, "locked memory", "warn"),
        ({"can_listen": False}, "ports", "fail"),
        ({"tracker": "Connection refused"}, "tracking server", "warn"),
        ({"storage_fault": "/data: Read-only file system"}, "shared storage", "fail"),
        ({"write_rate": 1e6}, "shared storage", "warn"),
        ({"disk_free": 1e9}, "free disk", "warn"),
    ],
)
def test_each_fault_of_a_machine_is_named(fact: dict[str, Any], check: str, state: str) -> None:
    (finding,) = bad(judge_host("n0", {**SOUND, **fact}, on_gpus=True))
    assert (finding.host, finding.check, finding.state) == ("n0", check, state)


def test_differences_between_machines_are_named() -> None:
    other = {**SOUND, "versions": {"python": "3.12.1", "torch": "2.12.0"}, "clock": -9.0}
    assert [f.check for f in bad(judge_together({"n0": SOUND, "n1": other}))] == ["versions", "clocks"]


def test_faults_that_the_ranks_find_are_named() -> None:
    first, second = RANKS["ranks"]
    slow = {**RANKS, "bus_bandwidth": 20e9}
    assert [f.check for f in bad(judge_ranks(slow, 220.0))] == ["all-reduce"]
    broken = {**RANKS, "ranks": [first, {**second, "corpus_fault": "train-0.tar.zst: block x at offset 512: bad"}]}
    (finding,) = bad(judge_ranks(broken, None))
    assert "n1: train-0.tar.zst" in finding.found
    fault = "scan kernel of triton does not run (RuntimeError: no gcc) on NVIDIA H100 (sm_90)"
    for stops, state in ((False, "warn"), (True, "fail")):
        faults = [{"found": found, "stops": stops} for found in (fault, "another")]
        failing = {**RANKS, "ranks": [first, {**second, "kernel_faults": faults}]}
        (finding,) = bad(judge_ranks(failing, None))
        assert (finding.check, finding.state) == ("kernels", state)
        assert finding.found == f"rank 1 on n1: {fault} (and 1 more)"
    plain = {**RANKS, "ranks": [{**rank, "backends": "scan chunked, attention sdpa"} for rank in RANKS["ranks"]]}
    assert [(f.check, f.state) for f in bad(judge_ranks(plain, None))] == [("kernels", "warn")]
    mixed = {**RANKS, "ranks": [first, {**second, "backends": "scan reference"}]}
    assert [f.check for f in bad(judge_ranks(mixed, None))] == ["kernels"]


def test_asking_for_more_gpus_than_are_visible_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    where = ["--corpus", "c", "--run", str(tmp_path / "run"), "--on", "local", "--gpus", "4", "--json"]
    assert main(["doctor", "--config", "tiny", *where]) == 2
    (finding,) = json.loads(capfd.readouterr().out)
    assert (finding["check"], finding["found"]) == ("GPUs", "2 visible, fewer than --gpus 4")


def test_the_address_of_a_tracking_server() -> None:
    assert tracking_address("http://mlflow:5000") == "mlflow:5000"
    assert tracking_address("https://user:secret@mlflow.example.org/x") == "mlflow.example.org:443"
    assert tracking_address("sqlite:///runs/x.db") is None
    assert tracking_address(None) is None


@pytest.mark.slow
def test_two_hosts_are_examined_over_ssh(sample_corpus: Path, tmp_path: Path, dnachunker: Any) -> None:
    folder = tmp_path / "hosts"
    folder.mkdir()
    with NetworkHosts(folder, 2) as hosts:
        hostfile = tmp_path / "hostfile"
        hostfile.write_text("".join(f"{address} slots=1\n" for address in hosts.addresses.values()))
        argv = [
            "doctor", "--config", "tiny", "--corpus", sample_corpus, "--run", tmp_path / "run", "--on", "hosts",
            "--hostfile", hostfile, "--json", f"cluster.hosts.ssh_options=[{','.join(hosts.ssh_options)}]",
        ]  # fmt: skip
        where = {**os.environ, "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
        done = dnachunker(*argv, env=where)
        assert done.returncode == 0, done.stderr
        found = {(item["host"], item["check"]): item for item in json.loads(done.stdout)}
        for address in hosts.addresses.values():
            assert found[address, "shared storage"]["state"] in ("ok", "warn")
            assert found[address, "tracking server"]["state"] == "warn"
        assert found["all", "versions"]["state"] == "ok"
        assert found["all", "corpus"]["found"].endswith("2 ranks")
        assert "GB/s" in found["all", "all-reduce"]["found"]
        hosts.cut("h2")
        done = dnachunker(*argv, "cluster.hosts.connect_seconds=40")
        assert done.returncode == 2
        (finding,) = json.loads(done.stdout)
        assert hosts.addresses["h2"] in finding["found"]
    assert not list(tmp_path.glob(".dnachunker-doctor-*"))
