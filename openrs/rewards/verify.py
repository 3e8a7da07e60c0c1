"""Whether a completion's answer equals the gold one, by math-verify 0.5.2. The only file that calls it.

math-verify bounds its own work by SIGALRM (3 s for a parse, 3 s for a comparison), so it must be called in the main
thread: in any other one, every comparison is silently False.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import Any

_BOX = re.compile(r"\\boxed\s*\{")
_ANSWER_TAG = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)
_MATH = re.compile(r"\$|\\\(|\\\[")
_ONE_LINE = 200
"""An untagged text of one line and at most so many characters is taken for an answer, a longer one for reasoning."""


def is_correct(gold: str, completion: str) -> bool | None:
    """Whether `completion` ends in an answer equal to `gold`; None where `gold` cannot be parsed."""
    from math_verify import verify

    parsed = parse_gold(gold)
    if not parsed:
        return None
    answer = _parse_answer(completion)
    # The order matters: of an equation in the target, its right side alone is enough (`x = 5` for the gold `5`); with
    # the two exchanged, `1` would pass for the gold `2x + z = 1`.
    return bool(answer) and bool(verify(list(parsed), answer))


@lru_cache(maxsize=65536)
def parse_gold(gold: str) -> tuple[Any, ...]:
    """What math-verify reads in a gold answer or in a solution that ends in one; empty where it reads nothing."""
    from math_verify import parse

    box = last_box(gold)
    if box is not None:
        return tuple(parse(box))
    if not _MATH.search(gold):
        # Bare LaTeX is read only between dollar signs.
        return tuple(parse(f"${gold}$") or parse(gold))
    return tuple(parse(gold))


def answer_text(completion: str) -> tuple[str, bool]:
    r"""The part of a completion in which its answer must stand, and whether all of it is answer.

    What comes after the last `</think>` is answer; a `<think>` that is never closed leaves none. Of that, the last
    `\boxed{}` counts, else the last `<answer>`. A text without any of these is all answer only if it is one short
    line: else it may be reasoning that was cut, whose last number is no answer.
    """
    _, closed, rest = completion.rpartition("</think>")
    if not closed and "<think>" in completion:
        return "", False
    box = last_box(rest)
    if box is not None:
        return box, True
    tags = _ANSWER_TAG.findall(rest)
    if tags:
        return tags[-1], True
    text = rest.strip()
    return text, bool(closed) or ("\n" not in text and len(text) <= _ONE_LINE)


def last_box(text: str) -> str | None:
    r"""The last whole `\boxed{…}` of a text with its braces balanced, or None."""
    for match in reversed(list(_BOX.finditer(text))):
        end = _closing_brace(text, match.end())
        if end is not None:
            return text[match.start() : end]
    return None


def _closing_brace(text: str, start: int) -> int | None:
    """Index after the brace that closes the one before `start`; escaped braces do not count."""
    depth, index = 1, start
    while index < len(text):
        if text[index] == "\\":
            index += 2
            continue
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        index += 1
        if depth == 0:
            return index
    return None


def _parse_answer(completion: str) -> list[Any]:
    from math_verify import parse

    text, all_answer = answer_text(completion)
    if not text:
        return []
    if all_answer:
        bare = not _BOX.match(text) and not _MATH.search(text) and "\\" in text
        return list(parse(f"${text}$" if bare else text))
    return list(parse(text, _anchored()))


@cache
def _anchored() -> tuple[Any, ...]:
    """Reads only what is announced as the answer (`The answer is …`), not the last number of a text."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig

    return (
        LatexExtractionConfig(try_extract_without_anchor=False),
        ExprExtractionConfig(try_extract_without_anchor=False),
    )
