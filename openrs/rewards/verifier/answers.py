r"""Where in a completion its answer stands. Text only, in time proportional to its length; no math-verify.

- What comes after the last `</think>` is answer; a `<think>` that is never closed leaves none.
- Of that, the last `\boxed{…}` counts, else what the last `<answer>` holds, else all of it.
- A text without any of these marks is answer where it is one short paragraph. A longer one may be reasoning that was
  cut, whose last number is no answer: there only what is announced (`the final answer is …`) counts.

To parse this instead of the whole text gives math-verify's verdict on the whole text but for what these rules say. So a
box is cut out only where it is the only one and nothing near it would have taken part in math-verify's choice.
"""

from __future__ import annotations

import re
from typing import NamedTuple

PARAGRAPH = 2_000
"""A text without marks of one line and at most so many characters is taken for an answer, a longer one for reasoning."""

LONGEST = 20_000
"""Characters of an answer that are read: of a longer box none, of a longer text the last ones."""

TAIL = 200_000
"""Characters at the end of a completion in which its answer is looked for."""

_BOX = re.compile(r"\\f?box(?:ed)?\s*\{|\\.|[{}]", re.DOTALL)
_ANY_BOX = re.compile(r"\\(?:boxed|fbox)")
_ANNOUNCED = re.compile(r"final answer", re.IGNORECASE)
_PERCENT = re.compile(r"\s*(?:\\?\$|\\[\])])*\s*(?:\\?%|[Pp]ercent|[Pp]ct)")
_MATH = re.compile(r"(?<!\\)\$|\\\(|\\\[")
_DIGITS = r"(-?[1-9][0-9]{0,14}|0)"
_INTEGER = re.compile(rf"\$\$\\boxed\{{\s*{_DIGITS}\s*\}}\$\$|\${_DIGITS}\$|{_DIGITS}")
_PLAIN = re.compile(r"(?=.*[0-9])[^$\n]{0,199}[^$\n\\]")
_SENTENCE = re.compile(r"[^\W\d_]+(?:[\s'’,.;:-]+[^\W\d_]+)+[.!?]?")
_WORD = re.compile(r"[^\W\d_]{2,}")


class Answer(NamedTuple):
    """What of a text is to be parsed."""

    text: str
    """Empty where there is no answer."""
    announced_only: bool = False
    """Only an answer that is announced as such counts."""


def locate(completion: str, anywhere: bool = False) -> Answer:
    """The answer of a completion; with `anywhere`, a long text without marks may hold one too."""
    _, closed, rest = completion.rpartition("</think>")
    if not closed and "<think>" in completion:
        return Answer("")
    marked = _marked(rest[-TAIL:])
    if marked is not None:
        return Answer(marked)
    text = rest[-LONGEST:].strip()
    short = len(rest) <= LONGEST and "\n" not in text and len(text) <= PARAGRAPH
    return Answer(_as_math(text), announced_only=not (closed or short or anywhere))


def gold(text: str, words: bool = False) -> str:
    """A gold answer, or a solution that ends in one, as math-verify is to read it; with `words`, as one that knows words.

    A sentence stays bare, and nothing is read in it: between dollar signs its letters would be factors, in any order.
    """
    text = text.strip()
    if _ANY_BOX.search(text):
        return _bounded(_only_box(text) or text)
    if _MATH.search(text) or not text or (not words and _is_sentence(text)):
        return _bounded(text)
    return _bounded(f"${_without_currency(text)}$")


def integer(text: str) -> str | None:
    r"""The digits of an answer that is a plain whole number, bare or in `\boxed{}` or dollar signs; else None.

    Two of these are equal for math-verify if and only if their digits are (a test compares).
    """
    match = _INTEGER.fullmatch(text) if len(text) < 64 else None
    return None if match is None else match[match.lastindex or 0]


def same(gold: str, answer: str) -> bool:
    """Whether an answer is the gold one, character by character: a sentence, or what math-verify finds equal to itself.

    A line with a digit in it is never empty to math-verify, and equal texts are equal to it, parsed or not.
    """
    wanted, given = _bare(gold), _bare(answer)
    if _is_sentence(gold):
        return wanted in (given, given.removeprefix("\\text{").removesuffix("}"))
    return wanted == given and _PLAIN.fullmatch(wanted) is not None


def _bare(text: str) -> str:
    r"""The content of a box or of dollar signs around the whole of a text."""
    if text.startswith("$$\\boxed{") and text.endswith("}$$"):
        return text[len("$$\\boxed{") : -len("}$$")]
    return text[1:-1] if len(text) > 1 and text.startswith("$") and text.endswith("$") else text


def boxes(text: str) -> list[tuple[int, int]]:
    r"""Start and end of every whole `\boxed{…}`, its braces balanced, by their ends. Escaped braces do not count."""
    found: list[tuple[int, int]] = []
    open_braces: list[int | None] = []
    for match in _BOX.finditer(text):
        token = match[0]
        if token == "}":
            start = open_braces.pop() if open_braces else None
            if start is not None:
                found.append((start, match.end()))
        elif token == "{":
            open_braces.append(None)
        elif token.endswith("{") and token.startswith("\\boxed"):
            open_braces.append(match.start())
        elif token.endswith("{") and len(token) > 2:
            open_braces.append(None)
    return found


def last_box(text: str) -> str | None:
    r"""The last whole `\boxed{…}` of a text with its braces balanced, or None."""
    found = max(boxes(text), default=None)
    return None if found is None else text[found[0] : found[1]]


def _marked(rest: str) -> str | None:
    if _ANY_BOX.search(rest):
        box = last_box(rest)
        if box is not None:
            return _bounded(_only_box(rest) or rest[-LONGEST:])
    end = rest.rfind("</answer>")
    start = rest.rfind("<answer>", 0, end) if end >= 0 else -1
    if start >= 0:
        return _as_math(rest[start + len("<answer>") : end][-LONGEST:].strip())
    return None


def _only_box(text: str) -> str | None:
    """The box of a text in which nothing else could be what math-verify reads; None where something could."""
    if len(_ANY_BOX.findall(text)) != 1 or _ANNOUNCED.search(text):
        return None
    found = boxes(text)
    if len(found) != 1 or _PERCENT.match(text, found[0][1]):
        return None
    box = text[found[0][0] : found[0][1]]
    # Outside of dollar signs, math-verify reads the fractions in a box that it cannot parse.
    return box if "$" in box else f"$${box}$$"


def _bounded(text: str) -> str:
    return text if len(text) <= LONGEST else ""


def _as_math(text: str) -> str:
    r"""Bare LaTeX is read only between dollar signs; a box that is not closed is not read at all."""
    if _MATH.search(text) or _ANY_BOX.search(text):
        return text
    text = _without_currency(text)
    return f"${text}$" if "\\" in text else text


def _without_currency(text: str) -> str:
    r"""Without `\$`, which is money and no mark of mathematics: outside of dollar signs math-verify reads nothing behind it."""
    return text.replace("\\$", "")


def _is_sentence(text: str) -> bool:
    return len(text) <= PARAGRAPH and _SENTENCE.fullmatch(text) is not None and len(_WORD.findall(text)) > 1
