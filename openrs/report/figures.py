"""The figures of a report. Each answers one question, and its text alternative gives the answer in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from openrs.report.curve import moving_average
from openrs.report.history import CURVES, Attempt, History
from openrs.report.measure import Measured
from openrs.report.published import published
from openrs.report.svg import INK, MUTED, PAPER, SERIES, axes, render
from openrs.report.text import duration
from openrs.report.verdict import points

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Drawn:
    """A figure in the page."""

    title: str
    svg: str
    caption: str


def _range(axis: Axes, lows: Sequence[float], highs: Sequence[float]) -> None:
    low, high = min(lows), max(highs)
    room = max(2.0, 0.06 * (high - low))
    axis.set_ylim(max(-1.5, low - room), min(101.5, high + room))


def steps(rows: Sequence[Measured], base: Sequence[Measured], title: str, name: str) -> Drawn:
    """Score against step, with intervals; the base model as a band."""
    names = list(dict.fromkeys(row.series for row in rows))
    with axes(2.5) as (figure, axis):
        lows, highs = [], []
        for row in base[:1]:
            low, high = 100 * row.new.low, 100 * row.new.high
            axis.axhspan(low, high, color=MUTED, alpha=0.16, linewidth=0)
            axis.axhline(100 * row.mean, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="base model")
            lows, highs = [low], [high]
        spread = 0.012 * (max(row.step or 0 for row in rows) - min(row.step or 0 for row in rows) or 10)
        for number, series in enumerate(names):
            color = SERIES[number % len(SERIES)]
            part = [row for row in rows if row.series == series]
            at = [(row.step or 0) + spread * (number - (len(names) - 1) / 2) for row in part]
            new = [100 * row.new.low for row in part], [100 * row.new.high for row in part]
            axis.vlines(at, *new, color=color, linewidth=1, alpha=0.55)
            sure = [
                (x, 100 * row.these.low, 100 * row.these.high)
                for x, row in zip(at, part, strict=True)
                if not row.these.conservative
            ]
            if sure:
                axis.vlines(*zip(*sure, strict=True), color=color, linewidth=3, alpha=0.8)
            axis.plot(at, [100 * row.mean for row in part], "o-", color=color, markersize=4, linewidth=1, label=series)
            lows += new[0]
            highs += new[1]
        _range(axis, lows, highs)
        axis.set_xlabel("training step")
        axis.grid(axis="x", visible=False)
        if len(names) > 1 or base:
            axis.legend(
                loc="lower left",
                ncols=4,
                bbox_to_anchor=(-0.02, 0.98),
                handlelength=1.4,
                columnspacing=1.2,
                borderaxespad=0,
            )
            figure.set_figheight(2.6)
            axis.set_position((0.105, 0.17, 0.87, 0.74))
        said = "; ".join(f"{row.name} {points(row.mean)}" for row in rows)
        svg = render(figure, name, f"{title} in percent against training step: {said}.")
    seeds = sorted({len(row.seeds) for row in rows})
    caption = f"{rows[0].problems} problems, {_count(seeds)} a checkpoint. Thin: 95 % for new problems like these."
    if any(not row.these.conservative for row in rows):
        caption += " Thick: 95 % for other seeds on these problems."
    return Drawn(f"{title}, %", svg, caption)


def _count(seeds: Sequence[int]) -> str:
    text = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    return f"{text} seed{'' if list(seeds) == [1] else 's'}"


def seeds(rows: Sequence[tuple[str, Measured]], name: str) -> Drawn:
    """One dot a seed, the mean and both intervals."""
    first = rows[0][1]
    height = 0.62 + 0.46 * len(rows)
    with axes(height, left=0.12, top=0.05) as (figure, axis):
        for number, (label, row) in enumerate(rows):
            y, color = -number, SERIES[number % len(SERIES)]
            jitter = np.linspace(-0.12, 0.12, len(row.scores)) if len(row.scores) > 1 else [0.0]
            axis.plot([100 * row.new.low, 100 * row.new.high], [y, y], color=color, linewidth=1, alpha=0.6)
            if not row.these.conservative:
                axis.plot(
                    [100 * row.these.low, 100 * row.these.high],
                    [y, y],
                    color=color,
                    linewidth=4,
                    alpha=0.6,
                    solid_capstyle="butt",
                )
            axis.plot(
                [100 * s for s in row.scores],
                [y + j for j in jitter],
                "o",
                color=color,
                markersize=4,
                alpha=0.5,
                markeredgewidth=0,
            )
            axis.plot([100 * row.mean], [y], "|", color=INK, markersize=14, markeredgewidth=2)
            axis.text(0.0, y + 0.27, label, transform=axis.get_yaxis_transform(), fontsize=9, color=INK)
        axis.set_yticks([])
        axis.set_ylim(-len(rows) + 0.55, 0.6)
        axis.spines["left"].set_visible(False)
        axis.grid(axis="y", visible=False)
        axis.set_xlabel("percent right")
        said = "; ".join(f"{label}: {points(row.mean)} over {_count([len(row.seeds)])}" for label, row in rows)
        svg = render(figure, name, f"{first.title}, each seed as a dot: {said}.")
    return Drawn(f"{first.title}: every seed", svg, "A dot a seed; the bar is the mean, the lines are the intervals.")


def curves(history: History, name: str) -> list[Drawn]:
    """Reward, length, KL, entropy against step."""
    drawn = []
    for key, title in CURVES.items():
        if key not in history.curves:
            continue
        at, values = history.curves[key]
        window = max(1, min(25, len(values) // 8) // 2 * 2 + 1)
        with axes(1.9, left=0.64) as (figure, axis):
            axis.plot(at, values, color=SERIES[0], linewidth=0.9, alpha=0.45 if window > 1 else 1.0)
            if window > 1:
                axis.plot(at, moving_average(values, window), color=SERIES[0], linewidth=2)
            axis.set_xlabel("training step")
            axis.grid(axis="x", visible=False)
            alternative = f"{title}: {values[0]:.3g} at step {at[0]}, {values[-1]:.3g} at step {at[-1]}."
            svg = render(figure, f"{name}-{key}", alternative)
        caption = f"Thick: moving average of {window} steps." if window > 1 else ""
        drawn.append(Drawn(title, svg, caption))
    return drawn


def costs(label: str, dollars: float | None, hours: float, name: str) -> Drawn:
    """Dollars of training beside those of the paper's figure."""
    content = published()["costs"]
    paper = SERIES[1] if dollars is None else MUTED  # the paper's own bar stands out where there is none of ours
    rows = [
        (row["model"], float(row["dollars"]), paper if row["model"] == "Open-RS" else MUTED) for row in content["rows"]
    ]
    if dollars is not None:
        rows.append((label, dollars, SERIES[1]))
    rows.sort(key=lambda row: -row[1])
    with axes(0.3 + 0.36 * len(rows), left=1.72, right=0.55, bottom=0.08, top=0.05) as (figure, axis):
        for number, (_, value, color) in enumerate(rows):
            axis.barh(-number, value, height=0.62, color=color, alpha=0.9 if color != MUTED else 0.55)
            text = f"${value:,.0f}" if value >= 10 else f"${value:,.2f}"
            axis.annotate(
                text, (value, -number), (4, 0), textcoords="offset points", va="center", fontsize=9, color=INK
            )
        axis.set_yticks([-number for number in range(len(rows))], [row[0] for row in rows], fontsize=9)
        axis.tick_params(axis="y", labelcolor=INK)
        axis.set_xticks([])
        axis.grid(visible=False)
        axis.spines["bottom"].set_visible(False)
        said = "; ".join(f"{model} ${value:,.2f}" for model, value, _ in rows)
        svg = render(figure, name, f"Cost of training in dollars: {said}.")
    source = f"Source: {content['source']}."
    if dollars is not None:
        source = f"This run: {hours:.2f} GPU-hours of all its attempts. The others: {content['source']}."
    return Drawn("What training cost", svg, source)


