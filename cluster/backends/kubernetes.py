"""Kind kubernetes: a run as Kubernetes objects, a JobSet for training and a KubeRay RayJob for building the corpus.

The objects are built as Python data and written by a YAML library, so that no value can turn into a key.
"""

import shlex
import subprocess
from pathlib import PurePosixPath
from typing import Any

from yaml import safe_dump_all

from dnachunker.cluster.config import ClusterConfig, KubernetesSettings
from dnachunker.cluster.request import Request, say, worker_of
from dnachunker.foundations.failures import BadInput, Failure
from dnachunker.foundations.typed_config import to_yaml

_CONFIG = "/etc/dnachunker"
_INDEX = "index.json"  # the file of a corpus that is written last
_SAVE_SECONDS = 120  # seconds a pod has after SIGTERM to finish the step and save
_FINAL_CODES = [2, 4]  # bad input, a guard: another start would fail in the same way


def launch(request: Request) -> int:
    """Print the manifests (--dry-run) or apply them with kubectl; returns 0.

    Raises:
        BadInput: as `manifests`; also when kubectl refuses them.
        Failure: kubectl is not installed here.
    """
    text = safe_dump_all(manifests(request), sort_keys=False)
    if request.dry_run:
        print(text, end="")
        return 0
    try:
        done = subprocess.run(["kubectl", "apply", "-f", "-"], input=text, text=True)
    except FileNotFoundError as error:
        raise Failure(
            "kubectl: not found; install kubectl, or apply the output of --dry-run on a machine that has it"
        ) from error
    if done.returncode:
        raise BadInput(f"kubectl apply: exit code {done.returncode}; the message of kubectl is above")
    kubectl, name = f"kubectl -n {request.cluster.kubernetes.namespace}", request.cluster.kubernetes.name
    say(
        f"applied; `{kubectl} get jobset {name}` shows the job. To continue a finished job or to change it, first run "
        f"`{kubectl} delete jobset {name}`, then the same command again"
    )
    return 0


def manifests(request: Request) -> list[dict[str, Any]]:
    """The objects of a run; with `request.corpus`, also those that build the corpus the run names.

    Raises:
        BadInput: no number of ranks, a number that does not divide the run's batches, a run folder or corpus outside
            the mounted volume, or a corpus to build that is a URL.
    """
    cluster, settings = request.cluster, request.cluster.kubernetes
    if not cluster.gpus:
        raise BadInput("kind kubernetes needs --gpus G, the number of GPUs and ranks of each pod (and --nodes N)")
    request.require_divisible((cluster.nodes or 1) * cluster.gpus)
    _require_mounted(request.run.run, settings, "run")
    folder, corpus = request.run.data.corpus, request.corpus
    if "://" not in folder:
        _require_mounted(folder, settings, "data.corpus")
    elif corpus:
        raise BadInput(
            f"--shard can build a corpus only in a folder on the volume, not at the URL data.corpus={folder}; "
            "run `dnachunker shard` first"
        )
    configs = {"run.yaml": to_yaml(request.run)}
    if corpus:
        configs["corpus.yaml"] = to_yaml(corpus)
    metadata = {"name": settings.name, "namespace": settings.namespace}
    objects: list[dict[str, Any]] = [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": configs}]
    if corpus:
        objects.append(_ray_job(cluster, folder))
    return [*objects, _job_set(cluster, str(PurePosixPath(folder, _INDEX)) if corpus else None)]


def _job_set(cluster: ClusterConfig, awaited: str | None) -> dict[str, Any]:
    """The JobSet for training. If `awaited` is given, its pods start the ranks only when that file exists."""
    settings, nodes, ranks = cluster.kubernetes, cluster.nodes or 1, cluster.gpus or 1
    job = "workers"
    first_pod = f"{settings.name}-{job}-0-0.{settings.name}"  # JobSet names its headless service after the set
    argv = [
        cluster.python or "python", "-m", "dnachunker.cluster.backends.kubernetes_pod",
        "--nodes", str(nodes), "--ranks", str(ranks), "--address", first_pod, "--port", str(settings.port),
        *(["--wait-for", awaited] if awaited else []), "--", *worker_of(f"{_CONFIG}/run.yaml"),
    ]  # fmt: skip
    pod = _pod(cluster, argv, gpus=ranks)
    pod["spec"] |= {"restartPolicy": "Never", "terminationGracePeriodSeconds": _SAVE_SECONDS}
    batch_job = {
        "completionMode": "Indexed", "completions": nodes, "parallelism": nodes,
        "backoffLimit": 0,  # one rank cannot be restarted alone, only the whole set
        "podFailurePolicy": {
            "rules": [{
                "action": "FailJob",
                "onExitCodes": {"containerName": "ranks", "operator": "In", "values": _FINAL_CODES},
            }]
        },
        "template": pod,
    }  # fmt: skip
    failure = {
        "maxRestarts": cluster.restart.attempts,
        "rules": [
            {"name": "final", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]},
            {"name": "again", "action": "RestartJobSet"},
        ],
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet",
        "metadata": {"name": settings.name, "namespace": settings.namespace},
        "spec": {
            "failurePolicy": failure,
            "replicatedJobs": [{"name": job, "replicas": 1, "template": {"spec": batch_job}}],
        },
    }  # fmt: skip


