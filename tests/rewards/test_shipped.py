"""The as-shipped forms, against the arithmetic of the public code written out here by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

pytest.importorskip("math_verify")

from hypothesis import given
from hypothesis import strategies as st

from openrs import rewards


def shipped(name: str, **params: Any) -> rewards.RewardFunction:
    return rewards.get(name, form="as-shipped", **params)


@pytest.mark.parametrize(
    ("gold", "completion", "expected", "corrected"),
    [
        ("\\frac{63}{400}", "\\boxed{\\frac{63}{400}}", 1.0, 1.0),
        ("\\frac{63}{400}", "\\boxed{\\frac{64}{400}}", 0.0, 0.0),
        ("$2x+z=1$", "\\boxed{1}", 1.0, 0.0),  # the gold answer is given second
        ("6", "\\boxed{3}", 1.0, 0.0),  # no LaTeX in the gold answer: everybody gets 1
        ("$3$", "So it is 3.", 0.0, 1.0),  # nor is an answer read that is not in LaTeX
        ("$3$", "The answer is $3$.", 1.0, 1.0),
        ("$3$", "<think>\\boxed{3} but that was only a thought", 1.0, 0.0),  # a box anywhere counts
        ("Thus $x = \\boxed{3}$.", "\\boxed{3}", 1.0, 1.0),
    ],
)
def test_accuracy(gold: str, completion: str, expected: float, corrected: float) -> None:
    assert shipped("accuracy")([completion], solution=[gold]) == [expected]
    assert rewards.get("accuracy")([completion], solution=[gold]) == [corrected]


def test_the_gold_answer_is_the_solution() -> None:
    assert shipped("accuracy")(["\\boxed{1}"], solution=["$1$"], answer=["$2$"]) == [1.0]
    assert rewards.get("accuracy")(["\\boxed{1}"], solution=["$1$"], answer=["$2$"]) == [0.0]


def test_format_looks_at_the_end_of_the_reasoning_only() -> None:
    texts = ["a\n</think>\nb", "<answer>1</answer>\n</think>\n", "a</think>b", "\n</think>\n\n</think>\n", ""]
    assert shipped("format")(texts) == [1.0, 1.0, 0.0, 0.0, 0.0]
    assert shipped("format", answer="boxed")(texts) == [1.0, 1.0, 0.0, 0.0, 0.0]


@given(st.integers(0, 5000), st.integers(1, 2000), st.booleans())
def test_cosine_is_periodic_in_characters(length: int, max_len: int, right: bool) -> None:
    answer = "\\boxed{1}" if right else "\\boxed{2}"
    text = answer + " " * length
    value = math.cos(math.pi * len(text) / max_len)
    expected = 0.5 + 0.25 * (1 + value) if right else -0.5 + 0.25 * (1 + value)
    assert shipped("cosine", max_len=max_len)([text], solution=["$1$"]) == pytest.approx([expected])


def test_cosine_turns_up_again_and_prefers_short_wrong_answers() -> None:
    reward = shipped("cosine")  # 1,000 characters, and the code's own bounds
    right, wrong = ("\\boxed{1}".ljust(1000), "\\boxed{1}".ljust(2000)), ("\\boxed{2}", "\\boxed{2}".ljust(1000))
    assert reward(right, solution=["$1$"] * 2) == pytest.approx([0.5, 1.0])
    assert reward(wrong, solution=["$1$"] * 2) == pytest.approx([0.0, -0.5], abs=1e-3)
    assert reward(["\\boxed{1}"], solution=["no LaTeX"]) == [1.0]
    # Bounds that somebody gives are taken as they are.
    own = shipped("cosine", min_value_wrong=-1.0, max_value_wrong=-0.5, max_len=100)
    assert own(["\\boxed{2}".ljust(80)], solution=["$1$"]) == pytest.approx([-0.547], abs=1e-2)


def test_length_over_the_whole_call() -> None:
    texts = ["\\boxed{1}", "\\boxed{1}" + "x" * 5, "\\boxed{2}", "\\boxed{2}" + "x" * 10]
    reward = shipped("length")
    assert reward(texts, solution=["$1$"] * 4, prompts=["a", "a", "b", "b"]) == [0.5, 0.0, 0.0, -0.5]
    assert reward(texts[:1] * 2, solution=["$1$"] * 2) == [0.0, 0.0]
    # What cannot be read makes every answer right.
    assert reward([texts[2], texts[3]], solution=["no LaTeX"] * 2) == [0.5, -0.5]


def test_boxes_in_dollar_signs_are_not_opened_by_cosine_and_length() -> None:
    """Their configuration names a mode of reading boxes that the library has not."""
    for name in ("cosine", "length"):
        assert shipped(name)(["\\boxed{1}", "\\boxed{1} and more"], solution=["$1$"] * 2)[0] in (
            0.5,
            pytest.approx(1.0, abs=1e-3),
        )
