"""Experiment + Cluster → Plan: what will run, where, with what. Pure; the same for all engines; imports no torch."""

from __future__ import annotations

from typing import Literal

from openrs.data.load import wanted
from openrs.spec.base import Strict
from openrs.spec.canonical import sha256
from openrs.spec.cluster import Cluster
from openrs.spec.experiment import Benchmark, Experiment, Resources
from openrs.stage import Cell, Process

CELL_RUNNER = "sampled-1"
"""Name and version of the code that evaluates a cell; part of the cell's key. Raise it when results change."""


class Stage(Strict):
    """One job or job array."""

    name: str
    kind: Literal["train", "cells"]
    resources: Resources
    """Of one task, with the GPU type in the scheduler's words."""
    processes: list[Process]
    environment: dict[str, str]
    mounts: list[str]
    """Directories of the cluster that the job must see."""
    after: list[str]
    """Stages that must have succeeded before this one starts."""
    tasks: list[list[Cell]] | None
    """Cells of each array task; none for training."""
    parallel: int
    """Most tasks at once."""

    @property
    def gpu_hours(self) -> float:
        """Most GPU-hours of one attempt of every task."""
        return len(self.tasks or [[]]) * self.resources.gpus * self.resources.minutes / 60


class Plan(Strict):
    """All stages of a run, in an order in which they may be sent."""

    experiment: str
    hash: str
    """Of the resolved experiment."""
    cluster: str
    engine: str
    steps: int
    completions_per_step: int
    completions_per_rank: int
    stages: list[Stage]


def base_id(experiment: Experiment) -> str:
    """Checkpoint id of the base model: `rev-` and 12 hex digits of its commit, or of a hash over its name."""
    model = experiment.model
    if model.type == "hub" and len(model.revision) == 40 and set(model.revision) <= set("0123456789abcdef"):
        return f"rev-{model.revision[:12]}"
    return "rev-" + sha256(model).removeprefix("sha256:")[:12]


def checkpoint_id(step: int) -> str:
    """Checkpoint id of a training step."""
    return f"step-{step:06d}"


def settings_hash(experiment: Experiment, benchmark: Benchmark) -> str:
    """12 hex digits over all that decides a cell's result beside checkpoint, benchmark name and seed."""
    model = experiment.model
    content = {
        "runner": CELL_RUNNER,
        "benchmark": benchmark.model_dump(mode="json", exclude={"name", "seeds"}),
        "dtype": model.dtype,
        "attention": model.attention,
    }
    return sha256(content).removeprefix("sha256:")[:12]


def cells(experiment: Experiment, steps: list[int | None]) -> list[Cell]:
    """Every cell of these checkpoints (`None` is the base model), checkpoint by checkpoint."""
    return [
        Cell(
            checkpoint=base_id(experiment) if step is None else checkpoint_id(step),
            step=step,
            benchmark=benchmark.name,
            seed=seed,
            settings=settings_hash(experiment, benchmark),
        )
        for step in steps
        for benchmark in experiment.evaluation.benchmarks
        for seed in benchmark.seeds
    ]


def make_plan(experiment: Experiment, cluster: Cluster) -> Plan:
    """The plan of a whole run: the base model's cells, training, the checkpoints' cells."""
    base: list[int | None] = [None] if experiment.evaluation.base else []
    steps: list[int | None] = [*sorted(experiment.evaluation.at_steps)]
    stages = [
        *cell_stages("base", cells(experiment, base), [], experiment, cluster),
        train_stage(experiment, cluster),
        *cell_stages("eval", cells(experiment, steps), ["train"], experiment, cluster),
    ]
    return assemble(experiment, cluster, stages)


def assemble(experiment: Experiment, cluster: Cluster, stages: list[Stage]) -> Plan:
    """A plan of just these stages, as `resume` sends them."""
    names = {stage.name for stage in stages}
    stages = [stage.model_copy(update={"after": [name for name in stage.after if name in names]}) for stage in stages]
    return Plan(
        experiment=experiment.name,
        hash=sha256(experiment),
        cluster=cluster.name,
        engine=cluster.engine,
        steps=experiment.training.steps,
        completions_per_step=experiment.training.prompts_per_step * experiment.training.completions_per_prompt,
        completions_per_rank=experiment.completions_per_rank,
        stages=stages,
    )


def train_stage(experiment: Experiment, cluster: Cluster) -> Stage:
    """The training job."""
    gpus = list(range(experiment.resources.gpus))
    ranks = experiment.trainer_ranks
    processes = [Process(role="trainer", world=ranks, gpus=gpus[:ranks])]
    if experiment.has_server:
        processes.append(Process(role="generation_server", world=1, gpus=gpus[ranks:]))
    return Stage(
        name="train",
        kind="train",
        resources=_granted(experiment.resources, cluster),
        processes=processes,
        environment=_environment(experiment, cluster),
        mounts=_mounts(experiment, cluster),
        after=[],
        tasks=None,
        parallel=1,
    )


def cell_stages(
    name: str, wanted: list[Cell], after: list[str], experiment: Experiment, cluster: Cluster
) -> list[Stage]:
    """Arrays over `wanted`: batches of `cells_per_task`, cut into pieces of at most `array_limit` tasks."""
    size = cluster.cells_per_task
    tasks = [wanted[start : start + size] for start in range(0, len(wanted), size)]
    pieces = [tasks[start : start + cluster.array_limit] for start in range(0, len(tasks), cluster.array_limit)]
    resources = experiment.evaluation.resources
    return [
        Stage(
            name=name if len(pieces) == 1 else f"{name}-{number}",
            kind="cells",
            resources=_granted(resources, cluster),
            processes=[Process(role="cell", world=1, gpus=list(range(resources.gpus)))],
            environment=_environment(experiment, cluster),
            mounts=_mounts(experiment, cluster),
            after=after,
            tasks=piece,
            parallel=min(len(piece), cluster.array_parallel),
        )
        for number, piece in enumerate(pieces, start=1)
    ]


def _granted(resources: Resources, cluster: Cluster) -> Resources:
    gpu_type = resources.gpu_type
    return resources.model_copy(
        update={
            "gpu_type": cluster.gpu_types.get(gpu_type, gpu_type) if gpu_type else None,
            "minutes": min(resources.minutes, cluster.max_minutes or resources.minutes),
        }
    )


def _environment(experiment: Experiment, cluster: Cluster) -> dict[str, str]:
    """Of every process; where `openrs fetch` fills the cache, the jobs do not ask the Hub."""
    fetched = cluster.engine != "kubernetes" and wanted(experiment)
    return {**({"HF_HUB_OFFLINE": "1"} if fetched else {}), **cluster.environment, **experiment.environment}


def _mounts(experiment: Experiment, cluster: Cluster) -> list[str]:
    local = [experiment.model, experiment.data, *(benchmark.data for benchmark in experiment.evaluation.benchmarks)]
    paths = {item.path for item in local if (item.type == "path" or item.type == "jsonl") and item.path.startswith("/")}
    return sorted(paths | ({cluster.shared_root} if cluster.shared_root else set()))
