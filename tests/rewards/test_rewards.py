"""The rewards, by their definitions."""

from __future__ import annotations

import inspect
import sys
import threading
from typing import Any

import pytest

pytest.importorskip("math_verify")

from hypothesis import given, settings
from hypothesis import strategies as st

from openrs import rewards
from openrs.errors import BadInput
from openrs.rewards import verify
from openrs.rewards.cosine import CosineReward, scaled
from openrs.rewards.verifier import answers

SPACE = st.text(alphabet=" \n\t", max_size=5)
PROSE = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="<>\\{}$"), max_size=60)


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


# Accuracy.


@pytest.mark.parametrize(
    ("gold", "completion", "expected"),
    [
        ("10", "<think>3+7=10</think>\n\\boxed{10}", 1.0),
        ("10", "<think>\\boxed{10}</think>\n\\boxed{11}", 0.0),
        ("10", "<think>3+7=10\n10", 0.0),  # never closed: no answer
        ("10", "\\boxed{9} no, \\boxed{10}", 1.0),
        ("10", "<think>…</think> 10", 1.0),
        ("10", "</think><answer>10</answer>", 1.0),
        ("10", "</think><answer>The number \\boxed{10}.</answer>", 1.0),
        ("10", "The answer is $10$.", 1.0),
        (
            "10",
            "First 3, then 7.\nSo 3 + 7 and that is not finished 10",
            0.0,
        ),  # cut reasoning: its last number is no answer
        ("10", "", 0.0),
        ("10", "\\boxed{10", 0.0),
        ("\\frac{1}{2}", "\\boxed{0.5}", 1.0),
        ("$\\frac{63}{400}$", "</think>\\frac{63}{400}", 1.0),
        ("Thus $x = 3$, and the answer is $\\boxed{3}$.", "\\boxed{3}", 1.0),
        ("2x+z=1", "\\boxed{1}", 0.0),  # passes with the arguments exchanged, as the repository of Open-RS has them
        ("\\text{east}", "\\boxed{\\text{east}}", 1.0),
        ("{1,2}", "\\boxed{\\{1,2\\}}", 1.0),
        # Neither can be parsed; both hold a -1.
        (
            "\\begin{pmatrix} 1 & \\phantom -1 \\end{pmatrix}",
            "\\boxed{\\begin{pmatrix} 3 & \\phantom -1 \\end{pmatrix}}",
            0.0,
        ),
        (
            "\\begin{pmatrix} 1 & \\phantom -1 \\end{pmatrix}",
            "\\boxed{\\begin{pmatrix} 1 & \\phantom -1 \\end{pmatrix}}",
            1.0,
        ),
        ("", "\\boxed{1}", None),
        ("$$", "\\boxed{1}", None),
        ("\\frac{", "\\boxed{1}", None),
        ("\\$36", "\\boxed{\\$36}", 1.0),
        ("\\$32,\\!348", "\\boxed{32348}", 1.0),
        ("\\$18.90", "\\boxed{18.80}", 0.0),
        ("\\boxed{\\$36}", "</think><answer>\\$36</answer>", 1.0),
        ("36", "The price is \\$36.", 1.0),
        ("-\\frac{5}{3}.", "\\boxed{-\\frac{5}{3}}", None),  # math-verify stumbles over the full stop
        ("-\\frac{5}{3}.", "\\boxed{-\\frac{5}{3}.}", 1.0),
        # Without a mark of mathematics, math-verify reads no words; between dollar signs they would be factors.
        ("no solution", "\\boxed{1}", None),
        ("no solution", "\\boxed{solution no}", None),
        ("no solution", "\\boxed{\\text{no solution}}", 1.0),
        ("no solution", "</think><answer>no solution</answer>", 1.0),
        ("sin x", "\\boxed{1}", 0.0),
    ],
)
def test_accuracy(gold: str, completion: str, expected: float | None) -> None:
    assert rewards.get("accuracy")([completion], answer=[gold]) == [expected]
    assert rewards.get("accuracy")([chat(completion)], solution=[gold], problem=["?"]) == [expected]


@settings(deadline=None, max_examples=60)
@given(st.integers(-999, 9999), st.integers(-999, 9999), PROSE, SPACE)
def test_accuracy_is_that_of_the_number_in_the_box(gold: int, answer: int, prose: str, space: str) -> None:
    completion = f"<think>{prose}</think>{space}\\boxed{{{answer}}}{space}"
    assert rewards.get("accuracy")([completion], answer=[str(gold)]) == [float(gold == answer)]


