"""What it costs to choose: the best of several noisy checkpoints, and the gain that a number of seeds can show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from openrs.evaluation.statistics.intervals import Floats


@dataclass(frozen=True)
class Chosen:
    """The best of several checkpoints, and what is left of its score once it counts that it was chosen."""

    index: int
    """Which one has the best score over all seeds."""
    raw: float
    """Its score."""
    corrected: float
    """Its score without the luck of being the best."""
    deviation: float | None
    """Standard deviation of `corrected` by sampling, where it is known."""
    method: str
    held_out: float | None = None
    """Score of one chosen on half of the seeds, on the other half; none where there is one seed."""


def expected_maximum(score: float, problems: int, checkpoints: int, seeds: int = 1) -> float:
    """Mean of the best score among checkpoints that are all equally good.

    Σₓ 1 − F(x)ᵏ with F binomial (Arnold, Balakrishnan and Nagaraja, A First Course in Order Statistics, 2008, chapter 3).
    It takes answers for independent and equally hard: where problems differ, scores scatter less, and this is an upper
    bound.
    """
    if checkpoints < 1 or problems < 1 or seeds < 1 or not 0 <= score <= 1:
        raise ValueError("needs a score from 0 to 1, and at least one problem, seed and checkpoint")
    answers = problems * seeds
    below = special.bdtr(np.arange(answers), answers, score)
    return float((1 - below**checkpoints).sum() / answers)


def expected_normal_maximum(checkpoints: int) -> float:
    """Mean of the largest of so many standard normal draws (order statistic; the same source, section 4.2)."""
    if checkpoints < 1:
        raise ValueError("at least one checkpoint")
    points, weights = special.roots_hermitenorm(200)
    density = checkpoints * points * special.ndtr(points) ** (checkpoints - 1)
    return float((weights * density).sum() / math.sqrt(2 * math.pi))


def noise_of_outcomes(means: Floats) -> float:
    """Variance of a score by sampling, from means over seeds (problems, checkpoints), where seeds cannot tell it.

    The residual mean square of problems × checkpoints over the number of problems (two-way layout without replication:
    Scheffé, The Analysis of Variance, 1959, section 4.2). Checkpoints that change other problems than the rest count as noise
    here, so it is an upper bound.
    """
    problems, checkpoints = means.shape
    if problems < 2 or checkpoints < 2:
        raise ValueError("needs two problems and two checkpoints")
    residual = means - means.mean(axis=0) - means.mean(axis=1, keepdims=True) + means.mean()
    return float((residual**2).sum() / ((problems - 1) * (checkpoints - 1)) / problems)


def shrunken_best(scores: Sequence[float], noise: float) -> Chosen:
    """The best score drawn to the mean of all by as much as the noise explains: where there is one seed and no outcomes.

    Empirical Bayes (Efron and Morris, JASA 70, 1975, equation 1.4; why it is not fooled by choosing: Efron, JASA 106, 2011,
    section 1). `noise` is the sampling variance of one score; p(1 − p)/n bounds it from above. The share kept is
    1 − (k − 3) noise / Σ(x − mean)², never below 0: with an exact noise and equal checkpoints it keeps a little too much,
    with the bound it keeps too little of a real lead. Its deviation counts that the share is an estimate (Morris, JASA 78,
    1983, 47-55, section 1). `split_best` and `split_problems_best` are unbiased; prefer them.
    """
    values = np.asarray(scores, dtype=float)
    if len(values) < 4:
        raise ValueError("needs four checkpoints")
    best, mean = int(values.argmax()), float(values.mean())
    squares = float(((values - mean) ** 2).sum())
    kept = max(0.0, 1 - (len(values) - 3) * noise / squares) if squares else 0.0
    lost = 1 - kept
    variance = (
        noise * (1 - lost * (1 - 1 / len(values))) + 2 / (len(values) - 3) * (lost * (float(values[best]) - mean)) ** 2
    )
    deviation = math.sqrt(variance)
    corrected = mean + kept * (float(values[best]) - mean)
    return Chosen(best, float(values[best]), corrected, deviation, f"shrunken to the mean of {len(values)} checkpoints")


def split_best(scores: Floats, splits: int = 200, seed: int = 0) -> Chosen:
    """The best of several checkpoints (seeds, checkpoints), chosen on one half of the seeds and estimated on the other.

    Over random halves, each used both ways: `held_out` is the mean score on the half that did not choose. It is unbiased
    for a checkpoint chosen on half of the seeds (Cox, Biometrika 62, 1975, 441-444, on splitting to choose and to
    estimate), which is a slightly worse one than the best of all seeds. `corrected` is of that best one: its score less the
    optimism seen between the halves, scaled from half of the seeds to all of them. For normal noise of variance v and
    scores whose variance between checkpoints is V, noise included, the optimism goes with v/√V (Efron, JASA 106, 2011,
    equation 1.4), and V is read off the halves and the whole. Seeds are repetitions: as many for each checkpoint, two at
    least.
    """
    scores = np.asarray(scores, dtype=float)
    if scores.ndim != 2 or len(scores) < 2 or scores.shape[1] < 2:
        raise ValueError("needs scores of (seeds, checkpoints) with two seeds and two checkpoints or more")
    # The halves are drawn anew for each checkpoint, since seed 3 of one has nothing to do with seed 3 of another.
    lots = np.random.default_rng(seed).random((splits, *scores.shape))
    method = f"chosen on half of {len(scores)} seeds, estimated on the others"
    return _split(scores, lots, float(scores.var(axis=0, ddof=1).mean()) / len(scores), method, seed)


def split_problems_best(means: Floats, splits: int = 200, seed: int = 0) -> Chosen:
    """`split_best` where there is one seed, or few: halves of the problems take the place of halves of the seeds.

    `means` is (problems, checkpoints), each problem's mean over seeds. All checkpoints are split alike, so that how hard a
    half is cancels. A checkpoint that is better at some problems only counts as lucky: the correction is for new problems.
    """
    means = np.asarray(means, dtype=float)
    if means.ndim != 2 or len(means) < 4 or means.shape[1] < 2:
        raise ValueError("needs means of (problems, checkpoints) with four problems and two checkpoints or more")
    lots = np.random.default_rng(seed).random((splits, len(means), 1))
    method = f"chosen on half of {len(means)} problems, estimated on the others"
    return _split(means, lots, noise_of_outcomes(means), method, seed)


def _split(units: Floats, lots: Floats, noise: float, method: str, seed: int) -> Chosen:
    rng = np.random.default_rng([seed, 1])
    count = len(units)
    half = count // 2
    chosen = lots.argsort(axis=1) < half
    first = np.where(chosen, units, 0.0).sum(axis=1) / half
    second = np.where(chosen, 0.0, units).sum(axis=1) / (count - half)
    (seen_1, out_1), (seen_2, out_2) = _of_best(first, second, rng), _of_best(second, first, rng)
    scores = units.mean(axis=0)
    best = int(scores.argmax())

    def optimism(size: int, variance: float) -> float:
        return 1 / (size * math.sqrt(variance)) if variance > 0 else 0.0

    halves = optimism(half, float(first.var(axis=1, ddof=1).mean())) + optimism(
        count - half, float(second.var(axis=1, ddof=1).mean())
    )
    scale = 2 * optimism(count, float(scores.var(ddof=1))) / halves if halves else 0.0
    held_out = (out_1 + out_2) / 2
    raw = float(scores[best])
    corrected = raw - ((seen_1 + seen_2) / 2 - held_out) * scale
    return Chosen(best, raw, corrected, math.sqrt(noise), method, held_out)


def _of_best(choose: Floats, estimate: Floats, rng: np.random.Generator) -> tuple[float, float]:
    """Mean over splits of the best score and of its estimate; ties are drawn by lot."""
    lots = choose + rng.random(choose.shape) * 1e-9
    best = lots.argmax(axis=1)[:, None]
    return float(np.take_along_axis(choose, best, axis=1).mean()), float(
        np.take_along_axis(estimate, best, axis=1).mean()
    )


def minimal_detectable_gain(
    sd: float,
    seeds: int,
    baseline_seeds: int | None = None,
    power: float = 0.8,
    alpha: float = 0.05,
    *,
    known: bool = False,
) -> float:
    """The least true gain that `seeds` seeds a side show on these problems with probability `power`.

    (t₁₋α/₂ + t_power) · sd · √(1/R₁ + 1/R₂) with R₁ + R₂ − 2 degrees of freedom (Lachin, Controlled Clinical Trials 2, 1981,
    93-113, equation 7, with t for z). `sd` is the deviation of one seed's score. Infinite with one seed a side: nothing then
    tells the noise. Unless it is `known` beforehand: then with z, as the equation stands there. Paired by problem, one seed a
    side is tested so, for √(answers that changed)/n is its noise.
    """
    others = seeds if baseline_seeds is None else baseline_seeds
    if seeds < 1 or others < 1 or sd < 0 or not 0 < power < 1 or not 0 < alpha < 1:
        raise ValueError("needs a seed on each side, a deviation, and a power and an alpha between 0 and 1")
    freedom = math.inf if known else seeds + others - 2
    if freedom < 1:
        return math.inf
    quantiles = special.stdtrit(freedom, 1 - alpha / 2) + special.stdtrit(freedom, power)
    return float(quantiles * sd * math.sqrt(1 / seeds + 1 / others))
