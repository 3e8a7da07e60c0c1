import subprocess
import sys
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openrs.data import sums

splits: st.SearchStrategy[sums.Split] = st.sampled_from(["train", "held_out"])
seeds = st.integers(0, 2**63)
PINNED_TRAIN = ["2+4+1+7+2=?", "7-3-2+8+1=?", "6-3+7-3+4=?"]
PINNED_HELD_OUT = ["5+1+9=?", "1+1+8=?", "5+3-2=?"]


@st.composite
def problems(draw: st.DrawFn) -> str:
    """Any problem of either split."""
    return sums.generate(draw(splits), 1, draw(seeds))[0]["problem"]


@given(splits, seeds)
def test_answer_is_what_python_evaluates(split: sums.Split, seed: int) -> None:
    for row in sums.generate(split, 20, seed):
        assert row.keys() == {"problem", "answer"}
        assert row["answer"] == str(eval(row["problem"].removesuffix("=?")))


@given(problems())
def test_terms_are_few_single_digits_and_no_running_total_is_negative(problem: str) -> None:
    expression = problem.removesuffix("=?")
    terms = expression.replace("-", "+").split("+")
    assert 3 <= len(terms) <= 5
    assert all(len(term) == 1 and term in "123456789" for term in terms)
    assert all(eval(expression[: end + 1]) >= 0 for end in range(0, len(expression), 2))


@given(splits, seeds)
def test_rows_belong_to_their_split(split: sums.Split, seed: int) -> None:
    for row in sums.generate(split, 20, seed):
        held_out = zlib.crc32(row["problem"].removesuffix("=?").encode()) % 10 == 0
        assert held_out == (split == "held_out")


def test_splits_share_no_problem_and_held_out_rows_are_distinct() -> None:
    train = {row["problem"] for row in sums.generate("train", 20_000, 0)}
    held_out = {row["problem"] for row in sums.generate("held_out", 20_000, 1)}
    assert len(train) == len(held_out) == 20_000
    assert not train & held_out


@given(splits, seeds, st.integers(1, 30), st.integers(1, 30))
def test_same_seed_gives_the_same_rows_and_a_smaller_count_a_prefix(
    split: sums.Split, seed: int, count: int, more: int
) -> None:
    rows = sums.generate(split, count, seed)
    assert rows == sums.generate(split, count, seed)
    assert rows == sums.generate(split, count + more, seed)[:count]


def test_rows_stay_what_they_were() -> None:
    # Published numbers name a split and a seed: changing the generator changes what they were measured on.
    assert [row["problem"] for row in sums.generate("train", 3, 0)] == PINNED_TRAIN
    assert [row["problem"] for row in sums.generate("held_out", 3, 0)] == PINNED_HELD_OUT


def test_different_seeds_give_different_rows() -> None:
    assert sums.generate("train", 20, 0) != sums.generate("train", 20, 1)


def test_train_repeats_rows_only_after_a_whole_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sums.DISTINCT, "train", 50)
    rows = [row["problem"] for row in sums.generate("train", 120, 0)]
    assert len(rows) == 120
    assert len(set(rows[:50])) == len(set(rows[50:100])) == 50


@pytest.mark.parametrize("count", [0, -1])
def test_count_below_one_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        sums.generate("train", count, 0)


def test_more_held_out_rows_than_are_promised_distinct_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 20000"):
        sums.generate("held_out", 20_001, 0)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="train or held_out"):
        sums.generate("test", 1, 0)  # type: ignore[arg-type]


def test_worked_solution_of_the_documented_example() -> None:
    assert sums.worked_solution("3+8-2+1=?") == "<think>3+8=11;11-2=9;9+1=10</think>\n\\boxed{10}"


@given(problems())
def test_every_step_of_a_worked_solution_is_true(problem: str) -> None:
    think, _, box = sums.worked_solution(problem).partition("</think>\n")
    steps = think.removeprefix("<think>").split(";")
    assert all(eval(step.replace("=", "==")) for step in steps)
    assert box == f"\\boxed{{{eval(problem.removesuffix('=?'))}}}"
    assert steps[-1].endswith(f"={eval(problem.removesuffix('=?'))}")


@given(problems())
def test_a_worked_solution_counts_as_worked_and_a_guess_does_not(problem: str) -> None:
    worked = sums.worked_solution(problem)
    assert sums.is_worked(worked, problem)
    assert not sums.is_worked(f"<think></think>\n\\boxed{{{sums.answer_to(problem)}}}", problem)
    assert not sums.is_worked(worked.replace("</think>", ""), problem)


@pytest.mark.parametrize(
    ("think", "worked"),
    [
        ("3+8=11;11-2=9;9+1=10", True),
        ("3+8=12;12-2=10;10+1=11", True),  # bad arithmetic, but worked
        ("3+8=11;11-2=9", False),  # a step is missing
        ("3+8=11;11-3=8;8+1=9", False),  # another problem's term
        ("3+8=11;11+2=13;13+1=14", False),  # another problem's operator
        ("3+8=11;11-2=9;9+1=10;", False),
        ("10", False),
    ],
)
def test_is_worked_follows_the_problems_operators_and_terms(think: str, worked: bool) -> None:
    assert sums.is_worked(f"<think>{think}</think>\n\\boxed{{10}}", "3+8-2+1=?") is worked


@pytest.mark.parametrize("problem", ["", "3+8", "3+8=?", "3+8-2+1", "3*8-2=?", "0+1+2=?", "1+2+3+4+5+6=?"])
def test_a_text_that_is_no_problem_is_refused(problem: str) -> None:
    with pytest.raises(ValueError, match="not a problem of this set"):
        sums.answer_to(problem)
    with pytest.raises(ValueError, match="not a problem of this set"):
        sums.worked_solution(problem)


def test_the_generator_imports_no_heavy_package() -> None:
    code = "import sys, openrs.data.sums; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
