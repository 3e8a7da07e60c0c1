"""The Cluster: where runs go, and how its scheduler wants to be asked."""

from __future__ import annotations

import re
import shlex
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from openrs.spec.base import EnvironmentName, Line, Name, Number, Program, SharedDirectory, Strict, Text, Word
from openrs.spec.kubernetes import (
    DnsLabel,
    Image,
    LabelKey,
    LabelValue,
    ObjectName,
    OwnLabelKey,
    Toleration,
    Volume,
)

Positive = Annotated[int, Field(ge=1, le=10**9)]

_ALWAYS = "openrs sets it itself"
_GPUS = "use the experiment's resources.gpus and gpu_type, and the field gpu_request"
_NOTHING_SENT = "it would send nothing; `openrs render` shows what would be sent"
_LOGS = "`openrs logs` reads the place that openrs sets"
_OWN_OPTIONS = {
    # sbatch(1): long option → (short one, what to use instead)
    "partition": ("p", "use the field partition"),
    "account": ("A", "use the field account"),
    "qos": ("q", "use the field qos"),
    "constraint": ("C", "use the field constraint"),
    "exclude": ("x", "use the field exclude"),
    "mail-user": ("", "use the field mail_user"),
    "mail-type": ("", "use the field mail_type"),
    "time": ("t", "use the experiment's resources.minutes, and the field max_minutes"),
    "mem": ("", "use the experiment's resources.memory_gb, or the field request_memory"),
    "cpus-per-task": ("c", "use the experiment's resources.cpus"),
    "gres": ("", _GPUS),
    "gpus": ("G", _GPUS),
    "gpus-per-node": ("", _GPUS),
    "gpus-per-task": ("", _GPUS),
    "gpus-per-socket": ("", _GPUS),
    "array": ("a", "use the fields array_limit and array_parallel"),
    "export": ("", "use the field environment"),
    "export-file": ("", "use the field environment"),
    "chdir": ("D", "use the field setup"),
    "signal": ("", "use the experiment's recovery.grace_seconds"),
    "nodes": ("N", "a job has one node"),
    "ntasks": ("n", "a job has one task"),
    "clusters": ("M", "openrs asks only the cluster of this login node"),
    "requeue": ("", _ALWAYS),
    "no-requeue": ("", "openrs needs --requeue to go on"),
    "wrap": ("", "openrs sends a script of its own"),
    "parsable": ("", _ALWAYS),
    "dependency": ("d", _ALWAYS),
    "kill-on-invalid-dep": ("", _ALWAYS),
    "output": ("o", _LOGS),
    "error": ("e", _LOGS),
    "open-mode": ("", _ALWAYS),
    "job-name": ("J", _ALWAYS),
    "comment": ("", "use the field comment"),
    "test-only": ("", _NOTHING_SENT),
    "wait": ("W", "openrs does not wait; use `openrs submit --watch`"),
    "help": ("h", _NOTHING_SENT),
    "usage": ("", _NOTHING_SENT),
    "version": ("V", _NOTHING_SENT),
}
_BY_LETTER = {letter: name for name, (letter, _) in _OWN_OPTIONS.items() if letter}
SLURM_GPU_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_FLAGS = "HIkOsQv"
"""Short options without a value: others may follow in the same word."""


def _extra(line: str) -> str:
    if not line.startswith("-"):
        raise ValueError("this is not an sbatch option; write it like --exclusive")
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise ValueError(f"this is not an sbatch option ({error})") from None
    for word in words:
        if word in ("-", "--"):
            raise ValueError("this is not an sbatch option; write one like --exclusive")
        name = _own_option(word)
        if name:
            raise ValueError(f"--{name} cannot be set here: {_OWN_OPTIONS[name][1]}")
    return line


def _own_option(word: str) -> str | None:
    """The option that openrs sets itself and `word` would set too; sbatch also takes the beginning of a long name."""
    if word.startswith("--"):
        given = word[2:].partition("=")[0]
        if given in _OWN_OPTIONS:
            return given
        matches = [name for name in _OWN_OPTIONS if name.startswith(given)]
        return matches[0] if matches else None
    if word.startswith("-"):
        return _BY_LETTER.get(word[1:].lstrip(_FLAGS)[:1])
    return None


