"""The manifests are valid, and restart as the exit codes say.

`kubernetes-validate` checks the core kinds strictly, also those inside JobSet and RayJob. The models of
`kubeflow-trainer-api` check JobSet: they drop unknown keys, so a round trip must lose nothing. The operators' own
definitions, in `definitions/`, check both JobSet and RayJob.
"""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from yaml import safe_load, safe_load_all

from dnachunker.cli import main
from dnachunker.cluster.backends import kubernetes_pod
from dnachunker.cluster.backends.kubernetes_pod import wait_for

DEFINITIONS = Path(__file__).parent / "definitions"
FLAGS = [
    "launch", "--config", "tiny", "--corpus", "/data/corpora/hg38", "--run", "/data/runs/a b;$(id)",
    "--on", "kubernetes", "--nodes", "4", "--gpus", "8", "--shard", "sample", "--dry-run",
]  # fmt: skip
KEYS = [
    "data.global_batch=64", "cluster.kubernetes.name=paper", "cluster.kubernetes.secret=mlflow",
    "cluster.environment.NCCL_DEBUG=INFO", "cluster.restart.attempts=7",
]  # fmt: skip


@pytest.fixture
def objects(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "correct-horse")
    assert main([*FLAGS, *KEYS]) == 0
    text = capsys.readouterr().out
    assert "correct-horse" not in text, "secrets are named, never copied"
    return {item["kind"]: item for item in safe_load_all(text)}


def test_a_job_set_restarts_as_the_exit_codes_say(objects: dict[str, Any]) -> None:
    spec = objects["JobSet"]["spec"]
    assert spec["failurePolicy"] == {
        "maxRestarts": 7,
        "rules": [
            {"name": "final", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]},
            {"name": "again", "action": "RestartJobSet"},
        ],
    }
    (replicated,) = spec["replicatedJobs"]
    job = replicated["template"]["spec"]
    assert (job["completions"], job["parallelism"], job["backoffLimit"]) == (4, 4, 0)
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"]["values"] == [2, 4]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert container["name"] == rule["onExitCodes"]["containerName"]
    assert container["command"] == [
        "python", "-m", "dnachunker.cluster.backends.kubernetes_pod", "--nodes", "4", "--ranks", "8",
        "--address", "paper-workers-0-0.paper", "--port", "29500", "--wait-for", "/data/corpora/hg38/index.json", "--",
        "dnachunker", "pretrain", "--config", "/etc/dnachunker/run.yaml",
    ]  # fmt: skip
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert container["envFrom"] == [{"secretRef": {"name": "mlflow"}}]
    notice = {"name": "DNACHUNKER_NOTICE_SECONDS", "value": str(pod["terminationGracePeriodSeconds"])}
    assert notice in container["env"], "a run that needs longer to stop says so"
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}} in pod["volumes"]
    assert safe_load(objects["ConfigMap"]["data"]["run.yaml"])["run"] == "/data/runs/a b;$(id)"


