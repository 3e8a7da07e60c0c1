r"""Reasoning steps: a third for each sign of a step, up to three.

    min(1, n / 3)

with n the number of `Step 1:`, of items of a list (`1.`, `-`, `*` at the start of a line), and of `First,`, `Second,`,
`Next,`, `Finally,`. Range {0, ⅓, ⅔, 1}. Source: reasoning_steps of Open-R1 (github.com/huggingface/open-r1).

As shipped by Open-RS (github.com/knoveleng/open-rs at 2889c47): a number counts only at the very start of the
completion (`^` without its multi-line flag), and any `-` or `*` at the start of a line, of a negative number or of bold
type too, but not on the first line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice
from typing import Any, Literal

from openrs.rewards.base import Completion, CountTokens, RewardFunction, RewardSpec, text_of

_WORDS = r"Step \d+:|First,|Second,|Next,|Finally,"
_STEP = re.compile(rf"{_WORDS}|^[ \t]*(?:\d+\.(?!\d)|[-*](?=[ \t]))", re.MULTILINE)
_SHIPPED = re.compile(rf"{_WORDS}|^\d+\.|\n-|\n\*")
_ENOUGH = 3


class ReasoningStepsReward(RewardSpec):
    """A third for each sign of a step of reasoning, up to three of them."""

    type: Literal["reasoning_steps"]

    def function(self, count_tokens: CountTokens | None = None) -> RewardFunction:
        """See the module."""
        step = _SHIPPED if self.form == "as-shipped" else _STEP

        def reasoning_steps(completions: Sequence[Completion], **columns: Any) -> list[float | None]:
            texts = map(text_of, completions)
            return [sum(1 for _ in islice(step.finditer(text), _ENOUGH)) / _ENOUGH for text in texts]

        return reasoning_steps
