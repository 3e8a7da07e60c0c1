"""`openrs plan`: resources, stages, steps, time and money."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from openrs.cli.options import ClusterName, ExperimentName, Json, Overrides

if TYPE_CHECKING:
    from openrs.outlook import Outlook
    from openrs.plan import Plan, Stage
    from openrs.spec.cluster import Cluster
    from openrs.spec.experiment import Spec
    from openrs.spec.parts import Resources


def command(exp: ExperimentName, cluster: ClusterName, overrides: Overrides = None, json: Json = False) -> None:
    """Stages, resources, steps, and the most they can cost."""
    from openrs.cli.output import print_json
    from openrs.outlook import outlook
    from openrs.plan import gpu_hours, make_plan
    from openrs.report.text import table
    from openrs.spec.load import load_cluster, load_experiment

    profile = load_cluster(cluster)
    spec = load_experiment(exp, overrides)
    plan, sights = make_plan(spec, profile), outlook(spec)
    training = estimates(spec, profile)
    bound = cost(plan, profile, spec, training)
    if json:
        sections = {"cost": bound, "estimate": training, "evaluation": sights.model_dump(mode="json")}
        print_json({**plan.model_dump(mode="json"), **sections})
        return
    print(f"{plan.experiment} on {plan.cluster} ({plan.engine}), {plan.hash}")
    print(
        f"{plan.steps} steps of {plan.completions_per_step} completions, {plan.completions_per_rank} on each training rank"
    )
    print()
    rows = [
        (
            stage.name,
            1 if stage.tasks is None else len(stage.tasks),
            "-" if stage.tasks is None else sum(map(len, stage.tasks)),
            gpus(stage.resources),
            stage.resources.cpus,
            stage.resources.memory_gb,
            wall(stage.resources.minutes),
            ", ".join(stage.after) or "-",
            f"{gpu_hours(spec, stage):g}",
        )
        for stage in plan.stages
    ]
    print(
        table(
            ("STAGE", "TASKS", "CELLS", "GPUS", "CPUS", "GIB", "WALL", "AFTER", "GPU-HOURS"),
            rows,
            right=(1, 2, 4, 5, 6, 8),
        )
    )
    print()
    if training is not None:
        print(_estimates(training))
        print()
    for line in bound["modelled"]:
        print(line)
    if bound["gpu_hours"]:
        most = "at most " if bound["upper_bound"] else ""
        print(f"{most}{bound['gpu_hours']:g} GPU-hours{_dollars(bound, profile)}: {bound['basis']}")
    else:
        print("no GPU")
    for line in evaluation_lines(sights):
        print(line)


def evaluation_lines(sights: Outlook) -> Iterator[str]:
    """What the evaluation takes, and the least gain that each benchmark's seeds can show."""
    from openrs.report.text import table

    if not sights.benchmarks:
        return
    yield ""
    if sights.gpu_hours is not None:
        yield (
            f"evaluation: about {sights.gpu_hours:g} GPU-hours as sent; {sights.full_gpu_hours:g} with the full protocol on all "
            f"{sights.checkpoints} checkpoints, {sights.one_full_gpu_hours:g} for one more (modelled, one A40-class GPU a cell)"
        )
    rows = [
        (
            one.benchmark,
            "-" if one.problems is None else one.problems,
            "-" if one.deviation is None else f"{one.deviation:.1f}{'' if one.published else ' at most'}",
            _sees(one.seeds, one.sees),
            _sees(one.full_seeds, one.full_sees),
        )
        for one in sights.benchmarks
    ]
    head = ("BENCHMARK", "PROBLEMS", "SD OF A SEED", "A CHECKPOINT AS SENT", "BY THE FULL PROTOCOL")
    yield table(head, rows, right=(1, 2))
    yield "least true gain over the base model that is seen four times out of five, in points, on these problems"


def _sees(seeds: int, gain: float | None) -> str:
    count = f"{seeds} seed{'' if seeds == 1 else 's'}"
    return (
        f"{count}: the noise is not known" if gain is None else f"{count} see{'s' if seeds == 1 else ''} ≥ {gain:.1f}"
    )


def estimates(spec: Spec, cluster: Cluster) -> dict[str, Any] | None:
    """Memory of a training rank and modelled seconds of a step; None without GPUs or training, or for an unknown model."""
    from openrs.estimate.memory import memory_plan
    from openrs.estimate.shape import shape_of
    from openrs.estimate.speed import ASSUMPTIONS, gpu_of, steps
    from openrs.spec.experiment import Experiment

    if not isinstance(spec, Experiment) or not spec.resources.gpus or (shape := shape_of(spec.model)) is None:
        return None
    experiment = spec
    memory, gpu = memory_plan(experiment, shape), gpu_of(experiment.resources.gpu_type)
    hours = experiment.training.steps * experiment.resources.gpus / 3600
    layout = experiment.generation.layout if experiment.generation.type == "vllm" else None
    price = cluster.price_per_gpu_hour
    found = steps(experiment, shape, gpu) if gpu else []
    own = [step.total for step in found if layout and step.layout == layout]
    modelled = [
        {
            "name": step.name,
            "generation": round(step.generation, 1),
            "learning": round(step.learning, 1),
            "step": round(step.total, 1),
            "gpu_hours": round(step.total * hours, 1),
            "dollars": None if price is None else round(step.total * hours * price, 2),
        }
        for step in found
    ]
    return {
        "memory_gib": {
            "training": {name: round(part, 2) for name, part in memory.training.items()},
            "generation": {name: round(part, 2) for name, part in memory.generation.items()},
            "most": round(memory.total, 1),
            "gpu": gpu.memory if gpu else None,
        },
        "steps": modelled,
        "minutes": round(own[0] * experiment.training.steps / 60, 1) if own else None,
        "assumptions": ASSUMPTIONS,
    }