def _setup(line: str) -> str:
    if line.lstrip().startswith("#SBATCH"):
        raise ValueError("a directive does nothing here; use the field extra, without #SBATCH")
    return line


class SlurmFields(Strict):
    """What only Slurm's engine reads (sbatch(1), slurm.conf(5))."""

    partition: Word | None = None
    """Slurm: `--partition`; by default the cluster's default partition."""
    account: Word | None = None
    """Slurm: `--account`."""
    qos: Word | None = None
    """Slurm: `--qos`."""
    gpu_request: Literal["gres", "gpus-per-node"] = "gres"
    """Slurm: ask for GPUs by `--gres=gpu:TYPE:N` or by `--gpus-per-node=TYPE:N`."""
    constraint: Word | None = None
    """Slurm: `--constraint`."""
    exclude: Word | None = None
    """Slurm: `--exclude`, nodes never to be used."""
    comment: Word | None = None
    """Slurm: added to `--comment` after the run's id and the spec's hash, e.g. a billing code."""
    mail_user: Word | None = None
    """Slurm: `--mail-user`."""
    mail_type: Word | None = None
    """Slurm: `--mail-type`, e.g. `END,FAIL`."""
    request_memory: bool = True
    """Slurm: write `--mem`; some sites forbid it."""
    container: Literal["pyxis", "apptainer", "oci"] | None = None
    """Slurm: what starts `image` around the supervisor and its ranks: NVIDIA's pyxis, Apptainer, or Slurm's own `--container` on an
    OCI bundle; by default they run in the job's environment. `openrs images fetch` brings the image to `shared_root` first."""
    container_mounts: list[SharedDirectory] = []
    """Slurm: more directories that the container sees, at their own paths; `shared_root` it always sees."""
    container_python: Program = "/opt/openrs/bin/python"
    """Slurm: Python in the image."""
    extra: list[Annotated[Line, AfterValidator(_extra)]] = []
    """Slurm: free directives without `#SBATCH`, e.g. `--exclusive`; none that openrs sets itself."""


class KubernetesFields(Strict):
    """What only Kubernetes' engine reads."""

    namespace: DnsLabel | None = None
    """Kubernetes: namespace of the Jobs; by default that of the context."""
    kubeconfig: Program | None = None
    """Kubernetes: file with clusters, users and contexts; by default KUBECONFIG, else ~/.kube/config."""
    context: Word | None = None
    """Kubernetes: context of the kubeconfig; by default its current one."""
    image_pull_secrets: list[ObjectName] = []
    """Kubernetes: Secrets with which the image is pulled."""
    volumes: list[Volume] = []
    """Kubernetes: claims that every pod mounts; one of them holds `shared_root`."""
    service_account: ObjectName | None = None
    """Kubernetes: ServiceAccount of the training pod; with `release: worker` it may get and patch Jobs."""
    release: Literal["worker", "watch"] = "worker"
    """Kubernetes: who lets the evaluation begin after training: the training pod, or `openrs watch` outside the cluster."""
    run_as_user: Annotated[int, Field(ge=1, lt=2**31)] = 1000
    """Kubernetes: user and group of the processes, who must be able to write to the volumes."""
    gpu_resource: LabelKey = "nvidia.com/gpu"
    """Kubernetes: extended resource of the GPUs."""
    gpu_label: LabelKey = "nvidia.com/gpu.product"
    """Kubernetes: label of the nodes that names their GPUs."""
    gpu_products: dict[Word, list[LabelValue]] = {}
    """Kubernetes: values of `gpu_label` that will do for an experiment's GPU type; by default the type itself."""
    node_selector: dict[LabelKey, LabelValue] = {}
    """Kubernetes: labels that the nodes must have."""
    tolerations: list[Toleration] = []
    """Kubernetes: taints that the pods tolerate."""
    spread: LabelKey | None = None
    """Kubernetes: evaluation pods are spread over the values of this node label, e.g. `kubernetes.io/hostname`."""
    priority_class: ObjectName | None = None
    """Kubernetes: PriorityClass of the training pod."""
    cell_priority_class: ObjectName | None = None
    """Kubernetes: PriorityClass of the evaluation pods."""
    queue: DnsLabel | None = None
    """Kubernetes: LocalQueue of Kueue that admits the Jobs."""
    labels: dict[OwnLabelKey, LabelValue] = {}
    """Kubernetes: more labels of the Jobs and pods, e.g. a cost centre."""
    shm_gb: Positive = 8
    """Kubernetes: size of /dev/shm in GiB for jobs with GPUs; comes on top of the job's memory."""
    scratch_gb: Positive = 16
    """Kubernetes: size of /tmp in GiB, which is gone with the pod."""
    ttl_seconds: Positive = 7 * 24 * 3600
    """Kubernetes: finished Jobs and their logs are removed after so long."""
    allow_old_server: bool = False
    """Kubernetes: send also to a server that drops fields which keep a run from being written by two trainers at once."""