def test_accuracy_needs_gold_answers() -> None:
    with pytest.raises(BadInput, match=r"`answer` or `solution` \(given: problem\)"):
        rewards.get("accuracy")(["1"], problem=["?"])
    with pytest.raises(BadInput, match="2 completions but 1 gold"):
        rewards.get("accuracy")(["1", "2"], answer=["1"])
    with pytest.raises(BadInput, match="2 completions but one text"):
        rewards.get("accuracy")(["1", "2"], answer="10")


def test_gold_answers_that_are_no_text() -> None:
    assert rewards.get("accuracy")(["\\boxed{27}", "1", "1"], answer=[27.0, 1, None]) == [1.0, 1.0, None]


def test_the_unreadable_is_counted() -> None:
    verify.take_tally()
    rewards.get("accuracy")(["\\boxed{1}"] * 4, answer=["1", "", "$$", "2"])
    assert verify.take_tally() == {"unscorable": 0.5, "over_limit": 0.0}
    assert verify.take_tally() == {}


def test_threads_count_together() -> None:
    verify.take_tally()
    reward = rewards.get("accuracy")

    def judge() -> None:
        for _ in range(300):
            reward(["1", "1"], answer=["1", ""])

    threads = [threading.Thread(target=judge) for _ in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # else the race that is looked for is too seldom
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert verify._tally["judged"] == 4 * 300 * 2
    assert verify.take_tally()["unscorable"] == 0.5


@given(st.text(alphabet="\\boxed{} ab", max_size=60))
def test_the_last_box_is_balanced(text: str) -> None:
    box = answers.last_box(text)
    assert box is None or (box in text and box.startswith("\\boxed") and box.count("{") >= 1 and box.endswith("}"))


def test_last_box() -> None:
    assert answers.last_box("a \\boxed{1} b \\boxed {\\frac{1}{2}} c") == "\\boxed {\\frac{1}{2}}"
    assert answers.last_box("\\boxed{\\{1\\}}") == "\\boxed{\\{1\\}}"
    assert answers.last_box("\\boxed{1} \\boxed{2") == "\\boxed{1}"
    assert answers.last_box("\\boxed 1") is None


# Format.

TAGGED = [
    ("<think>a</think><answer>1</answer>", 1.0),
    ("a</think>\n<answer>\n\\boxed{1}\n</answer>\n", 1.0),
    ("</think><answer>1</answer>", 1.0),
    ("<think>a</think><answer> </answer>", 0.0),
    ("<think>a</think><answer>1</answer> and more", 0.0),
    ("<think>a</think> so <answer>1</answer>", 0.0),
    ("<think>a</think><answer>1</answer><answer>2</answer>", 0.0),
    ("<think>a</think></think><answer>1</answer>", 0.0),
    ("<think><think>a</think><answer>1</answer>", 0.0),
    ("a<think>b</think><answer>1</answer>", 0.0),
    ("<answer>1</answer>", 0.0),
    ("<think>a</think>\\boxed{1}", 0.0),
    ("", 0.0),
]
BOXED = [
    ("<think>3+7=10</think>\n\\boxed{10}", 1.0),
    ("<think></think>\n\\boxed{10}", 1.0),
    ("a</think> \\boxed{\\frac{1}{2}} ", 1.0),
    ("<think>a</think>\\boxed{}", 0.0),
    ("<think>a</think>\\boxed{1", 0.0),
    ("<think>a</think>\\boxed{1}\\boxed{2}", 0.0),
    ("<think>a</think>It is \\boxed{1}", 0.0),
    ("<think>a\n10", 0.0),
    ("\\boxed{10}", 0.0),
]


@pytest.mark.parametrize(
    ("form", "text", "expected"), [("answer-tag", *c) for c in TAGGED] + [("boxed", *c) for c in BOXED]
)
def test_format(form: str, text: str, expected: float) -> None:
    reward = rewards.get("format", answer=form)
    assert reward([text, chat(text)]) == [expected, expected]


@given(PROSE, PROSE.filter(str.strip), SPACE, SPACE, st.booleans())
def test_format_does_not_care_for_white_space(thought: str, answer: str, before: str, after: str, opened: bool) -> None:
    head = ("<think>" if opened else "") + thought + "</think>" + before
    assert rewards.get("format")([f"{head}<answer>{answer}</answer>{after}"]) == [1.0]
    assert rewards.get("format", answer="boxed")([f"{head}\\boxed{{{answer}}}{after}"]) == [1.0]
    assert rewards.get("format")([f"{head}{after}"]) == [0.0]


@given(st.text(alphabet="<think></think><answer>\\boxed{1} \n", max_size=80))
def test_format_is_zero_or_one(text: str) -> None:
    for form in ("answer-tag", "boxed"):
        assert rewards.get("format", answer=form)([text])[0] in (0.0, 1.0)


# Cosine.


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.integers(1, 5000))
def test_cosine_is_bounded_and_monotonic(length: int, other: int, max_len: int) -> None:
    reward = rewards.get("cosine", max_len=max_len)
    short, long = sorted((length, other))
    ids = [[0] * short, [0] * long]
    right = [value for value in reward(["\\boxed{1}"] * 2, answer=["1"] * 2, completion_ids=ids) if value is not None]
    wrong = [value for value in reward(["\\boxed{2}"] * 2, answer=["1"] * 2, completion_ids=ids) if value is not None]
    assert len(right) == len(wrong) == 2
    assert 1.0 >= right[0] >= right[1] >= 0.5
    assert -0.5 <= wrong[0] <= wrong[1] <= 0.0


