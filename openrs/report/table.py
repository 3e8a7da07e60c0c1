"""The results of a run as a table: each checkpoint on each benchmark, with its noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from openrs.report.measure import Measured
from openrs.report.text import duration, printable, table

SAMPLE_LENGTH = 600
"""Characters of a sample completion that are shown."""


def results_text(results: Sequence[Measured]) -> str:
    """The table that a person reads. The interval is for new problems like these."""
    base = {result.alike: result.mean for result in results if result.step is None}
    kinds = {result.alike for result in results}
    rows = []
    for result in results:
        gain = "-"
        if result.step is not None and result.alike in base:
            gain = f"{100 * (result.mean - base[result.alike]):+.1f}"
        rows.append(
            (
                result.alike.title(kinds),
                result.name,
                f"{len(result.seeds)} × {result.problems}",
                _percent(result.mean),
                f"{100 * result.new.low:.1f} - {100 * result.new.high:.1f}",
                gain,
                _percent(result.facts.get("reasoned")),
                _percent(result.facts.get("reasoned_accuracy")),
                duration(result.facts.get("seconds", 0.0)),
            )
        )
    header = (
        "benchmark",
        "checkpoint",
        "seeds × problems",
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


def samples_text(results: Sequence[Measured]) -> str:
    """One completion of the base model and one of the last checkpoint, of the same problem where both have one.

    The choice favours a problem that shows the change (wrong before, right after): an illustration, no evidence.
    """
    first = next((result for result in results if result.step is None and result.facts.get("samples")), None)
    if first is None:
        return ""
    after = [
        result
        for result in results
        if result.benchmark == first.benchmark and result.step is not None and result.facts.get("samples")
    ]
    before = first.facts["samples"]
    if not after:
        return _sample(first.name, before[0])
    last = after[-1]
    later = {str(sample.get("problem")): sample for sample in last.facts["samples"]}
    both = [(sample, now) for sample in before if (now := later.get(str(sample.get("problem")))) is not None]
    pairs = sorted(both, key=lambda pair: (bool(pair[0].get("correct")), not pair[1].get("correct")))
    one, now = pairs[0] if pairs else (before[0], last.facts["samples"][0])
    return f"{_sample('before (base model)', one)}\n{_sample(f'after (step {last.step})', now)}"


def _sample(title: str, sample: dict[str, Any]) -> str:
    verdict = "right" if sample.get("correct") else "wrong"
    lines = [f"{title}: {_cut(sample.get('problem'))}   gold {_cut(sample.get('gold'))}, {verdict}"]
    lines += [f"    {line}" for line in _cut(sample.get("completion")).split("\n")]
    return "\n".join(lines)


def _cut(value: object) -> str:
    text = printable(str(value)).strip()
    return text if len(text) <= SAMPLE_LENGTH else f"{text[:SAMPLE_LENGTH]} …"