def _ray_job(cluster: ClusterConfig, output: str) -> dict[str, Any]:
    """The RayJob that builds the corpus into the folder `output`."""
    settings = cluster.kubernetes
    build = ["dnachunker", "shard", "--config", f"{_CONFIG}/corpus.yaml", "--output", output, "--ray", "auto"]
    head, workers = _pod(cluster, None, gpus=0), _pod(cluster, None, gpus=0)
    return {
        "apiVersion": "ray.io/v1", "kind": "RayJob",
        "metadata": {"name": f"{settings.name}-corpus", "namespace": settings.namespace},
        "spec": {
            "entrypoint": shlex.join([cluster.python or "python", "-m", *build]),
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": 600,
            "backoffLimit": 2,  # a restarted build keeps the finished shards
            "rayClusterSpec": {
                "headGroupSpec": {"rayStartParams": {}, "template": head},
                "workerGroupSpecs": [{
                    "groupName": "workers", "replicas": cluster.nodes or 1, "minReplicas": 1,
                    "maxReplicas": cluster.nodes or 1, "rayStartParams": {}, "template": workers,
                }],
            },
        },
    }  # fmt: skip


def _pod(cluster: ClusterConfig, argv: list[str] | None, *, gpus: int) -> dict[str, Any]:
    """A pod template: a user who is not root, resources, shared memory, the volume and the configs."""
    settings = cluster.kubernetes
    resources = {"cpu": str(settings.cpus), "memory": f"{settings.memory_gib}Gi"}
    if gpus:
        resources[settings.gpu_resource] = str(gpus)
    # HOME must be writable, because compiled kernels are stored there
    variables = {
        "HOME": "/tmp",
        "PYTHONSAFEPATH": "1",
        **({"DNACHUNKER_NOTICE_SECONDS": str(_SAVE_SECONDS)} if argv else {}),
        **({} if gpus else {"DS_ACCELERATOR": "cpu"}),
        **cluster.environment,
    }
    container: dict[str, Any] = {
        "name": "ranks",
        "image": settings.image,
        **({"command": argv} if argv else {}),
        "env": [{"name": name, "value": value} for name, value in variables.items()],
        "resources": {"requests": dict(resources), "limits": dict(resources)},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [
            {"name": "shared-memory", "mountPath": "/dev/shm"},
            {"name": "data", "mountPath": settings.mount},
            {"name": "config", "mountPath": _CONFIG, "readOnly": True},
        ],
    }
    if settings.secret:
        container["envFrom"] = [{"secretRef": {"name": settings.secret}}]
    spec: dict[str, Any] = {
        "containers": [container],
        "securityContext": {
            "runAsNonRoot": True, "runAsUser": settings.user_id, "fsGroup": settings.user_id,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumes": [
            {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": f"{settings.shared_memory_gib}Gi"}},
            {"name": "data", "persistentVolumeClaim": {"claimName": settings.volume_claim}},
            {"name": "config", "configMap": {"name": settings.name}},
        ],
    }  # fmt: skip
    if settings.node_selector:
        spec["nodeSelector"] = dict(settings.node_selector)
    return {"spec": spec}


def _require_mounted(path: str, settings: KubernetesSettings, key: str) -> None:
    if not PurePosixPath(path).is_relative_to(settings.mount) or ".." in PurePosixPath(path).parts:
        raise BadInput(
            f"{key}={path}: not under cluster.kubernetes.mount={settings.mount}, the only folder that the pods share"
        )