def test_ranks_wait_for_the_corpus_that_is_being_built(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index, slept = tmp_path / "index.json", list[float]()

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if sum(slept) > 300:
            index.write_text("{}")

    wait_for(index, sleep)
    assert capsys.readouterr().err.count(f"waiting for {index}") == 2, "at the start, and every few minutes"
    assert main([flag for flag in FLAGS if flag not in ("--shard", "sample")] + KEYS) == 0
    assert "--wait-for" not in capsys.readouterr().out


@pytest.mark.parametrize(("code", "seconds"), [(0, []), (2, []), (4, []), (1, [20.0]), (3, [20.0])])
def test_a_pod_whose_end_forbids_a_restart_ends_first(
    code: int, seconds: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    slept = list[float]()
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "0")
    monkeypatch.setattr(kubernetes_pod, "run_node", lambda worker, placement: code)
    monkeypatch.setattr(kubernetes_pod.time, "sleep", slept.append)
    arguments = ["--nodes", "1", "--ranks", "1", "--address", "localhost", "--port", "1", "--", "worker"]
    assert kubernetes_pod.main(arguments) == code
    assert slept == seconds


def test_the_corpus_is_built_by_a_ray_job(objects: dict[str, Any]) -> None:
    spec = objects["RayJob"]["spec"]
    assert spec["entrypoint"] == (
        "python -m dnachunker shard --config /etc/dnachunker/corpus.yaml --output /data/corpora/hg38 --ray auto"
    )
    assert spec["shutdownAfterJobFinishes"] is True
    assert "gpu" not in str(spec)


def embedded(objects: dict[str, Any]) -> list[dict[str, Any]]:
    """The core objects as complete objects of their own, also those inside the custom kinds."""
    job = objects["JobSet"]["spec"]["replicatedJobs"][0]["template"]
    cluster = objects["RayJob"]["spec"]["rayClusterSpec"]
    pods = [cluster["headGroupSpec"]["template"], cluster["workerGroupSpecs"][0]["template"]]
    name = {"metadata": {"name": "x"}}
    return [
        objects["ConfigMap"],
        {"apiVersion": "batch/v1", "kind": "Job", **name, **job},
        *({"apiVersion": "v1", "kind": "Pod", **name, **pod} for pod in pods),
    ]


@pytest.mark.parametrize("version", ["1.30", "1.34"])
def test_core_kinds_satisfy_the_official_schemas(objects: dict[str, Any], version: str) -> None:
    validate = pytest.importorskip("kubernetes_validate").validate
    for item in embedded(objects):
        validate(item, version, strict=True)
    wrong = embedded(objects)[1]
    wrong["spec"]["template"]["spec"]["containers"][0]["comand"] = ["x"]
    with pytest.raises(Exception, match="comand"):
        validate(wrong, version, strict=True)


def test_the_job_set_survives_a_round_trip_through_the_models(objects: dict[str, Any]) -> None:
    models = pytest.importorskip("kubeflow_trainer_api.models")
    read = models.JobsetV1alpha2JobSet.from_dict(objects["JobSet"])
    assert read.to_dict() == objects["JobSet"], "a key that the models do not know would be lost"


@pytest.mark.parametrize("kind", ["JobSet", "RayJob"])
def test_custom_kinds_satisfy_their_definitions(objects: dict[str, Any], kind: str) -> None:
    validator = pytest.importorskip("jsonschema").Draft202012Validator
    schema = json.loads(gzip.decompress((DEFINITIONS / f"{kind.lower()}.json.gz").read_bytes()))
    _close(schema)

    def errors() -> list[str]:
        return [f"{list(e.absolute_path)}: {e.message}" for e in validator(schema).iter_errors(objects[kind])]

    assert not errors()
    objects[kind]["spec"]["sped"] = 1
    assert ["sped" in error for error in errors()] == [True]


def _close(schema: dict[str, Any]) -> None:
    """Make unknown keys errors, as the API server's strict field validation does."""
    properties = schema.get("properties")
    if properties and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        schema.pop("type", None)
    nested = [*(properties or {}).values(), schema.get("items"), schema.get("additionalProperties")]
    for inner in nested:
        if isinstance(inner, dict):
            _close(inner)
    if schema.get("properties", {}).get("metadata") == {"type": "object"}:
        schema["properties"]["metadata"] = {}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["cluster.kubernetes.mount=/other"], "not under cluster.kubernetes.mount"),
        (["--corpus", "s3://bucket/hg38"], "--shard can build a corpus only in a folder on the volume"),
        (["cluster.kubernetes.name='a;b'"], "cluster.kubernetes.name"),
        (["cluster.kubernetes.image='x y'"], "cluster.kubernetes.image"),
        (["cluster.kubernetes.secret='a: b'"], "cluster.kubernetes.secret"),
    ],
)
def test_values_that_no_pod_could_use_are_refused(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*FLAGS, *KEYS, *arguments]) == 2
    captured = capsys.readouterr()
    assert said.rpartition("cluster.")[2] in captured.err
    assert len(captured.err.splitlines()) == 1
