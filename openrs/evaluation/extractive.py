"""`extractive_match` of lighteval 0.8.1: the only file that calls its metrics; runs in the pool's worker processes.

lighteval bounds its own work by SIGALRM, so it must be called in the main thread; a long call in C outlasts the alarm, and
the pool kills then.
"""

from __future__ import annotations

import logging
import re
from functools import cache
from typing import Any

_MATH = re.compile(r"\$|\\\(|\\\[|\\boxed|\\fbox")


def preload() -> None:
    """Imports lighteval's metrics and uses each once: what they load then is no answer's fault."""
    logging.disable(logging.WARNING)  # it tells of every answer in which it finds nothing
    for rule, gold, text in (
        ("extractive-expr", "3", "$\\boxed{3}$"),
        ("extractive-latex", "$\\frac{1}{2}$", "$\\boxed{\\frac{1}{2}}$"),
        ("extractive-choice", "B/4", "Answer: B"),
    ):
        if not correct(rule, gold, text):
            raise ImportError(f"lighteval's metric for {rule} finds {text} wrong")


def correct(rule: str, gold: str, text: str) -> bool:
    """Whether lighteval's metric finds in `text` an answer equal to `gold`.

    The gold answer of a choice is `B/4`: its letter, and how many there are.
    """
    from lighteval.tasks.requests import Doc

    if rule == "extractive-choice":
        letter, _, count = gold.partition("/")
        letters = [chr(ord("A") + number) for number in range(int(count))]
        doc, golds = Doc(query="", choices=letters, gold_index=letters.index(letter)), [letter]
    else:
        if rule == "extractive-latex" and not _MATH.search(gold):
            gold = f"${gold}$"  # bare LaTeX is not looked for
        doc, golds = Doc(query="", choices=[gold], gold_index=0), [gold]
    found = metric(rule).compute(golds=golds, predictions=[text], formatted_doc=doc)
    return bool(found["extractive_match"])


@cache
def metric(rule: str) -> Any:
    """Lighteval's metric for a rule; for one that is not lighteval's, the one of MATH-500, which is then not used."""
    from lighteval.metrics.metrics import Metrics

    names = {
        "extractive-expr": Metrics.expr_gold_metric,
        "extractive-latex": Metrics.latex_gold_metric,
        "extractive-choice": Metrics.gpqa_instruct_metric,
    }
    return names.get(rule, Metrics.latex_gold_metric).value
