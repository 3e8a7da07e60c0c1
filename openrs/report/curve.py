"""The learning curve of a run as a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openrs.report.measure import Measured
from openrs.runs.files import mapping, number, read_lines, whole, write_atomic

SCORED, TREND = "#9db8d2", "#1f4e79"
HELD_OUT = ("#c8501e", "#3a7d44", "#7b4fa3", "#a08000", "#444444")


def draw(directory: Path, results: Sequence[Measured]) -> Path | None:
    """Writes `report/reward.png` from `metrics.jsonl` and the results; None where no step has been trained."""
    # A step that was repeated after a crash has several lines: the last one is the one that counted.
    steps = {
        line["step"]: line
        for line in read_lines(directory / "metrics.jsonl")
        if whole(line, "step") is not None and number(line, "reward") is not None
    }
    if not steps:
        return None
    import matplotlib

    lines = [steps[step] for step in sorted(steps)]
    with matplotlib.rc_context({"text.parse_math": False}):
        picture = _png(directory.name, lines, results)
    target = directory / "report" / "reward.png"
    target.parent.mkdir(exist_ok=True)
    write_atomic(target, picture)
    return target


def moving_average(values: Sequence[float], window: int) -> list[float]:
    """Mean of each value and its neighbours, `window` in all where they exist: centred, so that it does not lag."""
    half = window // 2
    parts = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return [sum(part) / len(part) for part in parts]


def _png(title: str, lines: list[dict[str, Any]], results: Sequence[Measured]) -> bytes:
    from matplotlib.figure import Figure

    with_accuracy = [line for line in lines if number(mapping(line, "rewards"), "accuracy") is not None]
    panels = 2 if with_accuracy or results else 1
    window = max(1, min(25, len(lines) // 8) // 2 * 2 + 1)
    figure = Figure(figsize=(7.5, 2.9 * panels + 0.4), layout="constrained", dpi=130)
    axes = figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0]
    axes[0].set_title(title)
    _series(axes[0], lines, [float(line["reward"]) for line in lines], window, "mean reward of a step")
    axes[0].set_ylabel("reward")
    if panels == 2:
        if with_accuracy:
            _series(
                axes[1],
                with_accuracy,
                [float(line["rewards"]["accuracy"]) for line in with_accuracy],
                window,
                "training problems, one step",
            )
        kinds = dict.fromkeys(result.alike for result in results)
        for color, alike in zip(HELD_OUT, kinds, strict=False):
            found = [result for result in results if result.alike == alike]
            errors = [
                [max(0.0, result.mean - result.new.low) for result in found],
                [max(0.0, result.new.high - result.mean) for result in found],
            ]
            axes[1].errorbar(
                [result.step or 0 for result in found],
                [result.mean for result in found],
                yerr=errors,
                fmt="o",
                color=color,
                capsize=3,
                label=f"{alike.title(kinds)}, 95 % interval",
            )
        axes[1].set_ylabel("accuracy")
        axes[1].set_ylim(-0.02, 1.02)
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.legend(loc="lower right", fontsize="small")
    axes[-1].set_xlabel("step")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _series(axis: Any, lines: list[dict[str, Any]], values: list[float], window: int, label: str) -> None:
    steps = [line["step"] for line in lines]
    axis.plot(steps, values, color=SCORED, linewidth=1, marker=".", markersize=4, label=label)
    if window > 1:
        axis.plot(
            steps, moving_average(values, window), color=TREND, linewidth=2, label=f"moving average of {window} steps"
        )
