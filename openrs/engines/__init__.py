"""Engines: one file each. `render` is pure and offline; what `submit` sends is exactly what `render` gave."""

from __future__ import annotations

import importlib
import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol, runtime_checkable

from openrs.errors import BadInput, OpenRSError
from openrs.plan import Plan, Stage
from openrs.spec.canonical import canonical, pretty
from openrs.spec.cluster import Cluster
from openrs.spec.experiment import Spec
from openrs.stage import Cell, CellsFile, StageFile

FORGOTTEN = "does not know it any more"
"""What engines say of a job that nobody knows."""


class JobState(StrEnum):
    """State of a job, a stage or a run, the same words for all engines."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    INTERRUPTED = "INTERRUPTED"
    """Ended before it was done; `openrs resume` goes on from there."""
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    UNKNOWN = "UNKNOWN"

    @property
    def ended(self) -> bool:
        """Whether nothing more happens without a person."""
        return self in (JobState.INTERRUPTED, JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


@dataclass(frozen=True)
class Place:
    """Where a sending of a run stands."""

    run: str
    directory: Path
    """The run directory, as the cluster sees it."""
    submission: int = 1


@dataclass(frozen=True)
class Artifacts:
    """Everything that `submit` sends, as text."""

    place: Place
    plan: Plan
    files: dict[str, str]
    """Path below the submission's directory → content, in the order of the plan."""


@dataclass(frozen=True)
class Job:
    """One thing that was sent."""

    run: str
    """The run that it belongs to."""
    handle: str
    """The scheduler's id, in its engine's words."""
    tasks: int | None
    """Array tasks; none for a single job."""
    directory: Path
    """Where its artefacts stand: `submission/<n>/<stage>`, as the client sees it."""


class NodeAway(OpenRSError):
    """The scheduler answers, but not the node that holds what was asked for."""


class StillStopping(OpenRSError):
    """What was cancelled is removed, but has not ended in time."""


class LogGone(OpenRSError):
    """What was asked for is not there any more, though it may just have been listed."""


@dataclass(frozen=True)
class PodLog:
    """The output of one container."""

    name: str
    """Of the pod."""
    handle: str
    """Of its job."""
    task: int | None
    """Array index; none for a single job."""
    running: bool
    read: Callable[[str | None], str]
    """Fetches what was printed since a time (RFC 3339; everything without one), each line behind its time and a space.
    Raises OpenRSError, NodeAway and LogGone."""


@dataclass(frozen=True)
class JobInfo:
    """What the scheduler says of a handle."""

    state: JobState
    reason: str = ""
    """The scheduler's own words, for a person."""
    tasks: dict[int, JobState] = field(default_factory=dict)
    """Array index → state; empty for a single job."""
    step: int | None = None
    """Newest training step that the scheduler's side knows of, where the client does not see the run directory."""
    attempts: int | None = None
    """Starts, likewise."""
    saved: int | None = None
    """Newest step whose checkpoint is complete, likewise."""


class Engine(Protocol):
    """A scheduler. `cluster` says how this one wants to be asked."""

    cluster: Cluster

    def render(self, experiment: Spec, plan: Plan, place: Place) -> Artifacts:
        """The artefacts of `plan`. Pure: same input, same bytes, nothing touched. Raises BadInput."""

    def submit(self, artifacts: Artifacts) -> dict[str, str]:
        """Sends every stage; stage name → handle. All or none. The files are on disk by then.

        Raises OpenRSError or BadInput with the scheduler's refusal in one line and the option to change.
        """

    def inspect(self, jobs: list[Job]) -> dict[str, JobInfo]:
        """Handle → what the scheduler says of it, by one query for all. Raises OpenRSError where nothing answers."""

    def cancel(self, jobs: list[Job], grace: int) -> None:
        """Asks the jobs to stop, waits up to `grace` seconds for their saves, then removes them.

        The caller has written the cancel marker before, so nobody requeues them. Raises StillStopping where they are removed
        but go on, and OpenRSError where they may not be removed.
        """


