"""The stricter rule: what it closes, and that it changes little else."""

from __future__ import annotations

import pytest

pytest.importorskip("math_verify")

from openrs import rewards

FALSE_ACCEPTS = [
    ("1/2004!", "1/2006!"),
    ("\\frac{1}{2004!}", "\\frac{1}{2006!}"),
    ("2^{-99}", "2^{-98}"),
    ("12:00", "1:00"),
    ("(1,2)", "\\{1,2\\}"),
    ("\\{1,2\\}", "(1,2)"),
    ("0.0000001", "0.0000002"),
]
FALSE_REJECTS = [
    ("45", "45°"),
    ("45^\\circ", "45"),
    ("50", "50\\%"),
    ("50\\%", "50"),
    ("Yes", "yes"),
    ("\\text{yes}", "YES"),
    ("60^{\\circ}", "60\\text{ degrees}"),
]
SAME = [
    ("1/2004!", "1/2004!", 1.0),
    ("12:00", "12:00", 1.0),
    ("1:2", "2:4", 1.0),
    ("(1,2)", "(1, 2)", 1.0),
    ("(2,1)", "(1,2)", 0.0),
    ("\\{1,2\\}", "\\{2,1\\}", 1.0),
    ("[0,1)", "[0,1)", 1.0),
    ("1,2", "(1,2)", 1.0),
    ("0.5", "50\\%", 1.0),
    ("1/3", "0.333333", 1.0),
    ("x=5", "5", 1.0),
    ("2x+z=1", "1", 0.0),
    ("\\text{east}", "West", 0.0),
    ("no solution", "\\text{No solution}", 1.0),
    ("no solution", "solution no", 0.0),
    ("15", "0.15", 0.0),
    ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", 1.0),
]


@pytest.mark.parametrize(("gold", "answer"), FALSE_ACCEPTS)
def test_false_accepts(gold: str, answer: str) -> None:
    assert rewards.get("accuracy")([f"\\boxed{{{answer}}}"], answer=[gold]) == [1.0]  # as math-verify has it
    assert rewards.get("accuracy", strict=True)([f"\\boxed{{{answer}}}"], answer=[gold]) == [0.0]


@pytest.mark.parametrize(("gold", "answer"), FALSE_REJECTS)
def test_false_rejects(gold: str, answer: str) -> None:
    assert rewards.get("accuracy", strict=True)([f"\\boxed{{{answer}}}"], answer=[gold]) == [1.0]


@pytest.mark.parametrize(("gold", "answer", "expected"), SAME)
def test_the_rest(gold: str, answer: str, expected: float) -> None:
    assert rewards.get("accuracy", strict=True)([f"\\boxed{{{answer}}}"], answer=[gold]) == [expected]


@pytest.mark.parametrize(
    "text",
    [
        "First 70,\nthen 3 more.\nIt is **73**",
        "It makes\nseventy and three, so 73",
        "</think>\n**Answer:** **73**",
        "73",
    ],
)
def test_answers_without_a_mark(text: str) -> None:
    assert rewards.get("accuracy", strict=True)([text], answer=["73"]) == [1.0]
    assert rewards.get("accuracy", strict=True)(["<think>" + text], answer=["73"]) == [0.0 if "</" not in text else 1.0]


def test_strict_is_for_all_that_judge() -> None:
    for name in ("cosine", "length"):
        wrong = rewards.get(name, strict=True)(
            ["\\boxed{1:00}"] * 2, answer=["12:00"] * 2, completion_ids=[[1], [1, 2]]
        )
        assert all(value is not None and value <= 0 for value in wrong)