def timeline(attempts: Sequence[Attempt], name: str) -> Drawn:
    """Every attempt of every stage from its start to its end."""
    stages = list(dict.fromkeys(attempt.stage for attempt in attempts))
    start = min(attempt.start for attempt in attempts)
    total = max(attempt.end for attempt in attempts) - start or 1.0
    unit, word = (3600.0, "hours") if total > 7200 else (60.0, "minutes") if total > 300 else (1.0, "seconds")
    with axes(0.55 + 0.42 * len(stages), left=0.72, top=0.05) as (figure, axis):
        for attempt in attempts:
            y = -stages.index(attempt.stage)
            width = max((attempt.end - attempt.start) / unit, total / unit / 300)
            good = attempt.reason == "done"
            color = SERIES[0] if good else SERIES[1]
            axis.barh(
                y,
                width,
                left=(attempt.start - start) / unit,
                height=0.55,
                color=color,
                alpha=0.85,
                edgecolor=PAPER,
                linewidth=0.8,
            )
        axis.set_yticks([-i for i in range(len(stages))], stages, fontsize=9)
        axis.tick_params(axis="y", labelcolor=INK)
        axis.set_ylim(-len(stages) + 0.45, 0.55)
        axis.set_xlabel(f"{word} since the first start")
        axis.grid(axis="y", visible=False)
        said = "; ".join(
            f"{a.stage} attempt {a.number}, {duration(a.end - a.start)}, {a.reason}" for a in list(attempts)[:12]
        )
        svg = render(figure, name, f"Attempts on a timeline: {said}.")
    return Drawn("Attempts", svg, "Blue: ended as it should; orange: interrupted, failed, or without a recorded end.")


