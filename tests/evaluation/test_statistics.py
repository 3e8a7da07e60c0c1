"""The statistics against other formulas, other packages and their own definitions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from statistics import mean, stdev

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from openrs.evaluation import statistics as ours
from openrs.evaluation.statistics.compare import compare_sampling
from openrs.evaluation.statistics.intervals import Floats

OUTCOMES = arrays.arrays(
    np.float64, st.tuples(st.integers(1, 5), st.integers(1, 12)), elements=st.sampled_from([0.0, 1.0])
)


def drawn(accuracy: float, seeds: int, problems: int, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    return (rng.random((seeds, problems)) < rng.beta(accuracy, 1 - accuracy, problems)).astype(float)


# Descriptions.


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_mean_and_deviation_are_pythons(scores: list[float]) -> None:
    found, sd = ours.mean_sd(scores)
    assert found == pytest.approx(mean(scores)) and sd == pytest.approx(stdev(scores), abs=1e-9)


def test_one_seed_has_no_deviation() -> None:
    assert ours.mean_sd([0.4]) == (0.4, None)
    with pytest.raises(ValueError, match="no scores"):
        ours.mean_sd([])


@given(st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_all_choices_of_k(case: tuple[int, int, int]) -> None:
    n, right, k = case
    answers = [True] * right + [False] * (n - right)
    choices = list(itertools.combinations(answers, k))
    assert ours.pass_at_k([right], n, k) == pytest.approx(sum(map(any, choices)) / len(choices))


def test_pass_at_k_of_many_samples_neither_overflows_nor_loses_digits() -> None:
    expected = 1 - math.comb(900, 500) / math.comb(1000, 500)
    assert ours.pass_at_k([100], 1000, 500) == pytest.approx(expected, abs=1e-12)


def test_avg_at_k() -> None:
    outcomes = np.array([[1.0, 0.0], [1.0, 1.0]])
    assert (ours.avg_at_k(outcomes, 1), ours.avg_at_k(outcomes)) == (0.5, 0.75)


@pytest.mark.parametrize(
    "call",
    [
        lambda: ours.avg_at_k(np.ones((2, 2)), 3),
        lambda: ours.pass_at_k([3], 2, 1),
        lambda: ours.pass_at_k([], 2, 1),
        lambda: ours.pass_at_k([1], 2, 3),
        lambda: ours.problem_interval(np.ones(3)),
        lambda: ours.problem_interval(np.full((2, 2), 1.5)),
        lambda: ours.problem_interval(np.full((2, 2), np.nan)),
        lambda: ours.compare_paired(np.ones((1, 3)), np.ones((1, 4))),
        lambda: ours.compare_scores([0.1], [0.2, 0.3]),
        lambda: ours.compare_summaries(0.1, 0.0, 3, 0.2, 0.0, 3),
        lambda: ours.expected_maximum(1.2, 30, 3),
        lambda: ours.expected_normal_maximum(0),
        lambda: ours.minimal_detectable_gain(-1, 3),
        lambda: ours.shrunken_best([0.1, 0.2], 0.1),
        lambda: ours.split_best(np.ones((1, 3))),
        lambda: ours.split_problems_best(np.ones((2, 3))),
        lambda: ours.noise_of_outcomes(np.ones((5, 1))),
    ],
)
def test_what_cannot_be_answered_is_refused(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        call()


# Intervals.


@settings(deadline=None)
@given(OUTCOMES)
def test_every_interval_holds_the_score_and_stays_between_0_and_1(outcomes: Floats) -> None:
    score = float(outcomes.mean())
    for interval in (
        ours.problem_interval(outcomes, draws=200),
        ours.sampling_interval(outcomes),
        ours.seeds_interval(outcomes.mean(axis=1).tolist(), outcomes.shape[1]),
    ):
        assert 0 <= interval.low <= score + 1e-12 and score - 1e-12 <= interval.high <= 1
        assert interval.low < interval.high  # no number of answers makes sure


def test_each_interval_says_which_question_it_answers() -> None:
    one, many = drawn(0.5, 1, 30), drawn(0.5, 5, 30)
    assert ours.problem_interval(one).method == "Wilson"
    assert not ours.problem_interval(one).conservative and ours.sampling_interval(one).conservative
    assert {ours.problem_interval(outcomes).question for outcomes in (one, many)} == {ours.NEW}
    assert {ours.sampling_interval(outcomes).question for outcomes in (one, many)} == {ours.THESE}


def test_the_bootstrap_is_scipys_but_for_its_ends() -> None:
    values = drawn(0.4, 8, 60, seed=3).mean(axis=0)
    sampled = ours.bootstrap_means(values[:, None], 20_000)
    other = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1))
    assert np.quantile(sampled, [0.025, 0.975]) == pytest.approx(list(other.confidence_interval), abs=0.005)
    assert sampled.mean() == pytest.approx(values.mean(), abs=0.003)
    (interval,) = ours.bootstrap_intervals(values[:, None])
    t = stats.t.ppf(0.975, 59) * values.std(ddof=1) / math.sqrt(60)
    assert (interval.high - interval.low) / 2 == pytest.approx(t, rel=0.03)


def test_the_bootstrap_repeats_itself_and_does_not_depend_on_its_neighbours() -> None:
    values = drawn(0.4, 3, 50).mean(axis=0)[:, None]
    both = ours.bootstrap_intervals(np.hstack([values, 1 - values]))
    assert ours.bootstrap_intervals(values) == ours.bootstrap_intervals(values)
    alone, beside = ours.bootstrap_intervals(values)[0], both[0]
    # To rounding: a product of matrices may add in another order than one of a matrix and a vector.
    assert (beside.low, beside.high) == pytest.approx((alone.low, alone.high), rel=1e-12)
    assert both[1].low == pytest.approx(1 - both[0].high, abs=0.01)


def test_sampling_noise_is_the_seeds_deviation() -> None:
    """Two estimates of one thing: from within the problems, and from the scores of many seeds."""
    outcomes = drawn(0.5, 400, 50)
    within, over = ours.sampling_interval(outcomes), ours.seeds_interval(outcomes.mean(axis=1).tolist(), 50)
    assert within.high - within.low == pytest.approx(over.high - over.low, rel=0.1)
    assert ours.problem_interval(outcomes).high - within.high > 0.05  # other problems are another matter


def test_wilson_is_too_wide_for_the_same_problems_and_never_too_narrow() -> None:
    outcomes = drawn(0.5, 200, 60)
    one_seed = ours.wilson_interval(0.5, 60)
    assert one_seed.high - one_seed.low > 2 * 1.96 * outcomes.mean(axis=1).std()


def test_other_hardware_is_pooled_on_request_only() -> None:
    assert ours.one_hardware(["A40", "A40"]) == "A40"
    with pytest.raises(ours.Unpoolable, match="A40, L40"):
        ours.one_hardware(["L40", "A40"])
    assert ours.one_hardware(["L40", "A40"], pool=True) == "A40 + L40"


# Comparisons.


def test_sign_flips_are_all_of_them() -> None:
    a, b = drawn(0.6, 3, 10, seed=1), drawn(0.4, 3, 10, seed=2)
    differences = a.mean(axis=0) - b.mean(axis=0)
    flips = np.array(list(itertools.product((-1, 1), repeat=10)))
    exact = (np.abs(flips @ differences) >= abs(differences.sum()) - 1e-12).mean()
    assert ours.compare_paired(a, b).p == pytest.approx(exact, abs=0.015)


def test_one_seed_a_side_is_mcnemars_test() -> None:
    a, b = np.zeros((1, 40)), np.zeros((1, 40))
    a[0, :12], b[0, 9:13] = 1, 1  # 9 problems only here, 1 only there
    assert ours.compare_paired(a, b).p == pytest.approx(stats.binomtest(1, 10).pvalue, abs=0.005)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_a_comparison_turns_round(data: st.DataObject) -> None:
    problems = data.draw(st.integers(2, 15))
    a, b = (
        data.draw(arrays.arrays(np.float64, (2, problems), elements=st.sampled_from([0.0, 0.5, 1.0]))) for _ in range(2)
    )
    one, other = ours.compare_paired(a, b, draws=500), ours.compare_paired(b, a, draws=500)
    assert one.gain == -other.gain and one.p == other.p
    assert one.low == pytest.approx(-other.high, abs=0.15)
    assert one.low - 1e-12 <= one.gain <= one.high + 1e-12
    assert 0 < one.p <= 1


def test_the_same_model_is_never_distinguishable() -> None:
    outcomes = drawn(0.5, 4, 50)
    same = ours.compare_paired(outcomes, outcomes)
    assert same.gain == 0 and same.p == 1 and same.low < 0 < same.high and not same.distinguishable()


def test_what_differs_much_is_distinguishable_until_many_others_are_counted() -> None:
    a, b = drawn(0.9, 10, 200, seed=1), drawn(0.3, 10, 200, seed=2)
    found = ours.compare_paired(a, b)
    assert found.distinguishable() and not found.distinguishable(adjusted=0.06)


def test_newcombes_own_example() -> None:
    """56/70 against 48/80: 0.0524 to 0.3339 (Newcombe 1998, table II, method 10)."""
    found = ours.compare_counts(56 / 70, 70, 48 / 80, 80)
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=1e-4)
    table = [[56, 14], [48, 32]]
    assert found.p == pytest.approx(stats.chi2_contingency(table, correction=False).pvalue)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=9), st.lists(st.floats(0, 1), min_size=2, max_size=9))
def test_welch_is_scipys(a: list[float], b: list[float]) -> None:
    if np.std(a) < 1e-3 or np.std(b) < 1e-3:
        return
    found, other = ours.compare_scores(a, b), stats.ttest_ind(a, b, equal_var=False)
    assert found.p == pytest.approx(other.pvalue, abs=1e-9)
    assert (found.low, found.high) == pytest.approx(tuple(other.confidence_interval()), abs=1e-9)


def test_the_same_problems_are_a_question_of_their_own() -> None:
    a, b = drawn(0.5, 50, 40, seed=1), drawn(0.5, 50, 40, seed=2)
    here, new = compare_sampling(a, b), ours.compare_paired(a, b)
    assert here is not None and here.question == ours.THESE and here.high - here.low < (new.high - new.low) / 3
    assert compare_sampling(a[:1], b) is None and compare_sampling(np.ones((2, 3)), np.ones((2, 3))) is None


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_is_its_definition(ps: list[float]) -> None:
    adjusted = ours.holm(ps)
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    for rank, index in enumerate(order):
        expected = max((len(ps) - j) * ps[order[j]] for j in range(rank + 1))
        assert adjusted[index] == pytest.approx(min(1.0, expected))
    assert all(a >= p for a, p in zip(adjusted, ps, strict=True))


def test_holm_of_an_example() -> None:
    assert ours.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


# Choosing.


@pytest.mark.parametrize(("score", "problems", "checkpoints"), [(0.3, 30, 21), (0.8, 40, 3), (0.5, 1, 2), (0.3, 30, 1)])
def test_the_best_of_equals_is_what_a_simulation_says(score: float, problems: int, checkpoints: int) -> None:
    best = np.random.default_rng(0).binomial(problems, score, (100_000, checkpoints)).max(axis=1) / problems
    assert ours.expected_maximum(score, problems, checkpoints) == pytest.approx(best.mean(), abs=0.005)


def test_the_papers_46_7_is_what_the_best_of_21_equals_gives() -> None:
    assert ours.expected_maximum(0.30, 30, 21) == pytest.approx(0.463, abs=0.001)


def test_normal_maxima_of_the_tables() -> None:
    """Harter (1961), table 1."""
    for count, expected in ((1, 0.0), (2, 0.56419), (5, 1.16296), (10, 1.53875), (21, 1.88917)):
        assert ours.expected_normal_maximum(count) == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("spread", [0.0, 0.03])
@pytest.mark.parametrize("way", ["seeds", "problems"])
def test_the_corrected_best_is_right_on_average(spread: float, way: str) -> None:
    rng = np.random.default_rng(7)
    errors, raw = [], []
    for _ in range(150):
        true = np.clip(rng.beta(0.5, 0.5, 60)[:, None] + rng.normal(0, spread, 12), 0, 1)
        outcomes = (rng.random((4, *true.shape)) < true).astype(float)
        found = (
            ours.split_best(outcomes.mean(axis=1), splits=40)
            if way == "seeds"
            else ours.split_problems_best(outcomes.mean(axis=0), splits=40)
        )
        errors.append(found.corrected - true[:, found.index].mean())
        raw.append(found.raw - true[:, found.index].mean())
    assert abs(np.mean(errors)) < 0.01 < np.mean(raw)


def test_equals_shrink_to_their_mean_and_clear_leads_stay() -> None:
    noisy = ours.shrunken_best([0.30, 0.33, 0.27, 0.30, 0.47], 0.02)
    assert noisy.index == 4 and noisy.corrected == pytest.approx(0.334)
    clear = ours.shrunken_best([0.30, 0.33, 0.27, 0.30, 0.47], 1e-6)
    assert clear.corrected == pytest.approx(0.47, abs=1e-3)


def test_checkpoints_without_any_noise_need_no_correction() -> None:
    found = ours.split_best(np.tile([0.1, 0.5, 0.3], (6, 1)))
    assert (found.index, found.raw, found.corrected, found.held_out) == (1, 0.5, 0.5, 0.5)
    assert ours.split_best(np.full((4, 3), 0.2)).corrected == pytest.approx(0.2)


def test_the_detectable_gain_is_detected_so_often() -> None:
    gain = ours.minimal_detectable_gain(0.05, 10)
    rng = np.random.default_rng(0)
    found = [
        ours.compare_scores(rng.normal(0.3 + gain, 0.05, 10).tolist(), rng.normal(0.3, 0.05, 10).tolist()).p <= 0.05
        for _ in range(2000)
    ]
    assert np.mean(found) == pytest.approx(0.8, abs=0.03)


def test_with_one_seed_a_side_the_detectable_gain_of_a_known_deviation_is_detected_so_often() -> None:
    """As a report compares them: paired by problem."""
    gain = ours.minimal_detectable_gain(math.sqrt(0.25 / 1000), 1, known=True)
    assert gain == pytest.approx(2.8016 * math.sqrt(0.5 / 1000), rel=1e-4)
    rng = np.random.default_rng(0)

    def one_seed(accuracy: float) -> Floats:
        return (rng.random((1, 1000)) < accuracy).astype(float)

    found = [
        ours.compare_paired(one_seed(0.5 + gain / 2), one_seed(0.5 - gain / 2), draws=399).p <= 0.05 for _ in range(250)
    ]
    assert np.mean(found) == pytest.approx(0.8, abs=0.07)


def test_more_seeds_see_smaller_gains_and_one_sees_none() -> None:
    gains = [ours.minimal_detectable_gain(0.048, seeds) for seeds in (1, 2, 3, 10, 30)]
    assert gains[0] == math.inf and gains == sorted(gains, reverse=True)
    assert gains[-1] == pytest.approx(0.0353, abs=1e-4)
    assert ours.minimal_detectable_gain(0.048, 30, baseline_seeds=1) > gains[-1]