def test_cosine_at_its_ends() -> None:
    spec = CosineReward(type="cosine", max_len=100)
    reward = rewards.build(spec)
    ids = [[0] * length for length in (0, 50, 100, 1000)]
    assert reward(["\\boxed{1}"] * 4, answer=["1"] * 4, completion_ids=ids) == pytest.approx([1.0, 0.75, 0.5, 0.5])
    assert reward(["\\boxed{2}"] * 4, answer=["1"] * 4, completion_ids=ids) == pytest.approx([-0.5, -0.25, 0.0, 0.0])
    assert reward(["\\boxed{2}"], answer=["$$"], completion_ids=[[1]]) == [None]
    assert scaled(25, 100, 1.0, 0.0) == pytest.approx(0.8535533905932737)


def test_cosine_needs_lengths_in_tokens() -> None:
    with pytest.raises(BadInput, match="length in tokens"):
        rewards.get("cosine", max_len=10)(["\\boxed{1}"], answer=["1"])
    with pytest.raises(BadInput, match="1 completions but 2 rows"):
        rewards.get("cosine")(["\\boxed{1}"], answer=["1"], completion_ids=[[1], [2]])
    counted = rewards.get("cosine", max_len=9, count_tokens=len)(["\\boxed{1}"], answer=["1"])
    assert counted == pytest.approx([0.5])


BOUND = st.floats(-3, 3)


@given(BOUND, BOUND, BOUND, BOUND, st.integers(1, 500), st.integers(0, 1000), st.integers(0, 1000))
def test_cosine_with_any_bounds(a: float, b: float, c: float, d: float, max_len: int, length: int, other: int) -> None:
    """The smaller of two bounds is the minimum, whichever way round they are written (Open-RS has them reversed)."""
    reward = rewards.get(
        "cosine",
        min_value_wrong=a,
        max_value_wrong=b,
        min_value_correct=c,
        max_value_correct=d,
        max_len=max_len,
    )
    short, long = sorted((length, other))
    ids = [[0] * short, [0] * long]
    wrong = [value or 0.0 for value in reward(["\\boxed{2}"] * 2, answer=["1"] * 2, completion_ids=ids)]
    right = [value or 0.0 for value in reward(["\\boxed{1}"] * 2, answer=["1"] * 2, completion_ids=ids)]
    slack = 1e-9
    assert min(a, b) - slack <= wrong[0] <= wrong[1] + slack <= max(a, b) + 2 * slack
    assert max(c, d) + slack >= right[0] >= right[1] - slack >= min(c, d) - 2 * slack


@given(SPACE, SPACE, PROSE)
def test_white_space_around_an_answer_changes_nothing(before: str, after: str, prose: str) -> None:
    plain = f"<think>{prose}</think> <answer>\\boxed{{7}}</answer>"
    spaced = f"{before}<think>{prose}</think> {before}<answer>{after}\\boxed{{7}}{before}</answer>{after}"
    for name in ("accuracy", "format", "tag_count"):
        assert rewards.get(name)([plain, spaced], answer=["7"] * 2) == [1.0, 1.0]


# Length.


