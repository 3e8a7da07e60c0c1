"""Later against earlier checkpoints, where the dividing step was chosen by looking."""

from __future__ import annotations

import numpy as np
import pytest

from openrs.evaluation.statistics import best_split


def test_a_step_is_found_where_it_is() -> None:
    steps = list(range(50, 550, 50))
    scores = [0.8 if step <= 200 else 0.7 for step in steps]
    found = best_split([*steps, *steps], [*scores, *(score + 0.1 for score in scores)], ["a"] * 10 + ["b"] * 10)
    assert (found.after, found.splits, found.checkpoints) == (200, 9, 20)
    assert found.gain == pytest.approx(-0.1) and found.p < 0.001


def test_levels_of_series_are_no_trend() -> None:
    """One series is better and was trained for longer: within each, nothing changes."""
    found = best_split([1, 2, 3, 4, 3, 4, 5, 6], [0.1] * 4 + [0.9] * 4, list("aaaabbbb"))
    assert found.gain == pytest.approx(0) and found.p > 0.9


def test_looking_for_the_step_is_paid_for() -> None:
    rng = np.random.default_rng(0)
    ps = [best_split(list(range(12)), rng.normal(size=12).tolist(), ["a"] * 12, draws=400).p for _ in range(400)]
    assert np.mean(np.array(ps) <= 0.05) <= 0.08 and np.mean(ps) == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize(
    ("steps", "series"), [([1, 2, 3], "aaa"), ([1, 1, 1, 1], "aaaa"), ([1, 2, 3, 4], "abcd"), ([1, 2, 3, 4], "aaa")]
)
def test_what_cannot_be_divided_is_refused(steps: list[int], series: str) -> None:
    with pytest.raises(ValueError, match=r"four checkpoints|no step divides"):
        best_split(steps, [0.1, 0.2, 0.3, 0.4][: len(steps)], list(series))
