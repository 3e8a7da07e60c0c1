"""The rewards, by their definitions."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("math_verify")

from hypothesis import given, settings
from hypothesis import strategies as st

from openrs import rewards
from openrs.errors import BadInput
from openrs.rewards import verify
from openrs.rewards.cosine import scaled
from openrs.spec.experiment import CosineReward

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
        ("", "\\boxed{1}", None),
        ("$$", "\\boxed{1}", None),
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


@given(st.text(alphabet="\\boxed{} ab", max_size=60))
def test_the_last_box_is_balanced(text: str) -> None:
    box = verify.last_box(text)
    assert box is None or (box in text and box.startswith("\\boxed") and box.count("{") >= 1 and box.endswith("}"))


def test_last_box() -> None:
    assert verify.last_box("a \\boxed{1} b \\boxed {\\frac{1}{2}} c") == "\\boxed {\\frac{1}{2}}"
    assert verify.last_box("\\boxed{\\{1\\}}") == "\\boxed{\\{1\\}}"
    assert verify.last_box("\\boxed{1} \\boxed{2") == "\\boxed{1}"
    assert verify.last_box("\\boxed 1") is None


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
    with pytest.raises(ValueError, match="length in tokens"):
        rewards.get("cosine", max_len=10)(["\\boxed{1}"], answer=["1"])
    counted = rewards.get("cosine", max_len=9, count_tokens=len)(["\\boxed{1}"], answer=["1"])
    assert counted == pytest.approx([0.5])


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
    parameters: dict[str, dict[str, Any]] = {"cosine": {"max_len": 1}}
    assert rewards.names() == ["accuracy", "cosine", "format", "random"]
    assert [rewards.get(name, **parameters.get(name, {})).__name__ for name in rewards.names()] == rewards.names()


@pytest.mark.parametrize(
    ("name", "params", "words"),
    [
        ("acuracy", {}, "unknown reward 'acuracy'; did you mean 'accuracy'?; known are"),
        ("format", {"anwser": "boxed"}, "unknown parameter 'anwser'; did you mean 'answer'?"),
        ("format", {"answer": "box"}, "answer"),
        ("format", {"weight": 2.0}, "unknown parameter 'weight'; it takes answer"),
        ("accuracy", {"strict": True}, "unknown parameter 'strict'; it takes none"),
        ("cosine", {}, "max_len: missing"),
        ("cosine", {"max_len": 0}, "max_len"),
    ],
)
def test_bad_names_and_parameters(name: str, params: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput) as caught:
        rewards.get(name, **params)
    assert words in str(caught.value) and "\n" not in str(caught.value)
