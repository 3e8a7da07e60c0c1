"""Cells of one checkpoint on one benchmark as one number, with what it bears."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openrs.evaluation import statistics as st
from openrs.report.cells import CellResult
from openrs.report.published import title
from openrs.runs.files import number


class Alike(NamedTuple):
    """What results must share to be put together."""

    benchmark: str
    settings: str
    hardware: str
    """Empty where it is not recorded, and where hardware is pooled."""
    data: str
    """Fingerprint of the problems; empty where it is not recorded."""
    problems: int

    def title(self, among: Iterable[Alike]) -> str:
        """Benchmark, as people write it, with what sets this apart from the others on that benchmark."""
        others = [one for one in among if one.benchmark == self.benchmark]
        words = (
            self.benchmark,
            f"settings {self.settings}",
            self.hardware or "hardware not recorded",
            f"data {self.data.removeprefix('sha256:')[:12] or 'not recorded'}",
            f"{self.problems} problems",
        )
        said = [word for word, *values in zip(words, *others, strict=True) if len(set(values)) > 1]
        return title(self.benchmark) + (f" ({', '.join(said)})" if said else "")

    def json(self) -> dict[str, Any]:
        """For `--json`."""
        return {name: value or None for name, value in self._asdict().items()}


@dataclass(frozen=True, eq=False)
class Measured:
    """A checkpoint on a benchmark, over its seeds, on one hardware with one set of settings."""

    run: str
    series: str
    checkpoint: str
    step: int | None
    hardware: str | None
    """None where it is not recorded."""
    model: str | None
    seeds: list[int]
    scores: list[float]
    outcomes: NDArray[np.float64] | None
    """(seeds, problems), where every seed has them."""
    mean: float
    sd: float | None
    these: st.Interval
    new: st.Interval
    facts: dict[str, Any]
    alike: Alike
    label: str | None = None
    """What to call a model of which no base model is known."""

    @property
    def benchmark(self) -> str:
        """Its id."""
        return self.alike.benchmark

    @property
    def settings(self) -> str:
        """Hash of how it was evaluated."""
        return self.alike.settings

    @property
    def problems(self) -> int:
        """How many."""
        return self.alike.problems

    @property
    def title(self) -> str:
        """Benchmark, as people write it."""
        return title(self.benchmark)

    @property
    def name(self) -> str:
        """`step 50` or `base model`, with the series where it is not the run."""
        if self.label is not None:
            return self.label
        what = "base model" if self.step is None else f"step {self.step}"
        if self.step is None and not self.checkpoint.startswith("rev-"):
            what = self.checkpoint
        return what if self.series == self.run else f"{self.series}, {what}"

    @property
    def means(self) -> NDArray[np.float64] | None:
        """Each problem's mean over seeds."""
        return None if self.outcomes is None else self.outcomes.mean(axis=0)

    def json(self) -> dict[str, Any]:
        """For `--json` and the tables."""
        return {
            "run": self.run,
            "series": self.series,
            "checkpoint": self.checkpoint,
            "step": self.step,
            "benchmark": self.benchmark,
            "settings": self.settings,
            "hardware": self.hardware,
            "seeds": self.seeds,
            "scores": self.scores,
            "problems": self.problems,
            "score": self.mean,
            "sd": self.sd,
            "by_problem": self.outcomes is not None,
            "these_problems": interval_json(self.these),
            "new_problems": interval_json(self.new),
            **{name: self.facts[name] for name in ("seconds", "completion_tokens", "truncated") if name in self.facts},
        }


def interval_json(interval: st.Interval) -> dict[str, Any]:
    """An interval and how it was made."""
    return {
        "low": interval.low,
        "high": interval.high,
        "method": interval.method,
        "conservative": interval.conservative,
    }


