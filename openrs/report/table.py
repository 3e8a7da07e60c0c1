"""The results of a run as a table: each checkpoint on each benchmark, with its noise."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openrs.evaluation.interval import wilson
from openrs.report.text import duration, printable, table

SAMPLE_LENGTH = 600
"""Characters of a sample completion that are shown."""


@dataclass(frozen=True)
class Result:
    """A checkpoint on a benchmark, over all seeds."""

    checkpoint: str
    step: int | None
    """Step of the checkpoint; none for the base model."""
    benchmark: str
    seeds: int
    n: int
    """Answers."""
    score: float
    low: float
    high: float
    """95 % interval."""
    reasoned: float | None
    """Share of answers with reasoning before them."""
    reasoned_accuracy: float | None
    """Accuracy of those."""
    seconds: float
    samples: list[dict[str, Any]]


def read_results(directory: Path) -> list[Result]:
    """Finished cells of a run directory, seeds pooled: benchmark by benchmark, the base model first, then by step."""
    groups: dict[tuple[str, str, int, str], list[dict[str, Any]]] = defaultdict(list)
    for path in sorted(directory.glob("eval/*/*/*.json")):
        try:
            cell = json.loads(path.read_bytes())
        except (OSError, ValueError):
            continue  # being replaced right now, or cut by a full disk: it is not a result
        if isinstance(cell, dict) and cell.get("state") == "done" and cell.get("n"):
            step = cell["step"]
            groups[cell["benchmark"], cell["settings"], -1 if step is None else step, cell["checkpoint"]].append(cell)
    return [_pooled(cells) for _, cells in sorted(groups.items())]


def _pooled(cells: list[dict[str, Any]]) -> Result:
    n = sum(cell["n"] for cell in cells)
    correct = sum(cell["correct"] for cell in cells)
    # Seeds draw answers to the same problems, so the pooled interval is of the drawing, not of the choice of problems.
    low, high = cells[0]["interval"] if len(cells) == 1 else wilson(correct, n)
    reasoned = [
        (cell["reasoned"] * cell["n"], cell.get("reasoned_accuracy"))
        for cell in cells
        if cell.get("reasoned") is not None
    ]
    right = [(count, accuracy) for count, accuracy in reasoned if accuracy is not None and count]
    return Result(
        checkpoint=cells[0]["checkpoint"],
        step=cells[0]["step"],
        benchmark=cells[0]["benchmark"],
        seeds=len({cell["seed"] for cell in cells}),
        n=n,
        score=correct / n,
        low=low,
        high=high,
        reasoned=sum(count for count, _ in reasoned) / n if reasoned else None,
        reasoned_accuracy=sum(count * accuracy for count, accuracy in right) / sum(count for count, _ in right)
        if right
        else None,
        seconds=sum(cell.get("seconds") or 0.0 for cell in cells),
        samples=[sample for cell in cells for sample in cell.get("samples") or []],
    )


def results_text(results: Sequence[Result]) -> str:
    """The table that a person reads."""
    base = {result.benchmark: result.score for result in results if result.step is None}
    rows = []
    for result in results:
        gain = (
            "-"
            if result.step is None or result.benchmark not in base
            else f"{100 * (result.score - base[result.benchmark]):+.1f}"
        )
        rows.append(
            (
                result.benchmark,
                "base model" if result.step is None else f"step {result.step}",
                result.n,
                _percent(result.score),
                f"{100 * result.low:.1f} - {100 * result.high:.1f}",
                gain,
                _percent(result.reasoned),
                _percent(result.reasoned_accuracy),
                duration(result.seconds),
            )
        )
    header = (
        "benchmark",
        "checkpoint",
        "answers",
        "accuracy %",
        "95 % interval",
        "gain (points)",
        "reasoned %",
        "accuracy of reasoned %",
        "time",
    )
    return table(header, rows, right=range(2, 9))


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def samples_text(results: Sequence[Result]) -> str:
    """One completion of the base model and one of the last checkpoint, of the same problem where both have one.

    The choice favours a problem that shows the change (wrong before, right after): an illustration, no evidence.
    """
    first = next((result for result in results if result.step is None and result.samples), None)
    if first is None:
        return ""
    after = [
        result
        for result in results
        if result.benchmark == first.benchmark and result.step is not None and result.samples
    ]
    if not after:
        return _sample("before (base model)", first.samples[0])
    last = after[-1]
    later = {sample["problem"]: sample for sample in last.samples}
    both = [(sample, later[sample["problem"]]) for sample in first.samples if sample["problem"] in later]
    pairs = sorted(both, key=lambda pair: (bool(pair[0].get("correct")), not pair[1].get("correct")))
    before, now = pairs[0] if pairs else (first.samples[0], last.samples[0])
    return f"{_sample('before (base model)', before)}\n{_sample(f'after (step {last.step})', now)}"


def _sample(title: str, sample: dict[str, Any]) -> str:
    verdict = "right" if sample.get("correct") else "wrong"
    lines = [f"{title}: {_cut(sample.get('problem'))}   gold {_cut(sample.get('gold'))}, {verdict}"]
    lines += [f"    {line}" for line in _cut(sample.get("completion")).split("\n")]
    return "\n".join(lines)


def _cut(value: object) -> str:
    text = printable(str(value)).strip()
    return text if len(text) <= SAMPLE_LENGTH else f"{text[:SAMPLE_LENGTH]} …"