@dataclass(frozen=True)
class Row:
    """A line of `forest`."""

    label: str
    value: float
    low: float | None
    high: float | None
    kind: int
    """Which colour."""
    hollow: bool = False


def forest(rows: Sequence[Row], name: str, title: str, caption: str) -> Drawn:
    """Values with intervals, one below the other."""
    height = 0.5 + 0.44 * len(rows)
    with axes(height, left=0.12, top=0.05) as (figure, axis):
        for number, row in enumerate(rows):
            y, color = -number, SERIES[row.kind]
            if row.low is not None and row.high is not None:
                axis.plot(
                    [100 * row.low, 100 * row.high],
                    [y, y],
                    color=color,
                    linewidth=2.2,
                    alpha=0.55,
                    solid_capstyle="round",
                )
            axis.plot(
                [100 * row.value],
                [y],
                "o",
                color=color,
                markersize=6,
                markerfacecolor=PAPER if row.hollow else color,
                markeredgewidth=1.6,
            )
            axis.text(0.0, y + 0.24, row.label, transform=axis.get_yaxis_transform(), fontsize=9, color=INK)
            axis.text(
                1.0,
                y + 0.24,
                points(row.value),
                transform=axis.get_yaxis_transform(),
                fontsize=9,
                color=INK,
                ha="right",
            )
        lows = [100 * (row.value if row.low is None else row.low) for row in rows]
        highs = [100 * (row.value if row.high is None else row.high) for row in rows]
        axis.set_xlim(max(0.0, min(lows) - 3), min(100.0, max(highs) + 3))
        axis.set_yticks([])
        axis.set_ylim(-len(rows) + 0.55, 0.6)
        axis.spines["left"].set_visible(False)
        axis.grid(axis="y", visible=False)
        axis.set_xlabel("percent right")
        said = "; ".join(
            f"{row.label}: {points(row.value)}"
            + (f" ({points(row.low)} to {points(row.high)})" if row.low is not None and row.high is not None else "")
            for row in rows
        )
        svg = render(figure, name, f"{title}: {said}.")
    return Drawn(title, svg, caption)
