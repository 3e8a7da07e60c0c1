"""Whether completions' answers equal the gold ones: what the rewards and the evaluation ask of the verifier.

Whole numbers, most answers there are, are compared here, and answers that are the gold one to the letter; all else goes
to this process's pool of workers. May be called from any thread.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Self

from pydantic import model_validator

from openrs.rewards.base import Completion, RewardSpec, golds_of, text_of
from openrs.rewards.verifier import answers, pool
from openrs.rewards.verifier.grade import Rule
from openrs.rewards.verifier.pool import Pair, Verdict

_tally: Counter[str] = Counter()
_tally_lock = threading.Lock()


class JudgedSpec(RewardSpec):
    """A reward that depends on whether the answer is right."""

    strict: bool = False
    """Compare by the stricter rule, which closes what math-verify is known to get wrong."""

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if self.strict and self.form == "as-shipped":
            raise ValueError("strict: no stricter rule was shipped; use form corrected with it")
        return self

    def verdicts(
        self, completions: Sequence[Completion], columns: dict[str, Any], shipped: Rule = "as-shipped-scaled"
    ) -> list[bool | None]:
        """Whether each completion is right; None where the gold answer cannot be read."""
        if self.form == "as-shipped":
            golds, rule = golds_of(columns, len(completions), ("solution", "answer")), shipped
        else:
            golds, rule = golds_of(columns, len(completions)), "strict" if self.strict else "math-verify"
        return [verdict.correct for verdict in judge(golds, list(map(text_of, completions)), rule)]


def is_correct(gold: str, completion: str) -> bool | None:
    """Whether `completion` ends in an answer equal to `gold`; None where `gold` cannot be parsed."""
    return judge([gold], [completion])[0].correct


def judge(
    golds: Sequence[str],
    completions: Sequence[str],
    rule: Rule = "math-verify",
    run: Callable[[Sequence[Pair]], list[Verdict]] | None = None,
) -> list[Verdict]:
    """The verdict of each completion. `run` judges pairs in another way than by this process's pool."""
    verdicts: dict[int, Verdict] = {}
    pairs: dict[Pair, list[int]] = {}
    for index, (gold, completion) in enumerate(zip(golds, completions, strict=True)):
        found = _pair(gold, completion, rule)
        if isinstance(found, Verdict):
            verdicts[index] = found
        else:
            pairs.setdefault(found, []).append(index)
    asked = (run or pool.shared().judge)(list(pairs)) if pairs else []
    for indices, verdict in zip(pairs.values(), asked, strict=True):
        verdicts |= dict.fromkeys(indices, verdict)
    unscorable = sum(verdict.correct is None for verdict in verdicts.values())
    over_limit = sum(verdict.limit is not None for verdict in verdicts.values())
    with _tally_lock:
        _tally.update(judged=len(verdicts), unscorable=unscorable, over_limit=over_limit)
    return [verdicts[index] for index in range(len(verdicts))]


def take_tally() -> dict[str, float]:
    """Of the completions judged since the last call, the shares that could not be judged, by reason; empty for none.

    `unscorable`: the gold answer cannot be read. `over_limit`: given up for time or memory.
    """
    with _tally_lock:
        judged = _tally["judged"]
        shares = {name: _tally[name] / judged for name in ("unscorable", "over_limit")} if judged else {}
        _tally.clear()
    return shares


def _pair(gold: str, completion: str, rule: Rule) -> Pair | Verdict:
    """What the pool has to compare, or the verdict where there is nothing to compare."""
    if rule not in ("math-verify", "strict"):
        return Pair(rule, gold, completion)  # its code looks at all of it
    wanted, answer = answers.gold(gold, words=rule == "strict"), answers.locate(completion, anywhere=rule == "strict")
    if not wanted:
        return Verdict(None)
    number = answers.integer(wanted)
    if number is not None:
        given = answers.integer(answer.text)
        if given is not None or not answer.text:
            return Verdict(number == given)
    if answers.same(wanted, answer.text):
        return Verdict(True)
    return Pair(rule, wanted, answer.text, answer.announced_only)
