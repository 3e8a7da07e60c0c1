"""Experiment + Cluster → Plan: what will run, where, with what. Pure; the same for all engines; imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Literal

from openrs.data.load import data_of, from_hub
from openrs.spec.base import Strict
from openrs.spec.canonical import sha256
from openrs.spec.cluster import Cluster
from openrs.spec.evaluation import Benchmark
from openrs.spec.experiment import Experiment, Spec
from openrs.spec.parts import Model, Resources
from openrs.stage import Cell, Process

CELL_RUNNER = {"sampled": "sampled-2", "lighteval": "lighteval-1"}
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


def asked_minutes(spec: Spec, stage: Stage) -> int:
    """What the spec asks for a task; where the cluster grants less, the task goes on in the next attempt."""
    if stage.kind == "train" and isinstance(spec, Experiment):
        return spec.resources.minutes
    return spec.evaluation.resources.minutes


def gpu_hours(spec: Spec, stage: Stage) -> float:
    """Of a stage each of whose tasks uses once what the spec asks for."""
    return len(stage.tasks or [[]]) * stage.resources.gpus * asked_minutes(spec, stage) / 60


def model_id(model: Model) -> str:
    """Checkpoint id of a model as it is: `rev-` and 12 hex digits of its commit, or of a hash over its name."""
    if model.type == "hub" and len(model.revision) == 40 and set(model.revision) <= set("0123456789abcdef"):
        return f"rev-{model.revision[:12]}"
    return "rev-" + sha256(model).removeprefix("sha256:")[:12]


def checkpoint_id(step: int) -> str:
    """Checkpoint id of a training step."""
    return f"step-{step:06d}"


def settings_hash(spec: Spec, benchmark: Benchmark) -> str:
    """12 hex digits over all that decides a cell's result beside checkpoint, benchmark name and seed."""
    what = benchmark.model_dump(mode="json", exclude={"name", "seeds", "full_seeds", "minutes"})
    if benchmark.data.type == "jsonl" and benchmark.data.sha256:
        del what["data"]["path"]  # the same problems in another place are the same problems
    content = {
        "runner": CELL_RUNNER[spec.evaluation.runner],
        "benchmark": what,
        "dtype": spec.model.dtype,
        "attention": spec.model.attention,
    }
    return sha256(content).removeprefix("sha256:")[:12]


def cells(
    spec: Spec, steps: Sequence[int | None], *, full: bool = False, seeds: Sequence[int] | None = None
) -> list[Cell]:
    """Every cell of these checkpoints (`None` is each model as it is), checkpoint by checkpoint, benchmark by benchmark.

    With the seeds of each benchmark's full protocol or of its short one, or with these `seeds`.
    """
    subjects = [
        (identity, step)
        for step in steps
        for identity in ([checkpoint_id(step)] if step is not None else map(model_id, spec.models))
    ]
    settings = {benchmark.name: settings_hash(spec, benchmark) for benchmark in spec.evaluation.benchmarks}
    return [
        Cell(checkpoint=identity, step=step, benchmark=benchmark.name, seed=seed, settings=settings[benchmark.name])
        for identity, step in subjects
        for benchmark in spec.evaluation.benchmarks
        for seed in (benchmark.protocol(full) if seeds is None else seeds)
    ]


def base_cells(spec: Spec) -> list[Cell]:
    """The cells of the base model, or of the models of a run that only evaluates: the full protocol."""
    return cells(spec, [None] if spec.evaluation.base else [], full=True)


def current_cell(spec: Spec, cell: Cell) -> Cell | None:
    """The cell as it would be sent now, whose settings may have another hash; None where the spec lacks its benchmark."""
    found = next((one for one in spec.evaluation.benchmarks if one.name == cell.benchmark), None)
    return None if found is None else cell.model_copy(update={"settings": settings_hash(spec, found)})


def make_plan(spec: Spec, cluster: Cluster, *, hold_steps: bool = False) -> Plan:
    """The plan of a whole run: the base model's cells, training, the checkpoints' cells unless they are held back."""
    stages = cell_stages("base", base_cells(spec), [], spec, cluster)
    if isinstance(spec, Experiment):
        steps = [] if hold_steps else sorted(spec.evaluation.at_steps)
        stages += [
            train_stage(spec, cluster),
            *cell_stages("eval", cells(spec, steps), ["train"], spec, cluster),
        ]
    return assemble(spec, cluster, stages)


def assemble(spec: Spec, cluster: Cluster, stages: list[Stage]) -> Plan:
    """A plan of just these stages, as `resume` sends them."""
    names = {stage.name for stage in stages}
    stages = [stage.model_copy(update={"after": [name for name in stage.after if name in names]}) for stage in stages]
    completions, per_rank = 0, 0
    if isinstance(spec, Experiment):
        completions = spec.training.prompts_per_step * spec.training.completions_per_prompt
        per_rank = spec.completions_per_rank
    return Plan(
        experiment=spec.name,
        hash=sha256(spec),
        cluster=cluster.name,
        engine=cluster.engine,
        steps=spec.steps,
        completions_per_step=completions,
        completions_per_rank=per_rank,
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


def cell_stages(name: str, wanted: list[Cell], after: list[str], spec: Spec, cluster: Cluster) -> list[Stage]:
    """Arrays over `wanted`: batches of `cells_per_task`, cut into pieces of at most `array_limit` tasks.

    A checkpoint's cells go into as few tasks as they can: each has to load it.
    """
    tasks: list[list[Cell]] = []
    for _, found in groupby(wanted, key=lambda cell: cell.checkpoint):
        group = list(found)
        for start in range(0, len(group), cluster.cells_per_task):
            batch = group[start : start + cluster.cells_per_task]
            if start == 0 and tasks and len(tasks[-1]) + len(group) <= cluster.cells_per_task:
                tasks[-1] += batch
            else:
                tasks.append(batch)
    pieces = [tasks[start : start + cluster.array_limit] for start in range(0, len(tasks), cluster.array_limit)]
    resources = spec.evaluation.resources
    gpus = list(range(resources.gpus))
    return [
        Stage(
            name=name if len(pieces) == 1 else f"{name}-{number}",
            kind="cells",
            resources=_granted(resources, cluster),
            processes=[Process(role="cell", world=max(1, len(gpus)), gpus=gpus)],
            environment=_environment(spec, cluster),
            mounts=_mounts(spec, cluster),
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
            "gpu_type": (cluster.gpu_types.get(gpu_type, gpu_type) or None) if gpu_type else None,
            "minutes": min(resources.minutes, cluster.max_minutes or resources.minutes),
        }
    )


def _environment(spec: Spec, cluster: Cluster) -> dict[str, str]:
    """Of every process; where `openrs fetch` fills the cache, the jobs do not ask the Hub."""
    fetched = cluster.engine != "kubernetes" and from_hub(spec)
    return {**({"HF_HUB_OFFLINE": "1"} if fetched else {}), **cluster.environment, **spec.environment}


def _mounts(spec: Spec, cluster: Cluster) -> list[str]:
    local = [*spec.models, *data_of(spec)]
    paths = {item.path for item in local if (item.type == "path" or item.type == "jsonl") and item.path.startswith("/")}
    return sorted(paths | ({cluster.shared_root} if cluster.shared_root else set()))