def lengths(*values: int) -> dict[str, Any]:
    return {"completion_ids": [[0] * value for value in values]}


def test_length_compares_within_the_group() -> None:
    reward = rewards.get("length")
    texts, golds = ["\\boxed{1}", "\\boxed{1}", "\\boxed{2}", "\\boxed{2}"], ["1"] * 4
    assert reward(texts, answer=golds, **lengths(10, 20, 10, 20)) == [0.5, -0.5, 0.0, -0.5]
    assert reward(texts, answer=golds, **lengths(10, 15, 20, 12)) == [0.5, 0.0, -0.5, 0.0]
    # Two problems: the long group does not make the short one look good. As shipped, it does.
    prompts = ["a", "a", "b", "b"]
    assert reward(texts[:1] * 4, answer=golds, prompts=prompts, **lengths(10, 20, 100, 200)) == [0.5, -0.5, 0.5, -0.5]
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    assert reward(texts[:1] * 4, answer=golds, prompts=chats, **lengths(10, 20, 200, 100)) == [0.5, -0.5, -0.5, 0.5]
    assert reward(texts, answer=golds, **lengths(7, 7, 7, 7)) == [0.0] * 4
    assert reward(["\\boxed{1}", "\\boxed{1}" + "x" * 9], answer=["1"] * 2) == [0.5, -0.5]  # characters will do
    assert reward(["\\boxed{1}"] * 2, answer=["$$"] * 2, **lengths(1, 2)) == [None, None]


@given(st.lists(st.tuples(st.integers(0, 50), st.booleans()), min_size=1, max_size=8))
def test_length_is_bounded_and_falls_with_length(group: list[tuple[int, bool]]) -> None:
    texts = ["\\boxed{1}" if right else "\\boxed{2}" for _, right in group]
    found = rewards.get("length")(texts, answer=["1"] * len(group), **lengths(*(length for length, _ in group)))
    scored = [(length, right, value or 0.0) for (length, right), value in zip(group, found, strict=True)]
    assert all(-0.5 <= value <= (0.5 if right else 0.0) for _, right, value in scored)
    for right in (True, False):
        values = [value for _, same, value in sorted(scored, key=lambda item: item[0]) if same == right]
        assert values == sorted(values, reverse=True)


# Tags, steps, repetition.


@given(st.text(alphabet="<think></think><answer></answer> \n", max_size=120))
def test_tag_count_is_in_quarters(text: str) -> None:
    assert rewards.get("tag_count")([text])[0] in (0.0, 0.25, 0.5, 0.75, 1.0)
    assert rewards.get("tag_count", form="as-shipped")([text])[0] in (0.0, 0.5, 1.0)


