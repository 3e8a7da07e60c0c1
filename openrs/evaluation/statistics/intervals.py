"""How sure a score is: intervals, each with the question that it answers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from openrs.errors import OpenRSError
from openrs.evaluation.interval import wilson

Floats = NDArray[np.floating[Any]]
Question = Literal["these problems", "new problems"]
THESE: Question = "these problems"
"""Sampling noise: other seeds on the same problems."""
NEW: Question = "new problems"
"""Other problems of the same kind, and other seeds."""

LEVEL = 0.95
DRAWS = 10_000
"""Bootstrap and permutation draws."""
_BLOCK = 4_000_000
"""Numbers held at once while drawing."""


class Unpoolable(OpenRSError):
    """Results that must not become one number."""


@dataclass(frozen=True)
class Interval:
    """An interval of a score or of a gain."""

    low: float
    high: float
    question: Question
    method: str
    """How it was made, in a few words."""
    conservative: bool = False
    """Wider than the question needs, since what would narrow it is not known."""


def mean_sd(scores: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n − 1) over seeds; no deviation of one seed. Raises ValueError for none."""
    if not len(scores):
        raise ValueError("no scores")
    values = np.asarray(scores, dtype=float)
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else None


def avg_at_k(outcomes: Floats, k: int | None = None) -> float:
    """Mean accuracy over the first k seeds, all by default (avg@k, also called mean@k)."""
    outcomes = _checked(outcomes)
    k = len(outcomes) if k is None else k
    if not 1 <= k <= len(outcomes):
        raise ValueError(f"avg@{k} of {len(outcomes)} seeds")
    return float(outcomes[:k].mean())


def pass_at_k(correct: Sequence[int] | NDArray[np.integer[Any]], samples: int, k: int) -> float:
    """Probability that one of k answers is right, averaged over problems, of `correct` right ones among `samples`.

    The unbiased estimator 1 − C(n − c, k) / C(n, k) of Chen et al., arXiv 2107.03374, equation 1.
    """
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} of {samples} samples")
    right = np.asarray(correct)
    if not right.size or right.min() < 0 or right.max() > samples:
        raise ValueError("right answers must be from 0 to the number of samples")
    wrong = samples - right
    log_none = (
        special.gammaln(wrong + 1)
        - special.gammaln(np.maximum(wrong - k, 0) + 1)
        - special.gammaln(samples + 1)
        + special.gammaln(samples - k + 1)
    )
    return float(np.where(wrong < k, 1.0, 1.0 - np.exp(log_none)).mean())


def wilson_interval(score: float, problems: int, question: Question = NEW) -> Interval:
    """Wilson's score interval (E. B. Wilson, JASA 22, 1927, equation 6) of one seed on `problems` problems.

    With one answer to each of n problems drawn from many, the number of right ones is binomial: it answers `NEW`. For
    `THESE` it is conservative: the variance Σ pᵢ(1 − pᵢ)/n² is never more than p(1 − p)/n (Jensen's inequality).
    """
    low, high = wilson_share(score, problems)
    return Interval(low, high, question, "Wilson", conservative=question == THESE)


