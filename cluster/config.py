"""Where and how ranks start: one typed config for every kind of cluster, beside the config of the run."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from dnachunker.foundations.typed_config import Config

Kind = Literal["local", "hosts", "slurm", "kubernetes", "ray"]
KINDS: tuple[Kind, ...] = ("local", "hosts", "slurm", "kubernetes", "ray")

Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]

# What ends up in a scheduler's own syntax (#SBATCH lines, host lists, object names) is matched, never quoted.
_WORD = r"^[A-Za-z0-9_][A-Za-z0-9_.,:=/+\[\]-]*$"
Word = Annotated[str, Field(pattern=_WORD)]
Label = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?$", description="letters, digits and -")]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
VariablePattern = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*\*?$")]


class RestartSettings(Config):
    """When the supervisor starts a job again, and when it gives up."""

    attempts: Annotated[int, Field(ge=0)] = Field(10, description="restarts after crashes within `window_hours`")
    window_hours: Annotated[float, Field(gt=0)] = Field(24.0, description="older crashes are forgotten")
    backoff_seconds: Seconds = Field(5.0, description="pause before a restart; doubles with each crash in the window")
    backoff_most: Seconds = Field(300.0, description="longest pause")
    min_nodes: Positive | None = Field(
        None, description="go on with so few nodes when others do not answer; default: wait for all of them"
    )


class HostsSettings(Config):
    """Machines reached by ssh."""

    hostfile: str | None = Field(None, description="file with a line `NAME slots=N` for each machine")
    ssh_options: tuple[Annotated[str, Field(pattern=r"^[A-Za-z]+=[^\r\n]*$")], ...] = Field(
        (), description="ssh settings such as `Port=2222`, each handed to ssh after -o"
    )
    connect_seconds: Seconds = Field(60.0, description="time a host has to answer with its versions")
    lost_seconds: Annotated[float, Field(ge=4)] = Field(
        30.0, description="a host that has been unreachable for so long is lost; its own ranks end as soon"
    )
    port: Annotated[int, Field(ge=1, le=65535)] | None = Field(
        None, description="port of the rendezvous on the first host; default: a free one"
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

    partition: Word | None = None
    account: Word | None = None
    qos: Word | None = None
    constraint: Word | None = None
    time: Annotated[str, Field(pattern=r"^[0-9:-]+$")] = Field(
        "24:00:00", description="limit of one job, as SLURM has it"
    )
    cpus_per_task: Positive | None = None
    memory: Annotated[str, Field(pattern=r"^[0-9]+[KMGT]?$")] | None = Field(None, description="of a node, as in --mem")
    gres: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.,:{}-]+$")] | None = Field(
        "gpu:{gpus}", description="{gpus} is the number of ranks on a node; null asks for none"
    )
    signal_seconds: Positive = Field(
        120, description="SIGUSR1 comes so long before the time limit: save, stop, requeue"
    )
    modules: tuple[Word, ...] = Field((), description="environment modules to load")
    container: str | None = Field(None, description="image for srun --container-image (pyxis)")
    container_mounts: tuple[str, ...] = ()
    setup: str | None = Field(None, description="shell script that the job sources first: your own hook, trusted")
    exclude_after: Positive = Field(2, description="failures on one node after which the job avoids it")
    port: Annotated[int, Field(ge=1024, le=64500)] = 29500


class KubernetesSettings(Config):
    """Objects for a cluster with JobSet (training) and KubeRay (corpus building)."""

    namespace: Label = "default"
    name: Label = "dnachunker"
    image: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/:@-]*$")] = "dnachunker:0.1.0"
    cpus: Positive = 16
    memory_gib: Positive = 128
    shared_memory_gib: Positive = Field(16, description="size of /dev/shm")
    volume_claim: Label = Field("dnachunker", description="PersistentVolumeClaim with corpora and runs, ReadWriteMany")
    mount: Annotated[str, Field(pattern=r"^/[A-Za-z0-9/_.-]*$")] = "/data"
    secret: Label | None = Field(None, description="Secret whose keys become environment variables of the ranks")
    gpu_resource: Word = "nvidia.com/gpu"
    node_selector: dict[str, str] = Field(default_factory=dict)
    user_id: Positive = 1001
    port: Annotated[int, Field(ge=1024, le=64500)] = 29500


class RaySettings(Config):
    """A Ray cluster."""

    address: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.:/\[\]-]*$")] = Field(
        "auto", description="address of the cluster; `auto` finds the one this machine belongs to"
    )
    cpus_per_rank: Positive = 1


class ClusterConfig(Config):
    """Where ranks run, how many, and what happens when some of them die."""

    kind: Kind
    nodes: Positive | None = Field(None, description="machines; default: 1, or all of the hostfile")
    gpus: Positive | None = Field(None, description="ranks on each machine; default: its GPUs, or 2 without one")
    python: str | None = Field(None, description="Python interpreter on the machines; default: the one that runs this")
    workdir: str | None = Field(None, description="folder relative paths start from there; default: the current one")
    environment: dict[VariableName, str] = Field(
        default_factory=dict, description="variables of the ranks; shown by --dry-run, so no secrets"
    )
    pass_environment: tuple[VariablePattern, ...] = Field(
        ("NCCL_*", "GLOO_*", "DS_ACCELERATOR", "OMP_NUM_THREADS", "MLFLOW_*", "AWS_*"),
        description="variables passed on from this environment; their values are never shown",
    )
    restart: RestartSettings = RestartSettings()
    hosts: HostsSettings = HostsSettings()
    slurm: SlurmSettings = SlurmSettings()
    kubernetes: KubernetesSettings = KubernetesSettings()
    ray: RaySettings = RaySettings()

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
