"""Pairs of a gold answer and a completion, built from published problem sets: the same ones each time.

The directory holds JSON Lines files whose rows have a problem (`problem` or `question`), an answer (`answer`,
`final_answer` or a `solution` that ends in a box), and some of them a worked `solution`.
"""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any

SEED = 2503
LONG = 6_600
"""Characters of reasoning around a long completion: about what Open-RS's models write."""


@dataclass(frozen=True)
class Case:
    """One pair, and how it was made."""

    kind: str
    gold: str
    completion: str


def data_directory() -> Path | None:
    """Where the problem sets are: `$OPENRS_SHARED/data`, or None."""
    shared = os.environ.get("OPENRS_SHARED")
    directory = Path(shared) / "data" if shared else None
    return directory if directory is not None and any(directory.glob("*.jsonl")) else None


@cache
def golds(directory: Path) -> tuple[str, ...]:
    """Every gold answer."""
    found = [_answer(row) for row in _rows(directory)]
    return tuple(answer for answer in found if answer)


@cache
def reasoning(directory: Path) -> tuple[str, ...]:
    """Worked solutions without their boxes, strung together to `LONG` characters."""
    texts: list[str] = []
    parts: list[str] = []
    for row in _rows(directory):
        solution = row.get("solution")
        text = solution[0] if isinstance(solution, list) and solution else solution
        if isinstance(text, str):
            parts.append(re.sub(r"\\boxed\s*", "", text).replace("</think>", ""))
        if sum(map(len, parts)) >= LONG:
            texts.append("\n\nWait, let me check that again.\n\n".join(parts)[-LONG:])
            parts = []
    return tuple(texts)


def cases(directory: Path) -> Iterator[Case]:
    """All pairs: for every gold answer a right one, a wrong one, and in turn one of the other kinds."""
    rng = random.Random(SEED)
    answers = golds(directory)
    thoughts = cycle(reasoning(directory))
    others = cycle(_OTHERS.items())
    for gold in answers:
        yield Case("truth", gold, _tail(gold, rng))
        if rng.random() < 0.5:
            yield Case("near miss", gold, _tail(near_miss(gold, rng), rng))
        else:
            yield Case("another problem's answer", gold, _tail(rng.choice(answers), rng))
        kind, make = next(others)
        answer = gold if rng.random() < 0.6 else near_miss(gold, rng)
        # Every fifth of these costs as much as the rest together.
        thought = next(thoughts) if rng.random() < 0.2 else "First I try small cases. Then $2 + 3 = 5$ and so on."
        yield Case(kind, gold, make(answer, thought, rng))


def near_miss(answer: str, rng: random.Random) -> str:
    """`answer` with one thing changed."""
    digits = [match.start() for match in re.finditer(r"\d", answer)]
    ways: list[Callable[[], str]] = [lambda: f"-{answer}", lambda: answer + " + 1", lambda: f"2 \\cdot ({answer})"]
    if digits:
        at = rng.choice(digits)
        ways += [lambda: answer[:at] + str((int(answer[at]) + rng.randint(1, 9)) % 10) + answer[at + 1 :]] * 5
    return rng.choice(ways)()


def mangled(answer: str, rng: random.Random) -> str:
    """`answer` as a model might write it, well or badly."""
    ways: list[Callable[[str], str]] = [
        lambda text: text.replace("\\frac", "\\dfrac"),
        lambda text: text.replace("\\dfrac", "\\frac").replace("\\frac", "\\tfrac"),
        lambda text: re.sub(r"\\frac\{(\w)\}\{(\w)\}", r"\\frac\1\2", text),
        lambda text: re.sub(r"\\frac\{([^{}]*)\}\{([^{}]*)\}", r"\1/\2", text),
        lambda text: text.replace(" ", ""),
        lambda text: text.replace(" ", "\\, "),
        lambda text: re.sub(r"([+=-])", r" \1 ", text),
        lambda text: text.replace("(", "\\left(").replace(")", "\\right)") if "\\left" not in text else text,
        lambda text: text.replace("\\left", "").replace("\\right", ""),
        lambda text: f"\\text{{{text}}}",
        lambda text: f"\\mathbf{{{text}}}",
        lambda text: f"x = {text}",
        lambda text: f"{text} \\text{{ units}}",
        lambda text: f"{text}.",
        lambda text: f"{text}\\%",
        lambda text: f"{text}^\\circ",
        lambda text: f"\\${text}",
        lambda text: f"{{{text}}}",
        lambda text: text[:-1] if len(text) > 1 else text,
        lambda text: text + "}",
        lambda text: text.replace("{", "", 1),
        lambda text: text.replace("\\", ""),
        lambda text: text.replace("\\", "\\\\"),
        lambda text: text.replace("sqrt", "squareroot"),
        lambda text: re.sub(r"(\d)(\d{3})\b", r"\1,\2", text),
        lambda text: re.sub(r"(\d)(\d{3})\b", r"\1{,}\2", text),
        lambda text: text.upper(),
        lambda text: f"{text}, {text}",
        lambda text: f"{text} \\approx 3.14",
        lambda text: "\n" + text + "\n",
    ]
    return rng.choice(ways)(answer)