def measure(cells: Sequence[CellResult], pool_hardware: bool = False) -> list[Measured]:
    """One `Measured` for each checkpoint and what is alike; the base model first, then by step."""
    groups: dict[tuple[str, str, str, int, str, Alike], list[CellResult]] = defaultdict(list)
    for cell in cells:
        hardware = None if pool_hardware else cell.hardware
        order = -1 if cell.step is None else cell.step
        alike = Alike(cell.benchmark, cell.settings, hardware or "", cell.data or "", cell.problems)
        groups[cell.run, cell.benchmark, cell.series, order, cell.checkpoint, alike].append(cell)
    keys = sorted(groups)
    ordered = [sorted(groups[key], key=lambda cell: cell.seed) for key in keys]
    # One bootstrap for all checkpoints with equally many problems: they share their resamplings.
    matrices = [_outcomes(group) for group in ordered]
    resampled: dict[int, st.Interval] = {}
    by_size: dict[int, list[int]] = defaultdict(list)
    for index, matrix in enumerate(matrices):
        if matrix is not None and not _wilson(matrix):
            by_size[matrix.shape[1]].append(index)
    for indices in by_size.values():
        columns = np.stack([m.mean(axis=0) for i in indices if (m := matrices[i]) is not None], axis=1)
        resampled |= dict(zip(indices, st.bootstrap_intervals(columns), strict=True))
    return [
        _measured(group, matrix, resampled.get(index), alike)
        for index, (group, matrix, (*_, alike)) in enumerate(zip(ordered, matrices, keys, strict=True))
    ]


def along_steps(measured: Sequence[Measured]) -> list[tuple[str, list[Measured]]]:
    """Results of trained checkpoints, those that are alike under one title; what is not alike is not put together."""
    groups: dict[Alike, list[Measured]] = defaultdict(list)
    for one in measured:
        if one.step is not None:
            groups[one.alike].append(one)
    return [(alike.title(groups), rows) for alike, rows in groups.items()]


def _wilson(matrix: NDArray[np.float64]) -> bool:
    return len(matrix) == 1 and bool(np.isin(matrix, (0.0, 1.0)).all())


def _outcomes(group: list[CellResult]) -> NDArray[np.float64] | None:
    rows = [cell.outcomes for cell in group if cell.outcomes is not None]
    return np.stack(rows) if len(rows) == len(group) else None


def _measured(
    group: list[CellResult], matrix: NDArray[np.float64] | None, resampled: st.Interval | None, alike: Alike
) -> Measured:
    first = group[0]
    scores = [cell.score for cell in group]
    mean, sd = st.mean_sd(scores)
    if matrix is not None:
        these = st.sampling_interval(matrix)
    elif len(scores) > 1:
        these = st.seeds_interval(scores, first.problems)
    else:
        these = st.wilson_interval(mean, first.problems, st.THESE)
    new = resampled or st.wilson_interval(mean, first.problems)
    if resampled is None and len(scores) > 1:
        # A mean over seeds varies less over problems than one answer does: p(1 − p)/n is an upper bound.
        new = st.Interval(new.low, new.high, st.NEW, "Wilson of one answer a problem", conservative=True)
    hardware = sorted({cell.hardware for cell in group if cell.hardware})
    return Measured(
        first.run,
        first.series,
        first.checkpoint,
        first.step,
        " + ".join(hardware) or None,
        first.model,
        [cell.seed for cell in group],
        scores,
        matrix,
        mean,
        sd,
        these,
        new,
        _facts(group),
        alike,
    )


def _facts(group: list[CellResult]) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for name in ("completion_tokens", "truncated", "reasoned"):
        known = [value for cell in group if (value := number(cell.facts, name)) is not None]
        if known:
            facts[name] = sum(known) / len(known)
    reasoned = [(number(cell.facts, "reasoned"), number(cell.facts, "reasoned_accuracy")) for cell in group]
    right = [(share, accuracy) for share, accuracy in reasoned if accuracy is not None and share and share > 0]
    if right:  # of all answers that were reasoned, whichever seed they are of
        facts["reasoned_accuracy"] = sum(share * accuracy for share, accuracy in right) / sum(
            share for share, _ in right
        )
    seconds = [value for cell in group if (value := number(cell.facts, "seconds")) is not None]
    if seconds:
        facts["seconds"] = sum(seconds)
    samples = [sample for cell in group for sample in cell.facts.get("samples") or [] if isinstance(sample, dict)]
    if samples:
        facts["samples"] = samples
    return facts
