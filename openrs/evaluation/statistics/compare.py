"""Whether two checkpoints differ: gains with intervals and p-values, by problem where outcomes are known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from openrs.evaluation.statistics.intervals import (
    DRAWS,
    LEVEL,
    NEW,
    THESE,
    Floats,
    Question,
    _checked,
    _t,
    bootstrap_means,
    expanded_tail,
    mean_sd,
    wilson_share,
    within_variance,
)

ALPHA = 1 - LEVEL


@dataclass(frozen=True)
class Comparison:
    """The gain of one checkpoint over another."""

    gain: float
    low: float
    high: float
    p: float
    """Two-sided, of no difference; not adjusted for other comparisons."""
    question: Question
    method: str

    def distinguishable(self, adjusted: float | None = None) -> bool:
        """Whether interval and p-value (`adjusted` for other comparisons, if given) both speak against no difference."""
        return (self.p if adjusted is None else adjusted) <= ALPHA and not self.low <= 0.0 <= self.high


def compare_paired(ours: Floats, theirs: Floats, draws: int = DRAWS, seed: int = 0) -> Comparison:
    """Gain of `ours` over `theirs`, outcomes (seeds, problems) of the same problems, for new problems like these."""
    ours, theirs = _checked(ours), _checked(theirs)
    if ours.shape[1] != theirs.shape[1]:
        raise ValueError(f"{ours.shape[1]} and {theirs.shape[1]} problems cannot be paired")
    return compare_many(ours.mean(axis=0)[:, None], theirs.mean(axis=0), draws, seed)[0]


def compare_many(ours: Floats, theirs: Floats, draws: int = DRAWS, seed: int = 0) -> list[Comparison]:
    """`compare_paired` of columns of `ours` (problems, models), means over seeds, with `theirs`: one column, or as many.

    Interval: expanded percentile bootstrap of the mean difference over problems (see `bootstrap_intervals`). p: flipping
    the signs of the differences at random, as if the names of the two were exchanged on a problem (Fisher, The Design of
    Experiments, 1935, section 21), with (b + 1)/(m + 1) of Phipson and Smyth, arXiv 1603.05766, equation 2. Where the two
    differ on no problem, or on so few that resampling shows too little, the interval is that of two independent shares
    (`compare_counts`) if it is wider.
    """
    problems = len(theirs)
    theirs = np.broadcast_to(theirs if theirs.ndim == 2 else theirs[:, None], ours.shape)
    differences = ours - theirs
    gains = differences.mean(axis=0)
    tail = expanded_tail(problems)
    lows, highs = np.quantile(bootstrap_means(differences, draws, seed), [tail, 1 - tail], axis=0)
    ps = _sign_flips(differences, gains, draws, seed + 1)
    found = []
    for column, gain in enumerate(gains):
        low, high, method = float(lows[column]), float(highs[column]), "by problem: bootstrap, sign flips"
        if np.count_nonzero(differences[:, column]) < FEW:
            apart = compare_counts(float(ours[:, column].mean()), problems, float(theirs[:, column].mean()), problems)
            low, high = min(low, apart.low), max(high, apart.high)
            method = "by problem: sign flips; interval of independent shares (they differ on few problems)"
        found.append(Comparison(float(gain), low, high, float(ps[column]), NEW, method))
    return found


FEW = 6
"""Problems on which two checkpoints must differ before resampling them is believed; fewer cannot reach p < 0.05."""


def _sign_flips(differences: Floats, gains: Floats, draws: int, seed: int) -> Floats:
    problems = len(differences)
    rng = np.random.default_rng(seed)
    hits = np.zeros(differences.shape[1])
    content = differences.astype(np.float64)
    limit = np.abs(gains) - 1e-12
    step = max(1, 4_000_000 // problems)
    for first in range(0, draws, step):
        size = min(step, draws - first)
        bits = np.unpackbits(
            np.frombuffer(rng.bytes(size * ((problems + 7) // 8)), dtype=np.uint8).reshape(size, -1), axis=1
        )[:, :problems]
        # Σ ±d = 2 Σ (bit · d) − Σ d
        means = (2 * (bits.astype(np.float64) @ content) - content.sum(axis=0)) / problems
        hits += (np.abs(means) >= limit).sum(axis=0)
    return (hits + 1) / (draws + 1)


def compare_sampling(ours: Floats, theirs: Floats) -> Comparison | None:
    """Gain on these very problems: sampling noise alone, as in `sampling_interval`. None with one seed on a side."""
    ours, theirs = _checked(ours), _checked(theirs)
    if len(ours) < 2 or len(theirs) < 2:
        return None
    gain = float(ours.mean() - theirs.mean())
    (one, free_one), (two, free_two) = within_variance(ours), within_variance(theirs)
    variance = one + two
    if variance == 0.0:
        return None
    parts = [(v, f) for v, f in ((one, free_one), (two, free_two)) if v > 0]
    freedom = variance**2 / sum(v**2 / f for v, f in parts)
    deviation = math.sqrt(variance)
    half = _t(freedom) * deviation
    p = 2 * float(special.stdtr(freedom, -abs(gain) / deviation))
    return Comparison(gain, gain - half, gain + half, p, THESE, "variance over seeds within problems")


def compare_counts(ours: float, n_ours: int, theirs: float, n_theirs: int) -> Comparison:
    """Gain of one share over an independent one, where outcomes by problem are not known.

    Interval: Newcombe's hybrid score interval (Statistics in Medicine 17, 1998, 873-890, method 10). p: the score test of
    equal shares (pooled variance). Conservative for two models on the same problems, whose outcomes go together.
    """
    gain = ours - theirs
    (low_1, high_1), (low_2, high_2) = wilson_share(ours, n_ours), wilson_share(theirs, n_theirs)
    low = gain - math.hypot(ours - low_1, high_2 - theirs)
    high = gain + math.hypot(high_1 - ours, theirs - low_2)
    pooled = (ours * n_ours + theirs * n_theirs) / (n_ours + n_theirs)
    deviation = math.sqrt(pooled * (1 - pooled) * (1 / n_ours + 1 / n_theirs))
    p = 1.0 if deviation == 0 else 2 * float(special.ndtr(-abs(gain) / deviation))
    return Comparison(gain, low, high, p, NEW, "two independent shares (Newcombe)")


def compare_scores(ours: Sequence[float], theirs: Sequence[float]) -> Comparison:
    """Gain on these problems from the seeds' scores alone: Welch's t test (Biometrika 34, 1947, 28-35)."""
    (mean_1, sd_1), (mean_2, sd_2) = mean_sd(ours), mean_sd(theirs)
    if sd_1 is None or sd_2 is None:
        raise ValueError("each side needs two seeds")
    return compare_summaries(mean_1, sd_1, len(ours), mean_2, sd_2, len(theirs))


def compare_summaries(mean_1: float, sd_1: float, n_1: int, mean_2: float, sd_2: float, n_2: int) -> Comparison:
    """`compare_scores` from means, standard deviations over seeds and numbers of seeds, as papers print them."""
    if n_1 < 2 or n_2 < 2:
        raise ValueError("each side needs two seeds")
    gain, one, two = mean_1 - mean_2, sd_1**2 / n_1, sd_2**2 / n_2
    if one + two == 0:
        raise ValueError("no deviation over seeds on either side")
    freedom = (one + two) ** 2 / (one**2 / (n_1 - 1) + two**2 / (n_2 - 1))
    deviation = math.sqrt(one + two)
    half = _t(freedom) * deviation
    p = 2 * float(special.stdtr(freedom, -abs(gain) / deviation))
    return Comparison(gain, gain - half, gain + half, p, THESE, "Welch's t over seeds")


def holm(ps: Sequence[float]) -> list[float]:
    """p-values adjusted for being several, in their order (Holm, Scandinavian Journal of Statistics 6, 1979, 65-70)."""
    adjusted, largest = [0.0] * len(ps), 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = largest
    return adjusted
