"""Whether later checkpoints differ from earlier ones, where the step that divides them was chosen by looking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from openrs.evaluation.statistics.intervals import DRAWS, Floats


@dataclass(frozen=True)
class Split:
    """The step that divides earlier from later checkpoints the most."""

    after: int
    """The last step of the earlier ones."""
    gain: float
    """Mean of the later ones less mean of the earlier ones, within series."""
    p: float
    """Of any such division, if the order of the steps meant nothing."""
    splits: int
    """Divisions that were tried."""
    checkpoints: int


def best_split(
    steps: Sequence[int], scores: Sequence[float], series: Sequence[str], draws: int = DRAWS, seed: int = 0
) -> Split:
    """The division with the largest standardised difference, and its p-value over all divisions.

    Scores are centred within their series, and permuted within it: the largest statistic over all divisions is compared
    with the largest of each permutation, which is what makes a division chosen after the fact a fair test (maximally
    selected statistics: Miller and Siegmund, Biometrics 38, 1982, 1011-1016; their permutation distribution: Hothorn and
    Lausen, Computational Statistics & Data Analysis 43, 2003, 121-137). It takes the checkpoints of a series for
    exchangeable: neighbours that drift together make it too sure of itself.
    """
    if not len(steps) == len(scores) == len(series) or len(steps) < 4:
        raise ValueError("needs four checkpoints, each with step, score and series")
    step, names = np.asarray(steps), np.asarray(series)
    values = np.asarray(scores, dtype=float)
    groups = [np.flatnonzero(names == name) for name in dict.fromkeys(series)]
    for group in groups:
        values[group] -= values[group].mean()
    cuts = sorted(set(steps))[:-1]
    late = np.array([step > cut for cut in cuts], dtype=float).reshape(len(cuts), len(values))
    for group in groups:
        late[:, group] -= late[:, group].mean(axis=1, keepdims=True)
    weights = (late**2).sum(axis=1)
    good = weights > 1e-12
    late, cuts, weights = late[good], [cut for cut, use in zip(cuts, good, strict=True) if use], weights[good]
    if not cuts:
        raise ValueError("no step divides the checkpoints of any series")
    slopes = late @ values / weights  # least squares: the difference of the means within series
    statistic = np.abs(slopes) * np.sqrt(weights)
    best = int(statistic.argmax())
    rng = np.random.default_rng(seed)
    permuted = np.tile(values, (draws, 1))
    for group in groups:
        permuted[:, group] = rng.permuted(permuted[:, group], axis=1)
    largest = _largest(permuted, late, weights)
    p = (float((largest >= statistic[best] - 1e-12).sum()) + 1) / (draws + 1)
    return Split(int(cuts[best]), float(slopes[best]), p, len(cuts), len(values))


def _largest(permuted: Floats, late: Floats, weights: Floats) -> Floats:
    found: Floats = (np.abs(permuted @ late.T) / np.sqrt(weights)).max(axis=1)
    return found
