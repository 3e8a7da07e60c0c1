"""Wilson's interval."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from openrs.evaluation.interval import wilson


@given(st.integers(1, 100_000), st.data())
def test_it_is_wilsons_and_holds_the_share(n: int, data: st.DataObject) -> None:
    correct = data.draw(st.integers(0, n))
    low, high = wilson(correct, n)
    assert 0 <= low <= correct / n <= high <= 1
    reference = binomtest(correct, n).proportion_ci(0.95, "wilson")
    assert (low, high) == pytest.approx((reference.low, reference.high), abs=1e-12)


def test_the_papers_14_of_30() -> None:
    assert wilson(14, 30) == pytest.approx((0.302, 0.639), abs=1e-3)


@pytest.mark.parametrize(("correct", "n"), [(0, 0), (2, 1), (-1, 3)])
def test_no_share(correct: int, n: int) -> None:
    with pytest.raises(ValueError, match="no share"):
        wilson(correct, n)
