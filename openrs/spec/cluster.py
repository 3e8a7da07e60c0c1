"""The Cluster: where runs go, and how its scheduler wants to be asked."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from openrs.spec.base import EnvironmentName, Line, Name, Strict, Text

Positive = Annotated[int, Field(ge=1, le=10**9)]


class Cluster(Strict):
    """A named profile. `slurm`, `k8s` and `local` are shipped; `openrs.toml` holds a user's own."""

    name: Name
    """Name of the profile."""
    engine: Literal["slurm", "kubernetes", "local"]
    """Which engine sends the jobs."""
    shared_root: Line | None = None
    """Directory on the cluster's shared file system for run directories; by default they stand where `--runs` says."""
    python: Line | None = None
    """Python of the jobs; by default the one that runs `openrs submit`."""
    setup: list[Line] = []
    """Shell lines at the start of each job: modules, a virtual environment."""
    environment: dict[EnvironmentName, Text] = {}
    """Environment variables of every process of the jobs (the experiment's own come on top); never secrets."""
    gpu_types: dict[Line, Line] = {}
    """Translates an experiment's GPU type into this scheduler's word for it."""
    max_minutes: Positive | None = None
    """Longest wall time that the cluster grants; longer requests are cut to it and go on in the next attempt."""
    array_limit: Positive = 1000
    """Most tasks in one job array (Slurm: MaxArraySize - 1); more are cut into several arrays."""
    array_parallel: Positive = 16
    """Most tasks of an array that run at once."""
    cells_per_task: Positive = 1
    """Evaluation cells in one array task: loading a model costs more than a small cell."""
    price_per_gpu_hour: Annotated[float, Field(ge=0.0)] | None = None
    """US dollars for one GPU for an hour, for the cost lines of `plan` and `status`."""
    lease_seconds: Annotated[int, Field(ge=4, le=3600)] = 60
    """Time-to-live of a run's lease: so long after a lost node a successor waits before it writes."""

    # Slurm (sbatch(1), slurm.conf(5))
    partition: Line | None = None
    """Slurm: `--partition`; by default the cluster's default partition."""
    account: Line | None = None
    """Slurm: `--account`."""
    qos: Line | None = None
    """Slurm: `--qos`."""
    gpu_request: Literal["gres", "gpus-per-node"] = "gres"
    """Slurm: ask for GPUs by `--gres=gpu:TYPE:N` or by `--gpus-per-node=TYPE:N`."""
    constraint: Line | None = None
    """Slurm: `--constraint`."""
    exclude: Line | None = None
    """Slurm: `--exclude`, nodes never to be used."""
    mail_user: Line | None = None
    """Slurm: `--mail-user`."""
    mail_type: Line | None = None
    """Slurm: `--mail-type`, e.g. `END,FAIL`."""
    request_memory: bool = True
    """Slurm: write `--mem`; some sites forbid it."""
    extra: list[Line] = []
    """Slurm: free directives without `#SBATCH`, e.g. `--exclusive`."""

    # Kubernetes
    namespace: Line | None = None
    """Kubernetes: namespace of the Jobs."""

    @model_validator(mode="after")
    def _extra_lines_are_options(self) -> Self:
        for line in self.extra:
            if not line.startswith("-"):
                raise ValueError(f"extra: {line!r} is not an sbatch option; write it like --exclusive")
        return self
