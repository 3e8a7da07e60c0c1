"""Verdicts by math-verify 0.5.2, and by lighteval's metrics. The only file that calls it; runs in the pool's worker processes.

math-verify bounds its own work by SIGALRM (3 s for a parse, 3 s for a comparison), so it must be called in the main
thread: in any other one, every comparison is silently False. A long call in C outlasts the alarm: the pool kills then.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any, Literal, get_args

ExtractiveRule = Literal["extractive-expr", "extractive-latex", "extractive-choice"]
"""lighteval's `extractive_match` over a whole completion, for evaluation; the gold is an expression, LaTeX, or a choice."""

EXTRACTIVE: tuple[ExtractiveRule, ...] = get_args(ExtractiveRule)

Rule = Literal["math-verify", "strict", "as-shipped", "as-shipped-scaled"] | ExtractiveRule
"""How a pair is judged: gold first, as math-verify asks for it · the stricter rule · as the `accuracy` of Open-RS does it
· as its `cosine` and `length` do, whose configuration differs in how boxes are read · by lighteval."""


@lru_cache(maxsize=4096)
def gold(rule: Rule, text: str) -> tuple[Any, ...]:
    """What is read in a gold answer; empty where nothing is. Parsed once for all completions of a problem.

    What math-verify cannot parse it gives back as text, which equals nothing but itself: for its rule nothing is read then.
    """
    if rule in EXTRACTIVE:
        return (text,)  # what lighteval cannot read, it compares letter by letter
    from math_verify import LatexExtractionConfig, parse

    if rule in ("as-shipped", "as-shipped-scaled"):
        return tuple(parse(text, extraction_config=[LatexExtractionConfig()], extraction_mode="first_match"))
    if rule == "strict":
        from openrs.rewards.verifier import strict

        text = strict.plain(text)
    found = parse(text) or parse(text.strip("$"))
    read = rule == "strict" or any(not isinstance(one, str) for one in found)
    return tuple(found) if read else ()


def correct(rule: Rule, gold_text: str, answer: str, announced_only: bool) -> bool:
    """Whether an answer is equal to a gold answer in which something could be read."""
    if rule in EXTRACTIVE:
        from openrs.evaluation import extractive

        return extractive.correct(rule, gold_text, answer)
    if rule == "strict":
        from openrs.rewards.verifier import strict

        return strict.equal(gold_text, answer, announced_only)
    if rule == "math-verify":
        return matches(gold(rule, gold_text), read(answer, announced_only))
    from math_verify import parse, verify

    parsed = parse(answer, extraction_config=[_shipped(rule)], extraction_mode="first_match")
    # The order is the defect: the API wants the gold answer first.
    return bool(verify(parsed, list(gold(rule, gold_text))))


def read(answer: str, announced_only: bool = False) -> list[Any]:
    """What math-verify reads in an answer."""
    from math_verify import LatexExtractionConfig, parse

    if announced_only:
        return list(parse(answer, _announced()))
    if answer.startswith("$$\\boxed{"):
        # As plain text, a box that cannot be parsed would be searched for numbers: any entry of a matrix would do.
        return list(parse(answer, [LatexExtractionConfig()]))
    return list(parse(answer))


def matches(parsed_gold: tuple[Any, ...], parsed: list[Any]) -> bool:
    """Whether math-verify finds the two equal."""
    from math_verify import verify

    # The order matters: of an equation in the target, its right side alone is enough (`x = 5` for the gold `5`); with
    # the two exchanged, `1` would pass for the gold `2x + z = 1`.
    return bool(parsed) and bool(verify(list(parsed_gold), parsed))


@cache
def _announced() -> tuple[Any, ...]:
    """Reads only what is announced as the answer (`The answer is …`), not the last number of a text."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig

    return (
        LatexExtractionConfig(try_extract_without_anchor=False),
        ExprExtractionConfig(try_extract_without_anchor=False),
    )


@cache
def _shipped(rule: Rule) -> Any:
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig

    return LatexExtractionConfig(
        normalization_config=NormalizationConfig(
            nits=False,
            malformed_operators=False,
            basic_latex=True,
            equations=True,
            # `True` is no mode of this library's version: boxes in dollar signs are then not opened.
            boxed="all" if rule == "as-shipped" else True,
            units=True,
        ),
        boxed_match_priority=0,
        try_extract_without_anchor=False,
    )