@runtime_checkable
class RemoteEngine(Engine, Protocol):
    """A scheduler whose run directories stand where the client cannot look."""

    def logs(self, jobs: list[Job]) -> list[PodLog]:
        """What the jobs' containers printed and the cluster still holds, oldest attempt first."""

    def pull(self, place: Place, target: Path) -> int:
        """Copies everything but checkpoints of the run directory below `target`; how many files."""

    def release(self, jobs: list[Job]) -> list[str]:
        """Lets go what waits for training and may begin; their handles."""

    def retire(self, jobs: list[Job]) -> None:
        """Removes what of these is left unfinished, without waiting for it."""

    def changes(self, artifacts: Artifacts) -> dict[str, tuple[str, str]]:
        """File name → (what the server has, what it would have), as text, for what differs."""


_ENGINES = {
    "local": ("openrs.engines.local", "LocalEngine"),
    "slurm": ("openrs.engines.slurm", "SlurmEngine"),
    "kubernetes": ("openrs.engines.kubernetes", "KubernetesEngine"),
}


def engine_for(cluster: Cluster) -> Engine:
    """The engine of a cluster profile."""
    module, name = _ENGINES[cluster.engine]
    engine: Engine = getattr(importlib.import_module(module), name)(cluster)
    return engine


def is_remote(cluster: Cluster) -> bool:
    """Whether the client does not see the run directories of this cluster."""
    return isinstance(engine_for(cluster), RemoteEngine)


def stage_file(experiment: Spec, plan: Plan, stage: Stage, place: Place, cluster: Cluster) -> StageFile:
    """What the jobs of `stage` are told, the same on every engine."""
    recovery = experiment.recovery
    return StageFile(
        run=place.run,
        submission=place.submission,
        stage=stage.name,
        kind=stage.kind,
        experiment=plan.experiment,
        experiment_hash=plan.hash,
        run_dir=str(place.directory),
        cells_file=f"submission/{place.submission}/{stage.name}/cells.json" if stage.tasks is not None else None,
        processes=stage.processes,
        gpus=stage.resources.gpus,
        environment=stage.environment,
        secrets=experiment.secrets,
        steps=plan.steps,
        wall_seconds=stage.resources.minutes * 60,
        grace_seconds=recovery.grace_seconds,
        max_attempts=recovery.max_attempts,
        node_fault_retries=recovery.node_fault_retries,
        lease_seconds=cluster.lease_seconds,
    )


def check_setup(cluster: Cluster) -> None:
    """Raises BadInput for setup lines that are not whole shell commands: they would swallow what follows them."""
    lines, where = cluster.setup, f"cluster {cluster.name}: setup"
    if not lines:
        return
    if lines[-1].endswith("\\"):
        raise BadInput(f"{where}: {lines[-1]!r} ends in a backslash, which would swallow the line after it")
    checked = subprocess.run(["bash", "-n"], input="\n".join(lines) + "\n", capture_output=True, text=True, check=False)
    if checked.returncode or checked.stderr:
        words = checked.stderr.strip().splitlines()
        raise BadInput(
            f"{where}: not valid shell ({words[0].removeprefix('bash: ') if words else 'bash -n refuses it'})"
        )


def common_files(experiment: Spec, plan: Plan, place: Place, cluster: Cluster) -> dict[str, str]:
    """The artefacts that every engine sends: the spec, and each stage's `stage.json` and `cells.json`."""
    files = {"spec.json": pretty(experiment)}
    for stage in plan.stages:
        files[f"{stage.name}/stage.json"] = pretty(stage_file(experiment, plan, stage, place, cluster))
        if stage.tasks is not None:
            files[f"{stage.name}/cells.json"] = _cells_text(plan.hash, stage.tasks)
    return files


def _cells_text(digest: str, tasks: list[list[Cell]]) -> str:
    """A `CellsFile`, one task a line, for people's eyes."""
    head, _, tail = canonical(CellsFile(experiment_hash=digest, tasks=[])).partition("[]")
    lines = ",\n".join("  " + json.dumps([cell.model_dump() for cell in task]) for task in tasks)
    return f"{head}[\n{lines}\n]{tail}\n"