def wilson_share(score: float, n: float) -> tuple[float, float]:
    """Wilson's interval for a share that need not be a whole number of n."""
    whole = round(score * n)
    if math.isclose(whole, score * n, abs_tol=1e-9) and float(n).is_integer():
        return wilson(int(whole), int(n))
    z = float(special.ndtri(0.5 + LEVEL / 2))
    centre = (score + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(score * (1 - score) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def seeds_interval(scores: Sequence[float], problems: int) -> Interval:
    """Sampling noise where only the seeds' scores are known: Student's t over seeds (Biometrika 6, 1908).

    Where all seeds agree the deviation says nothing, and the answer is Wilson's for all answers: conservative, see
    `wilson_interval`.
    """
    mean, sd = mean_sd(scores)
    if not sd:
        low, high = wilson_share(mean, problems * len(scores))
        return Interval(low, high, THESE, "Wilson of all answers", conservative=True)
    half = _t(len(scores) - 1) * sd / math.sqrt(len(scores))
    return Interval(max(0.0, mean - half), min(1.0, mean + half), THESE, "Student's t over seeds")


def mean_interval(mean: float, sd: float | None, seeds: int, problems: int | None) -> tuple[float | None, float | None]:
    """Of a published score: Student's t over seeds where their deviation is printed, else Wilson; None without problems."""
    if sd is not None and seeds > 1:
        half = _t(seeds - 1) * sd / math.sqrt(seeds)
        return max(0.0, mean - half), min(1.0, mean + half)
    return wilson_share(mean, problems) if problems else (None, None)


def sampling_interval(outcomes: Floats) -> Interval:
    """Sampling noise on these problems, from the variance within each problem over seeds.

    Answers to different problems are drawn independently, so the variance of the score is Σ sᵢ²/(R n²): the seed variance
    of a stratified sample (Cochran, Sampling Techniques, 3rd ed., equation 5.9), with Satterthwaite's degrees of freedom
    (Biometrics Bulletin 2, 1946; Cochran equation 5.16). One seed, or seeds that agree in all: Wilson, which is
    conservative here.
    """
    outcomes = _checked(outcomes)
    seeds, problems = outcomes.shape
    mean = float(outcomes.mean())
    if seeds == 1:
        return wilson_interval(mean, problems, THESE)
    variance, freedom = within_variance(outcomes)
    if variance == 0.0:
        low, high = wilson_share(mean, problems * seeds)
        return Interval(low, high, THESE, "Wilson of all answers", conservative=True)
    half = _t(freedom) * math.sqrt(variance)
    return Interval(max(0.0, mean - half), min(1.0, mean + half), THESE, "variance over seeds within problems")


def within_variance(outcomes: Floats) -> tuple[float, float]:
    """Variance of the mean score by sampling alone, and Satterthwaite's degrees of freedom. Needs two seeds."""
    seeds, problems = outcomes.shape
    parts = outcomes.var(axis=0, ddof=1) / (seeds * problems**2)
    total, squares = float(parts.sum()), float((parts**2).sum())
    return total, (seeds - 1) * total**2 / squares if squares else math.inf


def problem_interval(outcomes: Floats, draws: int = DRAWS, seed: int = 0) -> Interval:
    """Interval for a new set of problems like these: Wilson with one seed, else the bootstrap over problems."""
    outcomes = _checked(outcomes)
    if len(outcomes) == 1 and np.isin(outcomes, (0.0, 1.0)).all():
        return wilson_interval(float(outcomes.mean()), outcomes.shape[1])
    (found,) = bootstrap_intervals(outcomes.mean(axis=0)[:, None], draws, seed)
    return found


def bootstrap_intervals(means: Floats, draws: int = DRAWS, seed: int = 0) -> list[Interval]:
    """Intervals for new problems, one for each column of `means` (problems, models): each problem's mean over seeds.

    Problems are resampled whole, with all their seeds, which carries the noise of the seeds along (Davison and Hinkley,
    Bootstrap Methods, 1997, section 3.8). Percentiles are moved outwards so that the interval is as wide as Student's t
    would have it: the expanded percentile interval of Hesterberg, arXiv 1411.5279, section 5.3. Where its variance is zero
    or the score lies within half a problem of 0 or 1, resampling shows too little, and the answer is Wilson's of as many
    answers as problems, which is conservative.
    """
    problems = len(means)
    sampled = bootstrap_means(means, draws, seed)
    tail = expanded_tail(problems)
    lows, highs = np.quantile(sampled, [tail, 1 - tail], axis=0)
    found = []
    for score, low, high in zip(means.mean(axis=0), lows, highs, strict=True):
        if high - low < 1e-12 or min(score, 1 - score) * problems < 0.5 or problems < 2:
            low, high = wilson_share(float(score), problems)
            found.append(Interval(low, high, NEW, "Wilson of one answer a problem", conservative=True))
        else:
            found.append(Interval(float(low), float(high), NEW, "bootstrap over problems"))
    return found


def expanded_tail(n: int) -> float:
    """Share of bootstrap draws to leave out at each end: Φ(√(n/(n − 1)) t) with t the quantile of n − 1 freedom."""
    if n < 2:
        return (1 - LEVEL) / 2
    return float(special.ndtr(-math.sqrt(n / (n - 1)) * _t(n - 1)))


def bootstrap_means(values: Floats, draws: int = DRAWS, seed: int = 0) -> Floats:
    """(draws, columns): means of the columns of `values` (problems, columns), each draw a resampling of the problems.

    All columns see the same resamplings, so differences of columns are paired. (Efron and Tibshirani, 1993, algorithm 6.1.)
    """
    problems = len(values)
    rng = np.random.default_rng(seed)
    content = np.ascontiguousarray(values, dtype=np.float64)
    found = np.empty((draws, content.shape[1]))
    step = max(1, _BLOCK // max(1, problems))
    for first in range(0, draws, step):
        size = min(step, draws - first)
        drawn = rng.integers(0, problems, size=(size, problems), dtype=np.int32)
        drawn += np.arange(0, size * problems, problems, dtype=np.int32)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * problems).reshape(size, problems)
        found[first : first + size] = counts.astype(np.float64) @ content
    return found / problems


def one_hardware(kinds: Iterable[str], pool: bool = False) -> str:
    """The one hardware of these results. Raises Unpoolable where there are several, unless `pool` asks for it."""
    found = sorted(set(kinds))
    if len(found) > 1 and not pool:
        raise Unpoolable(f"results of different hardware are not pooled ({', '.join(found)}); --pool-hardware does it")
    return " + ".join(found)


@lru_cache(maxsize=256)
def _t(freedom: float) -> float:
    """Two-sided quantile of Student's t; of the normal distribution for infinite freedom."""
    if math.isinf(freedom):
        return float(special.ndtri(0.5 + LEVEL / 2))
    return float(special.stdtrit(max(freedom, 1.0), 0.5 + LEVEL / 2))


def _checked(outcomes: Floats) -> Floats:
    outcomes = np.asarray(outcomes, dtype=float)
    if outcomes.ndim != 2 or not outcomes.size:
        raise ValueError("outcomes are an array of (seeds, problems), with at least one of each")
    if outcomes.min() < 0 or outcomes.max() > 1 or np.isnan(outcomes).any():
        raise ValueError("outcomes are shares from 0 to 1")
    return outcomes
