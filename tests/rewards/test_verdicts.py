"""Our verdicts are plain math-verify's, but for reasons that are known. The whole list: `python -m tests.rewards.verdicts`."""

from __future__ import annotations

import random

import pytest

pytest.importorskip("math_verify")

from openrs.rewards.verifier import answers, grade
from tests.rewards.corpus import cases, data_directory, golds
from tests.rewards.verdicts import differences

SAMPLE = 2_000


def test_an_answer_that_is_the_gold_one_is_equal_to_math_verify_too() -> None:
    directory = data_directory()
    if directory is None:
        pytest.skip("OPENRS_SHARED names no directory with data/*.jsonl")
    texts = [text for text in golds(directory) if answers.integer(f"${text}$") is None]
    shortened = 0
    for text in random.Random(1).sample(texts, 400):
        wanted, given = answers.gold(text), answers.locate(f"So $\\boxed{{{text}}}$.").text
        if answers.same(wanted, given):
            shortened += 1
            assert grade.matches(grade.gold("math-verify", wanted), grade.read(given)), text
    assert shortened > 200


@pytest.mark.slow
def test_every_difference_has_a_reason() -> None:
    directory = data_directory()
    if directory is None:
        pytest.skip("OPENRS_SHARED names no directory with data/*.jsonl")
    found = list(cases(directory))
    assert len(found) >= 20_000
    differing = differences(random.Random(0).sample(found, SAMPLE))
    assert [one for one in differing if one.reason is None] == []
    expected = {"reasoning cut", "reasoning cut, unmarked", "box in the reasoning only", "no box", "answer tag"}
    others = [one for one in differing if one.case.kind not in expected]
    assert len(others) <= SAMPLE // 200
