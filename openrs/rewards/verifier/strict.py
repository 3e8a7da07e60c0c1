r"""A stricter equality than math-verify's, which also knows what math-verify cannot read. Runs in the pool's workers.

Equal are, beyond what math-verify finds equal: words whatever their case (`Yes`, `yes`), an angle with and without its
degree sign, a number with and without a percent sign (`50`, `50\%`; `0.5`, `50\%` too, as in math-verify), what stands
in bold type (`**73**`), and the last number of a text without marks, which `answers` passes on for this rule.

Not equal are, though math-verify finds them so: numbers that differ by more than 1 in 10⁵ of their size where one of them
is a decimal, and at all where both are exact (1/2004! and 1/2006!, 2⁻⁹⁹ and 2⁻⁹⁸, 10⁻⁷ and 2·10⁻⁷); times of day or
ratios that differ (12:00 and 1:00); a list in parentheses and one in braces ((1,2) and {1,2}).
"""

from __future__ import annotations

import re
from typing import Any

from openrs.rewards.verifier import grade
from openrs.rewards.verifier.answers import last_box

DIGITS = 50
"""Digits to which exact numbers are computed to be compared."""

EXACT, DECIMAL = 1e-12, 1e-5
"""Largest difference of equal numbers, relative to their size: of two exact ones, and where one is a decimal."""

_DEGREES = re.compile(r"\s*(?:°|\^\s*\\circ\b|\^\s*\{\s*\\circ\s*\}|\\degree\b|(?:\\text\{\s*)?\bdegrees?\b(?:\s*\})?)")
_BOLD = re.compile(r"\*\*([^*\n]+)\*\*")
_PERCENT = re.compile(r"\s*(?:\\?%|\\text\{\s*percent\s*\}|\bpercent\b)")
_WRAPPED = re.compile(r"\\(?:text|mathrm|textbf|mathbf|boxed|fbox)\s*\{([^{}]*)\}")
_WORDS = re.compile(r"[^\W\d_]{2,}(?: [^\W\d_]+)*")
_COLON = re.compile(r"(\d+):(\d+)")
_LIST = {"(": "tuple", "[": "tuple", "{": "set"}


def plain(text: str) -> str:
    """`text` without degree signs and bold type."""
    return _BOLD.sub(r"\1", _DEGREES.sub("", text))


def equal(gold: str, answer: str, announced_only: bool) -> bool:
    """Whether an answer equals the gold one by this rule."""
    wanted, given = _bare(gold), _bare(answer)
    if _WORDS.fullmatch(wanted) and _WORDS.fullmatch(given):
        return wanted.casefold() == given.casefold()
    if _COLON.fullmatch(wanted) and _COLON.fullmatch(given):
        return _same_ratio(wanted, given)
    kinds = _kind(wanted), _kind(given)
    if None not in kinds and kinds[0] != kinds[1]:
        return False
    if _is_equal(plain(gold), plain(answer), announced_only):
        return True
    if bool(_PERCENT.search(gold)) == bool(_PERCENT.search(answer)):
        return False
    return _is_equal(_PERCENT.sub("", plain(gold)), _PERCENT.sub("", plain(answer)), announced_only)


def _is_equal(gold: str, answer: str, announced_only: bool) -> bool:
    wanted, given = grade.gold("math-verify", gold), grade.read(answer, announced_only)
    return grade.matches(wanted, given) and _close(wanted[0], given[0])


def _bare(text: str) -> str:
    r"""The content of the box, or of dollar signs, without spaces at its ends, `\text{}` and a last full stop."""
    box = last_box(text)
    text = text if box is None else box.partition("{")[2][:-1]
    text = plain(text).strip().strip("$").strip()
    before = ""
    while before != text:
        before, text = text, _WRAPPED.sub(r"\1", text)
    for command in (r"\left", r"\right", r"\ ", r"\,", r"\!"):
        text = text.replace(command, "")
    return text.strip().removesuffix(".").strip()


def _same_ratio(wanted: str, given: str) -> bool:
    (a, b), (c, d) = (map(int, text.split(":")) for text in (wanted, given))
    if (a, b) == (c, d):
        return True
    # With a leading zero after the colon it is a time of day, and 12:00 is not 6:00.
    return ":0" not in wanted + given and a * d == b * c and b != 0 and d != 0


def _kind(text: str) -> str | None:
    r"""What a list is by its outer brackets: `(…)` and `[…]` keep an order, `\{…\}` does not; None for anything else."""
    text = text.replace(r"\{", "{").replace(r"\}", "}")
    pairs = {"(": ")]", "[": ")]", "{": "}"}
    if len(text) < 3 or "," not in text or text[0] not in pairs or text[-1] not in pairs[text[0]]:
        return None
    return _LIST[text[0]]


def _close(wanted: Any, given: Any) -> bool:
    """Whether numbers, and the numbers in lists of equal form, are as near as their size asks for."""
    from sympy import Eq, FiniteSet, Interval, Tuple

    if isinstance(given, Eq) and not isinstance(wanted, Eq):
        given = given.rhs
    if isinstance(wanted, Eq) and not isinstance(given, Eq):
        wanted = wanted.rhs
    lists = (FiniteSet, Tuple, Interval)
    if isinstance(wanted, lists) and isinstance(given, lists):
        return _close_lists(wanted, given)
    if not (getattr(wanted, "is_number", False) and getattr(given, "is_number", False)):
        return True
    tolerance = DECIMAL if _has_decimal(wanted) or _has_decimal(given) else EXACT
    a, b = wanted.evalf(DIGITS), given.evalf(DIGITS)
    if not (a.is_number and b.is_number and a.is_finite and b.is_finite):
        return bool(wanted == given)
    size = max(abs(a), abs(b))
    return bool(size == 0 or abs(a - b) <= tolerance * size)


def _close_lists(wanted: Any, given: Any) -> bool:
    from sympy import FiniteSet, Interval

    a, b = (list(one.args[:2]) if isinstance(one, Interval) else list(one.args) for one in (wanted, given))
    if len(a) != len(b):
        return True
    if isinstance(wanted, FiniteSet) or isinstance(given, FiniteSet):
        return all(any(_close(one, other) for other in b) for one in a)
    return all(_close(one, other) for one, other in zip(a, b, strict=True))


def _has_decimal(value: Any) -> bool:
    from sympy import Float

    return bool(value.has(Float))