@pytest.mark.parametrize(
    ("text", "corrected", "shipped"),
    [
        ("<think>\nx\n</think>\n<answer>\n1\n</answer>", 1.0, 1.0),
        ("x\n</think>\n<answer>1</answer>", 0.75, 0.5),
        ("<think>x</think><answer>1</answer>", 1.0, 0.0),
        ("<think></think></think><answer>1</answer>", 0.75, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_tag_count(text: str, corrected: float, shipped: float) -> None:
    assert rewards.get("tag_count")([text]) == [corrected]
    assert rewards.get("tag_count", form="as-shipped")([text]) == [shipped]


@pytest.mark.parametrize(
    ("text", "corrected", "shipped"),
    [
        ("Step 1: a\nStep 2: b\nStep 3: c\nStep 4: d", 3, 3),
        ("First, a. Finally, b.", 2, 2),
        ("1. a\n2. b\n3. c", 3, 1),
        ("- a\n- b", 2, 1),
        ("So\n-5 and\n**bold**", 0, 2),
        ("3.5 apples", 0, 1),
        ("  1. a\n\t* b", 2, 0),
        ("", 0, 0),
    ],
)
def test_reasoning_steps(text: str, corrected: int, shipped: int) -> None:
    assert rewards.get("reasoning_steps")([text]) == [corrected / 3]
    assert rewards.get("reasoning_steps", form="as-shipped")([text]) == [shipped / 3]


@pytest.mark.parametrize(
    ("text", "n", "expected"),
    [
        ("this this this this this", 2, -0.75),
        ("this is a this is a test", 2, -1 / 3),
        ("A b C a B c", 3, -0.25),
        ("one two", 3, 0.0),
        ("", 1, 0.0),
        ("a a", 1, -0.5),
    ],
)
def test_repetition_penalty(text: str, n: int, expected: float) -> None:
    assert rewards.get("repetition_penalty", ngram_size=n)([text]) == pytest.approx([expected])
    assert rewards.get("repetition_penalty", ngram_size=n, form="as-shipped")([chat(text)]) == pytest.approx([expected])


@given(st.text(alphabet="ab \n", max_size=60), st.integers(1, 5), st.floats(-2, 0))
def test_repetition_penalty_is_bounded_and_grows_with_repetition(text: str, n: int, worst: float) -> None:
    reward = rewards.get("repetition_penalty", ngram_size=n, max_penalty=worst)
    once, often = (value or 0.0 for value in reward([text, f"{text} " * 50]))
    assert worst <= once <= 0.0 and worst <= often <= 0.0
    if len(text.split()) >= n:
        assert often <= 0.9 * worst


# Random, and the registry.


@given(st.lists(st.text(max_size=20), max_size=5), st.integers(0, 2**32 - 1))
def test_the_coin_belongs_to_the_text(texts: list[str], seed: int) -> None:
    coin = rewards.get("random", seed=seed)
    assert coin(texts) == [coin([chat(text)])[0] for text in texts]
    assert set(coin(texts)) <= {0.0, 1.0}


def test_the_coin_is_fair() -> None:
    texts = [f"completion {number}" for number in range(2000)]
    heads = rewards.get("random")(texts)
    assert 900 < heads.count(1.0) < 1100
    assert heads != rewards.get("random", seed=1)(texts)


def test_random_has_no_taste_for_a_completion() -> None:
    prompts = [[{"role": "user", "content": f"{number}+1=?"}] for number in range(400)]
    heads = rewards.get("random")(["\\boxed{4}"] * 400, prompts=prompts)
    assert 140 < sum(head or 0 for head in heads) < 260


def test_names() -> None:
    assert rewards.names() == [
        *("accuracy", "cosine", "format", "length", "random", "reasoning_steps", "repetition_penalty", "tag_count")
    ]
    for form in ("corrected", "as-shipped"):
        assert [rewards.get(name, form=form).__name__ for name in rewards.names()] == rewards.names()
        for name in rewards.names():
            columns = {"answer": ["1"] * 3, "completion_ids": [[1]] * 3, "prompts": ["?"] * 3, "level": [1] * 3}
            assert len(rewards.get(name, form=form)(["", "\\boxed{1}", chat("x")], **columns)) == 3
            assert rewards.get(name, form=form)([], answer=[], prompts=[], completion_ids=[]) == []


def test_every_reward_says_formula_range_and_source() -> None:
    for name, model in rewards.specs().items():
        text = inspect.getdoc(sys.modules[model.__module__]) or ""
        assert "Range" in text, name
        assert any(source in text for source in ("arXiv", "github.com")), name


@pytest.mark.parametrize(
    ("name", "params", "words"),
    [
        ("acuracy", {}, "unknown reward 'acuracy'; did you mean 'accuracy'?; known are"),
        ("format", {"anwser": "boxed"}, "unknown parameter 'anwser'; did you mean 'answer'?"),
        ("format", {"answer": "box"}, "answer"),
        ("format", {"weight": 2.0}, "unknown parameter 'weight'; it takes answer, form"),
        ("accuracy", {"strikt": True}, "unknown parameter 'strikt'; did you mean 'strict'?"),
        ("accuracy", {"strict": True, "form": "as-shipped"}, "no stricter rule was shipped"),
        ("accuracy", {"form": "shipped"}, "'corrected' or 'as-shipped', not 'shipped'"),
        ("cosine", {"max_len": 0}, "max_len"),
        ("cosine", {"cosine_max_len": 10}, "did you mean 'max_len'"),
        ("cosine", {"min_value_wrong": float("nan")}, "min_value_wrong"),
        ("repetition_penalty", {"max_penalty": 0.5}, "max_penalty: input should be less than or equal to 0, not 0.5"),
        ("repetition_penalty", {"ngram_size": 0}, "ngram_size"),
        ("repetition_penalty", {"n_gram_size": 3}, "did you mean 'ngram_size'"),
        ("repetition_penality", {}, "did you mean 'repetition_penalty'"),
    ],
)
def test_bad_names_and_parameters(name: str, params: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput) as caught:
        rewards.get(name, **params)
    assert words in str(caught.value) and "\n" not in str(caught.value)
