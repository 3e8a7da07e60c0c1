"""What an evaluation will take and what it can show, before it is sent. Imports scipy, no torch."""

from __future__ import annotations

import math

from openrs.evaluation.statistics import minimal_detectable_gain
from openrs.report.published import seed_deviation
from openrs.spec.base import Strict
from openrs.spec.evaluation import Benchmark
from openrs.spec.experiment import Spec


class Sight(Strict):
    """What a benchmark's seeds can show."""

    benchmark: str
    problems: int | None
    seeds: int
    """Of each checkpoint, as it is sent."""
    full_seeds: int
    """Of the base model, and of a checkpoint by the full protocol."""
    deviation: float | None
    """Standard deviation of one seed's score, in points; None where the number of problems is not known."""
    published: bool
    """Whether others have measured it; else it is the largest that so many problems can have."""
    sees: float | None
    """The least true gain over the base model, in points, that a checkpoint shows four times out of five as it is sent."""
    full_sees: float | None
    """The same by the full protocol on both sides."""


class Outlook(Strict):
    """Hours and sights of an evaluation."""

    gpu_hours: float | None
    """About, of what is sent: the base model's full protocol, and the checkpoints. None where no benchmark says its minutes."""
    full_gpu_hours: float | None
    """About, if every checkpoint had the full protocol."""
    one_full_gpu_hours: float | None
    """About, of the full protocol of one checkpoint."""
    checkpoints: int
    benchmarks: list[Sight]


def outlook(spec: Spec) -> Outlook:
    """The outlook of a spec's evaluation. Its minutes are modelled, not measured, so its hours are a guide."""
    evaluation = spec.evaluation
    timed = [benchmark for benchmark in evaluation.benchmarks if benchmark.minutes is not None]
    known = evaluation.resources.gpus > 0 and len(timed) == len(evaluation.benchmarks) > 0

    def hours(full: bool) -> float:
        return sum((one.minutes or 0.0) * len(one.protocol(full)) for one in timed) / 60

    base = hours(True) * (len(spec.models) if evaluation.base else 0)
    steps = len(evaluation.at_steps)
    return Outlook(
        gpu_hours=round(base + steps * hours(False), 1) if known else None,
        full_gpu_hours=round(base + steps * hours(True), 1) if known else None,
        one_full_gpu_hours=round(hours(True), 1) if known else None,
        checkpoints=steps,
        benchmarks=[_sight(benchmark) for benchmark in evaluation.benchmarks],
    )


def _sight(benchmark: Benchmark) -> Sight:
    problems = benchmark.problems or (benchmark.data.count if benchmark.data.type == "sums" else benchmark.data.limit)
    measured = seed_deviation(benchmark.name)
    deviation = measured if measured is not None else (0.5 / math.sqrt(problems) if problems else None)
    seeds, full = len(benchmark.protocol(False)), len(benchmark.protocol(True))
    return Sight(
        benchmark=benchmark.name,
        problems=problems,
        seeds=seeds,
        full_seeds=full,
        deviation=None if deviation is None else round(100 * deviation, 2),
        published=measured is not None,
        sees=_points(deviation, seeds, full),
        full_sees=_points(deviation, full, full),
    )


def _points(deviation: float | None, seeds: int, baseline: int) -> float | None:
    """None where the deviation is not known. The report compares one seed a side by problem, and more seeds see no less."""
    if deviation is None:
        return None
    single = minimal_detectable_gain(deviation, 1, known=True)
    return round(100 * min(single, minimal_detectable_gain(deviation, seeds, baseline)), 1)