def _estimates(found: dict[str, Any]) -> str:
    from openrs.report.text import table

    memory = found["memory_gib"]
    parts = dict.fromkeys([*memory["training"], *memory["generation"]])
    rows: list[tuple[object, ...]] = [
        (
            name,
            *(f"{memory[phase][name]:.1f}" if name in memory[phase] else "-" for phase in ("training", "generation")),
        )
        for name in parts
    ]
    sums = [sum(memory[phase].values()) for phase in ("training", "generation")]
    rows.append(("sum", *(f"{total:.1f}" for total in sums)))
    lines = [table(("MEMORY OF A TRAINING RANK, GIB", "TRAINING", "GENERATION"), rows, right=(1, 2))]
    if memory["gpu"] is not None:
        spare = memory["gpu"] - memory["most"]
        verdict = f"{spare:.1f} to spare" if spare >= 0 else f"{-spare:.1f} too much"
        lines.append(f"of a GPU's {memory['gpu']:g} GiB: {verdict}")
    if found["steps"]:
        rows = [
            (
                step["name"],
                f"{step['generation']:.0f}",
                f"{step['learning']:.0f}",
                f"{step['step']:.0f}",
                f"{step['gpu_hours']:.0f}",
                "-" if step["dollars"] is None else f"{step['dollars']:.2f}",
            )
            for step in found["steps"]
        ]
        header = ("MODELLED STEP, SECONDS", "GENERATION", "LEARNING", "STEP", "GPU-HOURS", "DOLLARS")
        lines += ["", table(header, rows, right=range(1, 6)), f"assumed: {found['assumptions']}"]
    return "\n".join(lines)


def _dollars(bound: dict[str, Any], cluster: Cluster) -> str:
    if bound["dollars"] is None:
        return f" (cluster {cluster.name} has no price_per_gpu_hour)"
    return f", ${bound['dollars']:,.2f} at ${cluster.price_per_gpu_hour:g} a GPU-hour"


def cost(plan: Plan, cluster: Cluster, spec: Spec, training: dict[str, Any] | None) -> dict[str, Any]:
    """What every job takes that uses once the time it is asked for with, whatever part of that the cluster grants at a time.

    An upper bound unless a job is modelled at more; not an estimate of what it will take.
    """
    from openrs.plan import asked_minutes, gpu_hours

    hours = sum(gpu_hours(spec, stage) for stage in plan.stages)
    price = cluster.price_per_gpu_hour
    longest = {stage.name: _longest(stage, spec, training) for stage in plan.stages}
    over = [stage.name for stage in plan.stages if longest[stage.name] > asked_minutes(spec, stage)]
    cut = any(stage.resources.minutes < asked_minutes(spec, stage) for stage in plan.stages)
    used = (
        "uses all the time that the experiment asks for once" if cut or over else "uses all of its requested time once"
    )
    basis = f"an upper bound, if every job {used}; further attempts come on top"
    if cut:
        basis = f"an upper bound, if every job {used}, in as many attempts as that takes here; what they repeat comes on top"
    if over:
        basis = f"if every job {used}, which is no upper bound: {', '.join(over)} would need more by the model"
    lines: dict[str, list[str]] = {}
    for stage in plan.stages:
        need, granted = longest[stage.name], stage.resources.minutes
        if need > granted:
            task = "" if stage.tasks is None else "the longest task "
            attempts = f"{task}modelled at {need / 60:.1f} h, an attempt may take {wall(granted)}"
            lines.setdefault(f"{attempts}: about {math.ceil(need / granted)} attempts", []).append(stage.name)
    return {
        "gpu_hours": hours,
        "price_per_gpu_hour": price,
        "dollars": None if price is None else round(hours * price, 2),
        "upper_bound": not over,
        "basis": basis,
        "modelled": [f"{', '.join(names)}: {line}" for line, names in lines.items()],
    }


def _longest(stage: Stage, spec: Spec, training: dict[str, Any] | None) -> float:
    """Modelled minutes of the stage's longest task; 0 where nothing is modelled."""
    if stage.tasks is None:
        return float((training or {}).get("minutes") or 0)
    if not stage.resources.gpus:
        return 0.0
    minutes = {benchmark.name: benchmark.minutes or 0.0 for benchmark in spec.evaluation.benchmarks}
    return max(sum(minutes[cell.benchmark] for cell in task) for task in stage.tasks)


def gpus(resources: Resources) -> str:
    """`4×a40`, or `-` without GPUs."""
    if not resources.gpus:
        return "-"
    return f"{resources.gpus}×{resources.gpu_type or 'GPU'}"


def wall(minutes: int) -> str:
    """`24:00`, hours and minutes."""
    return f"{minutes // 60}:{minutes % 60:02d}"
