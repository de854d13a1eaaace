"""The config of a cluster: where ranks start, how many, and when they are started again. The run has its own config."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from dnachunker.foundations.typed_config import Config

Kind = Literal["local", "hosts", "slurm", "kubernetes", "ray"]
KINDS: tuple[Kind, ...] = ("local", "hosts", "slurm", "kubernetes", "ray")

Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]

# These values enter a scheduler's own syntax (#SBATCH lines, host lists, object names), which has no quoting.
# So each value must match a pattern that allows only safe characters.
_WORD = r"^[A-Za-z0-9_][A-Za-z0-9_.,:=/+\[\]-]*$"
Word = Annotated[str, Field(pattern=_WORD)]
Label = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?$")]  # a name of a Kubernetes object
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
VariablePattern = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*\*?$")]


class RestartSettings(Config):
    """When the supervisor starts a job again, and when it gives up."""

    attempts: Annotated[int, Field(ge=0)] = Field(10, description="most restarts after crashes within `window_hours`")
    window_hours: Annotated[float, Field(gt=0)] = Field(24.0, description="hours after which a crash no longer counts")
    backoff_seconds: Seconds = Field(
        5.0, description="seconds before the first restart; each further crash within `window_hours` doubles the pause"
    )
    backoff_most: Seconds = Field(300.0, description="longest pause before a restart, in seconds")
    min_nodes: Positive | None = Field(
        None, description="fewest machines to continue with when others do not answer; default: all of them"
    )


class HostsSettings(Config):
    """Machines reached by ssh."""

    hostfile: str | None = Field(None, description="file with one line `NAME slots=N` for each machine")
    ssh_options: tuple[Annotated[str, Field(pattern=r"^[A-Za-z]+=[^\r\n]*$")], ...] = Field(
        (), description="ssh settings such as `Port=2222`; each is passed to ssh as -oKEY=VALUE"
    )
    connect_seconds: Seconds = Field(60.0, description="seconds within which a host must answer with its versions")
    lost_seconds: Annotated[float, Field(ge=4)] = Field(
        30.0, description="seconds without contact after which a host counts as lost and ends its own ranks"
    )
    port: Annotated[int, Field(ge=1, le=65535)] | None = Field(
        None, description="TCP port of the rendezvous on the first host; default: a free one"
    )

    @field_validator("ssh_options")
    @classmethod
    def _no_commands(cls, options: tuple[str, ...]) -> tuple[str, ...]:
        for option in options:
            name = option.partition("=")[0].lower()
            if name in ("proxycommand", "localcommand", "permitlocalcommand", "knownhostscommand", "remotecommand"):
                raise ValueError(f"{option.partition('=')[0]} runs a program; put it into ~/.ssh/config instead")
        return options


class SlurmSettings(Config):
    """A job of the SLURM workload manager."""

    partition: Word | None = Field(None, description="SLURM partition, as in --partition")
    account: Word | None = Field(None, description="SLURM account that pays for the job, as in --account")
    qos: Word | None = Field(None, description="SLURM quality of service, as in --qos")
    constraint: Word | None = Field(None, description="features that every node must have, as in --constraint")
    time: Annotated[str, Field(pattern=r"^[0-9:-]+$")] = Field(
        "24:00:00", description="time limit of one job, as in --time: hours:minutes:seconds or days-hours"
    )
    cpus_per_task: Positive | None = Field(None, description="CPU cores of each rank, as in --cpus-per-task")
    memory: Annotated[str, Field(pattern=r"^[0-9]+[KMGT]?$")] | None = Field(
        None, description="memory of each node, as in --mem; MiB without a letter"
    )
    gres: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.,:{}-]+$")] | None = Field(
        "gpu:{gpus}",
        description="resources of each node, as in --gres; {gpus} is the number of ranks on a node; null: none",
    )
    signal_seconds: Positive = Field(
        120, description="seconds before the time limit at which SLURM sends SIGUSR1: the run saves and is requeued"
    )
    modules: tuple[Word, ...] = Field((), description="environment modules that the job loads")
    container: str | None = Field(None, description="container image, as in srun --container-image (needs pyxis)")
    container_mounts: tuple[str, ...] = Field((), description="mounts `SOURCE:TARGET`, as in srun --container-mounts")
    setup: str | None = Field(None, description="shell script that the job sources first; its content is not checked")
    exclude_after: Positive = Field(2, description="crashes on one node after which the job avoids this node")
    port: Annotated[int, Field(ge=1024, le=64500)] = Field(
        29500, description="TCP port of the rendezvous; the job adds its id modulo 1000"
    )


class KubernetesSettings(Config):
    """Objects for a cluster with JobSet (training) and KubeRay (corpus building)."""

    namespace: Label = Field("default", description="Kubernetes namespace of all objects")
    name: Label = Field("dnachunker", description="name of the JobSet; the other objects are named after it")
    image: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/:@-]*$")] = Field(
        "dnachunker:0.1.0", description="container image with dnachunker installed"
    )
    cpus: Positive = Field(16, description="CPU cores of each pod")
    memory_gib: Positive = Field(128, description="memory of each pod, in GiB")
    shared_memory_gib: Positive = Field(16, description="size of /dev/shm in each pod, in GiB")
    volume_claim: Label = Field("dnachunker", description="PersistentVolumeClaim with corpora and runs, ReadWriteMany")
    mount: Annotated[str, Field(pattern=r"^/[A-Za-z0-9/_.-]*$")] = Field(
        "/data", description="path of the volume inside the pods; run and corpus must lie under it"
    )
    secret: Label | None = Field(None, description="Secret whose keys become environment variables of the ranks")
    gpu_resource: Word = Field("nvidia.com/gpu", description="resource name under which the cluster offers GPUs")
    node_selector: dict[str, str] = Field(
        default_factory=dict, description="labels that a node must have to run the pods"
    )
    user_id: Positive = Field(1001, description="numeric id of the user that the containers run as")
    port: Annotated[int, Field(ge=1024, le=64500)] = Field(
        29500, description="TCP port of the rendezvous on the first pod"
    )


class RaySettings(Config):
    """A Ray cluster."""

    address: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.:/\[\]-]*$")] = Field(
        "auto", description="address of the cluster; `auto` finds the cluster to which this machine belongs"
    )
    cpus_per_rank: Positive = Field(1, description="CPU cores that Ray reserves for each rank")


class ClusterConfig(Config):
    """Where ranks run, how many, and what happens when some of them die."""

    kind: Kind = Field(description="local, hosts (by ssh), slurm, kubernetes or ray")
    nodes: Positive | None = Field(None, description="number of machines; default: 1, or every machine of the hostfile")
    gpus: Positive | None = Field(
        None, description="ranks on each machine; default: one for each GPU, or 2 without a GPU"
    )
    python: str | None = Field(
        None, description="path of the Python interpreter on the machines; default: the one that runs this command"
    )
    workdir: str | None = Field(
        None, description="folder on the machines to which relative paths refer; default: the current folder"
    )
    environment: dict[VariableName, str] = Field(
        default_factory=dict, description="environment variables of the ranks; --dry-run shows them, so no secrets here"
    )
    pass_environment: tuple[VariablePattern, ...] = Field(
        ("NCCL_*", "GLOO_*", "DS_ACCELERATOR", "OMP_NUM_THREADS", "MLFLOW_*", "AWS_*"),
        description="variables copied from this environment to the ranks; their values are never shown",
    )
    restart: RestartSettings = Field(RestartSettings(), description="when a job is started again")
    hosts: HostsSettings = Field(HostsSettings(), description="settings of kind hosts")
    slurm: SlurmSettings = Field(SlurmSettings(), description="settings of kind slurm")
    kubernetes: KubernetesSettings = Field(KubernetesSettings(), description="settings of kind kubernetes")
    ray: RaySettings = Field(RaySettings(), description="settings of kind ray")

    @field_validator("environment")
    @classmethod
    def _one_line_each(cls, variables: dict[str, str]) -> dict[str, str]:
        for name, value in variables.items():
            if re.search(r"[\x00-\x1f\x7f]", value):
                raise ValueError(f"the value of {name} holds a line break or another control character")
        return variables

    @field_validator("python", "workdir")
    @classmethod
    def _plain_path(cls, path: str | None) -> str | None:
        if path is not None and (re.search(r"[\x00-\x1f\x7f]", path) or path.startswith("-")):
            raise ValueError("holds a control character, or starts with a dash")
        return path

    @model_validator(mode="after")
    def _fewer_is_fewer(self) -> Self:
        if self.nodes and self.restart.min_nodes and self.restart.min_nodes > self.nodes:
            raise ValueError(f"restart.min_nodes={self.restart.min_nodes} exceeds nodes={self.nodes}")
        return self
