"""`openrs plan`: resources, stages, steps, time and money."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from openrs.cli.options import ClusterName, ExperimentName, Json, Overrides

if TYPE_CHECKING:
    from openrs.outlook import Outlook
    from openrs.plan import Plan
    from openrs.spec.cluster import Cluster
    from openrs.spec.parts import Resources


def command(exp: ExperimentName, cluster: ClusterName, overrides: Overrides = None, json: Json = False) -> None:
    """Stages, resources, steps, and the most they can cost."""
    from openrs.cli.output import print_json
    from openrs.outlook import outlook
    from openrs.plan import make_plan
    from openrs.report.text import table
    from openrs.spec.load import load_cluster, load_experiment

    profile = load_cluster(cluster)
    spec = load_experiment(exp, overrides)
    plan, sights = make_plan(spec, profile), outlook(spec)
    bound = cost(plan, profile)
    if json:
        print_json({**plan.model_dump(mode="json"), "cost": bound, "evaluation": sights.model_dump(mode="json")})
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
            f"{stage.gpu_hours:g}",
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
    if bound["gpu_hours"]:
        print(f"at most {bound['gpu_hours']:g} GPU-hours{_dollars(bound, profile)}: {bound['basis']}")
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


def _dollars(bound: dict[str, Any], cluster: Cluster) -> str:
    if bound["dollars"] is None:
        return f" (cluster {cluster.name} has no price_per_gpu_hour)"
    return f", ${bound['dollars']:,.2f} at ${cluster.price_per_gpu_hour:g} a GPU-hour"


def cost(plan: Plan, cluster: Cluster) -> dict[str, Any]:
    """Upper bound of what one attempt of every job may take; not an estimate of what it will take."""
    hours = sum(stage.gpu_hours for stage in plan.stages)
    price = cluster.price_per_gpu_hour
    return {
        "gpu_hours": hours,
        "price_per_gpu_hour": price,
        "dollars": None if price is None else round(hours * price, 2),
        "upper_bound": True,
        "basis": "an upper bound, if every job uses all of its requested time once; further attempts come on top",
    }


def gpus(resources: Resources) -> str:
    """`4×a40`, or `-` without GPUs."""
    if not resources.gpus:
        return "-"
    return f"{resources.gpus}×{resources.gpu_type or 'GPU'}"


def wall(minutes: int) -> str:
    """`24:00`, hours and minutes."""
    return f"{minutes // 60}:{minutes % 60:02d}"