class Cluster(KubernetesFields, SlurmFields):
    """A named profile. `slurm`, `k8s` and `local` are shipped; `openrs.toml` holds a user's own."""

    name: Name
    """Name of the profile."""
    engine: Literal["slurm", "kubernetes", "local"]
    """Which engine sends the jobs."""
    shared_root: SharedDirectory | None = None
    """Directory on the cluster's shared file system for run directories; by default they stand where `--runs` says."""
    python: Program | None = None
    """Python of the jobs; by default the one that runs `openrs submit`."""
    setup: list[Annotated[Line, AfterValidator(_setup)]] = []
    """Shell lines at the start of each job: modules, a virtual environment."""
    environment: dict[EnvironmentName, Text] = {}
    """Environment variables of every process of the jobs (the experiment's own come on top); never secrets."""
    gpu_types: dict[Word, Line] = {}
    """Translates an experiment's GPU type into this scheduler's word for it; on Slurm into "" where GPUs have no type."""
    max_minutes: Positive | None = None
    """Longest wall time that the cluster grants; longer requests are cut to it and go on in the next attempt."""
    array_limit: Positive = 1000
    """Most tasks in one job array (Slurm: MaxArraySize - 1); more are cut into several arrays."""
    array_parallel: Positive = 16
    """Most tasks of an array that run at once."""
    cells_per_task: Positive = 1
    """Evaluation cells in one array task: loading a model costs more than a small cell."""
    price_per_gpu_hour: Annotated[Number, Field(ge=0.0, le=1e6)] | None = None
    """US dollars for one GPU for an hour, for the cost lines of `plan` and `status`."""
    lease_seconds: Annotated[int, Field(ge=4, le=3600)] = 60
    """Time-to-live of a run's lease: so long after a lost node a successor waits before it writes."""

    image: Image | None = None
    """Kubernetes, and Slurm with `container`: image of the jobs, by digest (`…@sha256:…`): a tag may be another image tomorrow.
    By default the `train` of images/pins.toml, once one is pinned there."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        paths = [volume.path for volume in self.volumes]
        twice = next((path for path in paths if paths.count(path) > 1), None)
        if twice is not None:
            raise ValueError(f"volumes: two of them are mounted at {twice}")
        for name, word in self.gpu_types.items():
            if not word and self.engine != "slurm":
                raise ValueError(f"gpu_types.{name}: must not be empty")
            if word and self.engine == "slurm" and not SLURM_GPU_TYPE.fullmatch(word):
                raise ValueError(
                    f"gpu_types.{name}: {word!r} is not Slurm's word for a GPU: letters, digits, '.', '_', '+' and '-'; how many "
                    f"is resources.gpus"
                )
        if self.container is not None and self.shared_root is None:
            raise ValueError("shared_root: container needs one, where all nodes find the image and the run directories")
        return self

    def foreign(self) -> tuple[str, str] | None:
        """A field that is set and that only another engine reads, and that engine's name."""
        for engine, fields in (("slurm", SlurmFields), ("kubernetes", KubernetesFields)):
            for name, info in fields.model_fields.items():
                if engine != self.engine and getattr(self, name) != info.get_default(call_default_factory=True):
                    return name, engine.title()
        return None