def _tail(answer: str, rng: random.Random) -> str:
    """A short completion that ends in the answer."""
    return rng.choice(
        [
            "Let me see.\n</think>\n\nThe answer is $\\boxed{%s}$.",
            "So it is.\n</think>\n<answer>\n\\boxed{%s}\n</answer>",
            "</think>\n**Solution.** We add the two and get\n\\[\\boxed{%s}\\]",
            "<think>hm</think>\\boxed{%s}",
            "Hence $x = \\boxed{%s}$ as was to be shown.",
            "\\boxed{%s}",
        ]
    ).replace("%s", answer)


def _long(answer: str, thought: str, rng: random.Random) -> str:
    return f"{thought}\n</think>\n\nTo sum up, after some steps we get $2 + 3 = 5$.\n\n**Answer**\n{_tail(answer, rng)}"


_OTHERS: dict[str, Callable[[str, str, random.Random], str]] = {
    "mangled LaTeX": lambda answer, thought, rng: _tail(mangled(answer, rng), rng),
    "long reasoning": _long,
    "long reasoning, mangled": lambda answer, thought, rng: _long(mangled(answer, rng), thought, rng),
    "final answer announced": lambda answer, thought, rng: (
        f"{thought}\n</think>\nThe final answer is ${answer}$. I hope it is correct."
    ),
    "no box": lambda answer, thought, rng: f"{thought}\n</think>\nTherefore it is ${answer}$.",
    "answer tag": lambda answer, thought, rng: f"{thought}\n</think>\n<answer>\n${answer}$\n</answer>",
    "two boxes": lambda answer,
    thought,
    rng: f"{thought}\n</think>\nFirst $\\boxed{{7}}$. Then, better, $\\boxed{{{answer}}}$.",
    "boxes joined": lambda answer,
    thought,
    rng: f"{thought}\n</think>\n$\\boxed{{{answer}}}$ and $\\boxed{{{answer}}}$",
    "reasoning cut": lambda answer, thought, rng: f"<think>{thought}\nSo I get $\\boxed{{{answer}}}$, but let me check",
    "reasoning cut, unmarked": lambda answer, thought, rng: f"{thought}\nSo I get {answer} and then",
    "box in the reasoning only": lambda answer,
    thought,
    rng: f"{thought} $\\boxed{{{answer}}}$\n</think>\nI am not sure.",
    "another box in the reasoning": lambda answer,
    thought,
    rng: f"Is it $\\boxed{{{answer}}}$? {thought}\n</think>\n$\\boxed{{0}}$",
}


@cache
def _rows(directory: Path) -> tuple[dict[str, Any], ...]:
    lines = [line for path in sorted(directory.glob("*.jsonl")) for line in path.read_text("utf-8").splitlines()]
    return tuple(json.loads(line) for line in lines if line.strip())


def _answer(row: dict[str, Any]) -> str:
    for name in ("answer", "final_answer", "solution"):
        value = row.get(name)
        if isinstance(value, list):
            value = value[0] if value else None
        if value is None:
            continue
        text = str(value).strip()
        if name == "solution":
            return text if "\\boxed" in text else ""
        return text[1:-1] if text.startswith("$") and text.endswith("$") and text.count("$") == 2 else text
    return ""
